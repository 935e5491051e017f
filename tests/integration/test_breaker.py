"""The relays' circuit breakers: who may open, probe and close them, for how long; on both databases."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from outbox import breaker
from outbox.breaker import Breaker, Standing
from outbox.models import EmailRelay
from outbox.relay import Report
from outbox.settings import Settings
from outbox.states import Outcome, RelayState, Stage
from tests.rows import from_now

BASE = 60.0
SETTINGS = Settings.load(outbox_relays="smtp://one.example smtp://two.example", outbox_retry_base_seconds=BASE)
ONE, TWO = SETTINGS.endpoints

SENT = Report(Outcome.SENT, Stage.DOT, 250, "2.0.0 queued")
DOWN = Report(Outcome.RELAY_DOWN, Stage.CONNECT, None, "Connection refused")
WRONG = Report(Outcome.RELAY_MISCONFIGURED, Stage.AUTH, 535, "5.7.8 no")
BUSY = Report(Outcome.THROTTLED, Stage.MAIL, 421, "4.7.0 too many connections")
LOST = Report(Outcome.DEFERRED, Stage.MAIL, None, "Connection unexpectedly closed")
UNCERTAIN = Report(Outcome.UNCERTAIN, Stage.DOT, None, "timed out")
REFUSED_SENDER = Report(Outcome.REJECTED, Stage.MAIL, 550, "5.7.1 not you", sender_refused=True)


@pytest.fixture
def process(engine: sa.Engine) -> Breaker:
    return Breaker(engine, SETTINGS, "worker-1")


def standing(engine: sa.Engine, name: str = ONE.name) -> Standing:
    with engine.connect() as connection:
        return breaker.standings(connection, SETTINGS.endpoints)[name]


def change(engine: sa.Engine, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(EmailRelay).values(**values))


def probe(engine: sa.Engine, token: str = "probe") -> bool:
    with engine.begin() as connection:
        return breaker.take_probe(connection, ONE.name, token, 120)


def look(process: Breaker) -> None:
    with process._engine.connect() as connection:
        process.look(connection)


def near(seconds: float) -> Any:
    return pytest.approx(seconds, abs=5)


def test_the_first_relay_is_used_until_it_is_in_trouble(engine: sa.Engine, process: Breaker) -> None:
    assert process.choose("t", None) == ONE
    process.learn(ONE, DOWN, "t")
    assert process.choose("t", None) == TWO
    process.learn(TWO, DOWN, "t")
    assert process.choose("t", None) is None


def test_a_mail_that_one_relay_may_have_goes_to_no_other(process: Breaker) -> None:
    assert process.choose("t", TWO.name) == TWO
    process.learn(TWO, DOWN, "t")
    assert process.choose("t", TWO.name) is None
    why, seconds = process.why_not(TWO.name)
    assert "connect: Connection refused" in why
    assert seconds == near(BASE)


def test_nothing_is_written_while_all_is_well(engine: sa.Engine, process: Breaker) -> None:
    for report in (SENT, LOST, UNCERTAIN, Report(Outcome.DEFERRED, Stage.RCPT, 451, "later"), REFUSED_SENDER):
        process.learn(ONE, report, "t")
    with engine.connect() as connection:
        assert connection.execute(sa.select(EmailRelay)).all() == []


def test_other_processes_know_within_seconds(
    engine: sa.Engine, process: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Breaker(engine, SETTINGS, "worker-2")
    assert other.choose("t", None) == ONE
    process.learn(ONE, DOWN, "t")
    assert other.choose("t", None) == ONE
    monkeypatch.setattr(breaker, "LOOK_SECONDS", 0)
    assert other.choose("t", None) == TWO


def test_many_conversations_meet_the_same_trouble_once(engine: sa.Engine) -> None:
    processes = [Breaker(engine, SETTINGS, f"worker-{number}") for number in range(4)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: processes[number % 4].learn(ONE, DOWN, "t"), range(16)))
    assert standing(engine).failures == 1
    assert standing(engine).seconds_left == near(BASE)


@pytest.mark.parametrize(
    ("report", "state", "pauses", "latched"),
    [
        (DOWN, RelayState.OPEN, [60, 120, 240, 480, 600, 600, 600, 600], False),
        (WRONG, RelayState.OPEN, [900, 900, 900], True),
        (BUSY, RelayState.CLOSED, [10, 20, 40, 80, 160, 320, 600, 600, 600], False),
    ],
    ids=lambda value: getattr(value, "outcome", None),
)
def test_pauses_grow_while_nothing_goes_well(
    engine: sa.Engine, process: Breaker, report: Report, state: RelayState, pauses: list[float], *, latched: bool
) -> None:
    for seconds in pauses:
        process.learn(ONE, report, "probe")
        found = standing(engine)
        assert (found.state, found.latched, found.changed_by) == (state, latched, "worker-1")
        assert found.seconds_left == near(seconds)
        assert not found.available
        assert not found.wants_probe
        change(engine, paused_until=from_now(-1))
        assert standing(engine).available == (state is RelayState.CLOSED)
        assert probe(engine) == (state is RelayState.OPEN)
    look(process)
    process.learn(ONE, SENT, "probe")
    assert standing(engine).available
    assert standing(engine).failures == 0


class TestProbe:
    """One mail tries."""

    @pytest.fixture(autouse=True)
    def _its_pause_is_over(self, engine: sa.Engine, process: Breaker) -> None:
        process.learn(ONE, DOWN, "t")
        change(engine, paused_until=from_now(-1))

    def test_is_wanted_when_the_pause_is_over_and_taken_once(self, engine: sa.Engine) -> None:
        assert standing(engine).wants_probe
        with ThreadPoolExecutor(4) as threads:
            taken = list(threads.map(lambda number: probe(engine, f"p{number}"), range(4)))
        assert sorted(taken) == [False, False, False, True]
        assert not standing(engine).wants_probe

    def test_its_claim_goes_to_that_relay_and_others_do_not(self, engine: sa.Engine, process: Breaker) -> None:
        probe(engine)
        look(process)
        assert process.choose("probe", None) == ONE
        assert process.choose("another", None) == TWO

    def test_a_mail_that_may_not_go_there_takes_its_own_way(self, engine: sa.Engine, process: Breaker) -> None:
        """Else it would be held, and be the probe again when that is over, for as long as no other mail is due."""
        probe(engine)
        look(process)
        assert process.choose("probe", TWO.name) == TWO
        process.learn(TWO, DOWN, "t")
        assert process.choose("probe", TWO.name) is None

    @pytest.mark.parametrize("outcome", [Outcome.SENT, Outcome.DEFERRED, Outcome.REJECTED])
    def test_an_answer_of_any_kind_closes_the_circuit(
        self, engine: sa.Engine, process: Breaker, outcome: Outcome
    ) -> None:
        probe(engine)
        look(process)
        process.learn(ONE, Report(outcome, Stage.DOT, 250, "..."), "probe")
        assert standing(engine) == Standing(ONE.name, changed_at=standing(engine).changed_at, changed_by="worker-1")

    def test_only_its_own_answer_does(self, engine: sa.Engine, process: Breaker) -> None:
        probe(engine)
        look(process)
        process.learn(ONE, SENT, "somebody who was in the middle of a conversation")
        process.learn(ONE, DOWN, "somebody else")
        assert standing(engine).state is RelayState.HALF_OPEN
        assert standing(engine).failures == 1

    @pytest.mark.parametrize("report", [LOST, UNCERTAIN], ids=lambda report: report.outcome)
    def test_that_is_left_without_an_answer_found_it_down(
        self, engine: sa.Engine, process: Breaker, report: Report
    ) -> None:
        probe(engine)
        look(process)
        process.learn(ONE, report, "probe")
        process.give_probe_back("probe")
        found = standing(engine)
        assert (found.state, found.failures, found.seconds_left) == (RelayState.OPEN, 2, near(2 * BASE))

    def test_that_is_never_heard_of_again_is_followed_by_another(self, engine: sa.Engine) -> None:
        assert probe(engine, "lost")
        change(engine, paused_until=from_now(-1))
        assert standing(engine).wants_probe
        assert probe(engine, "next")

    def test_that_learned_nothing_lets_another_go_at_once(self, engine: sa.Engine, process: Breaker) -> None:
        probe(engine)
        look(process)
        process.give_probe_back("another")
        assert standing(engine).state is RelayState.HALF_OPEN
        process.give_probe_back("probe")
        assert standing(engine).wants_probe


def test_trouble_with_the_settings_is_latched_on_top_of_being_down(engine: sa.Engine, process: Breaker) -> None:
    process.learn(ONE, DOWN, "t")
    process.learn(ONE, WRONG, "t")
    assert standing(engine).latched
    process.learn(ONE, DOWN, "t")
    assert standing(engine).latched


def test_a_straggler_does_not_close_what_another_opened(engine: sa.Engine, process: Breaker) -> None:
    process.learn(ONE, DOWN, "t")
    process.learn(ONE, SENT, "t")
    assert standing(engine).state is RelayState.OPEN


class TestPerson:
    """What a person says holds until a person says otherwise."""

    @pytest.mark.parametrize("before", [None, DOWN, WRONG, BUSY])
    def test_pauses_and_resumes(self, engine: sa.Engine, process: Breaker, before: Report | None) -> None:
        if before:
            process.learn(ONE, before, "t")
        with engine.begin() as connection:
            breaker.pause(connection, ONE.name, "moving house", "ada")
        look(process)
        for report in (SENT, DOWN, WRONG, BUSY):
            process.learn(ONE, report, "t")
        found = standing(engine)
        assert (found.state, found.reason, found.changed_by) == (RelayState.PAUSED, "moving house", "ada")
        assert not probe(engine)
        assert process.choose("t", None) == TWO
        with engine.begin() as connection:
            assert breaker.resume(connection, ONE.name, "bob")
        look(process)
        assert process.choose("t", None) == ONE
        assert standing(engine).changed_by == "bob"

    def test_resumes_what_is_latched(self, engine: sa.Engine, process: Breaker) -> None:
        process.learn(ONE, WRONG, "t")
        with engine.begin() as connection:
            assert breaker.resume(connection, ONE.name, "ada")
            assert not breaker.resume(connection, ONE.name, "ada")
            assert not breaker.resume(connection, TWO.name, "ada")
        assert standing(engine).available
        assert not standing(engine).latched


class TestRefusedSenders:
    """Two mails may have a bad sender; three in a row are not the mails' fault."""

    def test_the_third_is_the_relays(self, process: Breaker) -> None:
        outcomes = [process.weigh(ONE, REFUSED_SENDER).outcome for _ in range(4)]
        assert outcomes == [Outcome.REJECTED] * 2 + [Outcome.RELAY_MISCONFIGURED] * 2

    def test_a_mail_whose_sender_is_welcome_ends_the_row(self, process: Breaker) -> None:
        for between in (SENT, Report(Outcome.REJECTED, Stage.RCPT, 550, "5.1.1 who?")):
            for _ in range(2):
                assert process.weigh(ONE, REFUSED_SENDER) == REFUSED_SENDER
            assert process.weigh(ONE, between) == between

    def test_each_relay_has_a_row_of_its_own(self, process: Breaker) -> None:
        for endpoint in (ONE, TWO, ONE, TWO):
            assert process.weigh(endpoint, REFUSED_SENDER) == REFUSED_SENDER
        assert process.weigh(ONE, SENT) == SENT
        assert process.weigh(TWO, REFUSED_SENDER).outcome is Outcome.RELAY_MISCONFIGURED


def test_a_relay_may_rest_although_nothing_is_wrong(engine: sa.Engine, process: Breaker) -> None:
    process.rest(ONE, 1800, "its rate, 100 per 1 hour, is used up", "t")
    assert process.choose("t", None) == TWO
    assert standing(engine).seconds_left == near(1800)
    assert standing(engine).state is RelayState.CLOSED
