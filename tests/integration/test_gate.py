"""What stands between a claimed mail and the relay: which relay, whether at all, and if not, why; on both databases."""

import threading
import time
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from outbox import breaker, claims, fence, suppressions
from outbox.chunk import Composer, Mail
from outbox.claims import Begin
from outbox.delivery import Courier
from outbox.drain import CLAIM_LEASE, drain, next_look, obstacle
from outbox.gate import FENCE_SECONDS, LAST_TURN, Turns
from outbox.models import EmailEnvironment, EmailRelay, EmailSuppression, QueuedEmail
from outbox.rates import Rates, Wait
from outbox.settings import Settings
from outbox.states import Outcome, Priority, RelayState, Status
from tests import rows
from tests.delivering import ADA, BOB, DEE, at, claim, deliver, make_due, queue, seconds_until, settings_for
from tests.servers import free_port
from tests.smtp_script import Drop, Reply
from tests.smtp_server import SmtpServer

REFUSED = Reply(550, "5.1.1 no such user")


def settings_for_both(one: SmtpServer | int, two: SmtpServer | int, **values: Any) -> Settings:
    """Two relays, in this order; a number is a port where nobody listens."""
    ports = [where if isinstance(where, int) else where.port for where in (one, two)]
    timeouts = {"smtp_connect_timeout": 5, "smtp_timeout": 5, "smtp_dot_timeout": 5, "outbox_lease_seconds": 60}
    relays = " ".join(f"smtp://127.0.0.1:{port}" for port in ports)
    return Settings.load(outbox_relays=relays, smtp_from_email="shop@example.com", **(timeouts | values))


def relay(engine: sa.Engine, settings: Settings, number: int = 0) -> breaker.Standing:
    with engine.connect() as connection:
        return list(breaker.standings(connection, settings.endpoints).values())[number]


def end_pauses(engine: sa.Engine) -> None:
    """Let the time until the next probe pass."""
    with engine.begin() as connection:
        connection.execute(sa.update(EmailRelay).values(paused_until=rows.from_now(-1)))


def recipients(server: SmtpServer) -> list[str]:
    return [mail.recipient for mail in server.mails]


# --- Which relay


def test_mail_goes_to_the_next_relay_while_the_first_is_down(engine: sa.Engine) -> None:
    with SmtpServer() as two:
        settings = settings_for_both(free_port(), two)
        ids = [queue(engine, settings)[0] for _ in range(4)]
        assert deliver(engine, settings) == {Status.PENDING: 1, Status.SENT: 3}
        make_due(engine)
        assert deliver(engine, settings) == {Status.SENT: 1}
        assert len(two.mails) == 4
    assert rows.row(engine, ids[0]).attempts == 1
    assert [(line.outcome, line.relay) for line in rows.attempts(engine, ids[0])] == [
        ("relay_down", settings.endpoints[0].name),
        ("sent", settings.endpoints[1].name),
    ]


def test_and_back_to_the_first_when_one_mail_found_it_well(engine: sa.Engine) -> None:
    with SmtpServer() as one, SmtpServer() as two:
        settings = settings_for_both(one, two)
        rows.add(engine, 3)
        with engine.begin() as connection:
            breaker.pause(connection, settings.endpoints[0].name, "test", "ada")
            connection.execute(
                sa.update(EmailRelay).values(state="open", reason="connect: refused", paused_until=rows.from_now(-1))
            )
        assert deliver(engine, settings) == {Status.SENT: 3}
        assert (len(one.mails), len(two.mails)) == (3, 0)
        assert relay(engine, settings).available


class TestUncertainMail:
    """What one relay may have taken goes to no other."""

    def test_waits_for_its_relay(self, engine: sa.Engine) -> None:
        with SmtpServer() as one, SmtpServer(at("DOT", Drop(accept=True))) as two:
            settings = settings_for_both(one, two)
            with engine.begin() as connection:
                breaker.pause(connection, settings.endpoints[0].name, "moving house", "ada")
            (id_,) = queue(engine, settings)
            deliver(engine, settings)
            assert rows.row(engine, id_).relay == settings.endpoints[1].name
            with engine.begin() as connection:
                breaker.resume(connection, settings.endpoints[0].name, "ada")
                breaker.pause(connection, settings.endpoints[1].name, "moving house", "ada")
            make_due(engine)
            assert deliver(engine, settings) == {Status.PENDING: 1}
            row = rows.row(engine, id_)
            assert (row.status, row.attempts, row.claims) == ("pending", 1, 1)
            assert "moving house" in row.waiting_for
            assert row.relay == settings.endpoints[1].name
            assert 50 < seconds_until(row.next_attempt_at) < 61
            assert not one.mails

            with engine.begin() as connection:
                breaker.resume(connection, settings.endpoints[1].name, "ada")
            two.script = lambda event: None
            make_due(engine)
            assert deliver(engine, settings) == {Status.SENT: 1}
            assert (len(one.mails), len(two.mails)) == (0, 2)
            assert (rows.row(engine, id_).relay, rows.row(engine, id_).waiting_for) == (None, None)

    def test_stays_with_its_relay_though_that_deferred_it_since(self, engine: sa.Engine) -> None:
        with SmtpServer() as one, SmtpServer(at("RCPT", Reply(451, "4.2.0 later"))) as two:
            settings = settings_for_both(one, two)
            (id_,) = rows.add(engine, relay=settings.endpoints[1].name)
            deliver(engine, settings)
            row = rows.row(engine, id_)
            assert (row.status, row.attempts, row.relay) == ("pending", 1, settings.endpoints[1].name)
            assert not one.mails

    def test_is_for_a_person_when_its_relay_is_gone_from_the_settings(self, engine: sa.Engine) -> None:
        with SmtpServer() as server:
            (id_,) = rows.add(engine, relay="old.example:25")
            assert deliver(engine, settings_for(server)) == {Status.UNCERTAIN: 1}
            assert not server.mails
        row = rows.row(engine, id_)
        assert (row.status, row.relay) == ("uncertain", "old.example:25")
        assert "old.example:25" in row.last_error


# --- The breaker


def test_nothing_is_claimed_while_no_relay_takes_mail(engine: sa.Engine) -> None:
    ids = rows.add(engine, 3)
    with SmtpServer() as server:
        settings = settings_for(server, smtp_port=free_port())
        deliver(engine, settings)
        assert deliver(engine, settings) == {}
        assert 50 < (next_look(engine, settings) or 0) <= 60
        assert "no relay takes mail" in str(obstacle(engine, settings))
    assert [rows.row(engine, id_).claims for id_ in ids] == [1, 0, 0]


def test_one_mail_tries_and_the_others_follow_it(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        settings = settings_for(server)
        high, *_ = rows.add(engine, 3, priority=Priority.HIGH)
        low, *_ = rows.add(engine, 3, priority=Priority.LOW)
        with engine.begin() as connection:
            breaker.pause(connection, settings.endpoints[0].name, "test", "ada")
            connection.execute(sa.update(EmailRelay).values(state="open", paused_until=rows.from_now(-1)))
        with closing(Courier(engine, settings, "worker-1")) as courier:
            chunks: list[tuple[list[int], str]] = []
            assert drain(engine, settings, "worker-1", lambda _, ids, token: chunks.append((ids, token))) == 1
            assert drain(engine, settings, "worker-2", lambda *_: pytest.fail("a second probe")) == 0
            assert [ids for ids, _ in chunks] == [[low]]
            assert relay(engine, settings).state is RelayState.HALF_OPEN
            assert (next_look(engine, settings) or 0) > 50  # when the probe would count as lost
            assert courier.deliver(*chunks[0]) == {Status.SENT: 1}
        assert next_look(engine, settings) == 0
        assert deliver(engine, settings) == {Status.SENT: 5}
    assert rows.row(engine, high).status == "sent"


def test_a_probe_that_fails_is_one_try_and_a_longer_pause(engine: sa.Engine) -> None:
    ids = rows.add(engine, 3)
    with SmtpServer() as server:
        settings = settings_for(server, smtp_port=free_port())
        deliver(engine, settings)
        end_pauses(engine)
        assert deliver(engine, settings) == {Status.PENDING: 1}
    assert [rows.row(engine, id_).claims for id_ in ids] == [1, 1, 0]
    assert [rows.row(engine, id_).attempts for id_ in ids] == [0, 0, 0]
    found = relay(engine, settings)
    assert (found.state, found.failures) == (RelayState.OPEN, 2)
    assert 100 < (found.seconds_left or 0) <= 120


def test_a_probe_that_has_nothing_to_say_is_followed_by_another(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        settings = settings_for(server)
        rows.add(engine, expires_at=rows.from_now(-1))
        (last,) = rows.add(engine)
        with engine.begin() as connection:
            breaker.pause(connection, settings.endpoints[0].name, "test", "ada")
            connection.execute(sa.update(EmailRelay).values(state="open", paused_until=rows.from_now(-1)))
        assert deliver(engine, settings) == {Status.DEAD: 1}
        assert next_look(engine, settings) == 0  # or a backlog of those would keep the relay shut, a beat each
        assert deliver(engine, settings) == {Status.SENT: 1}
    assert rows.row(engine, last).status == "sent"


def test_a_probe_that_nobody_took_up_is_followed_by_one_of_another_lane(engine: sa.Engine) -> None:
    """Its lane may have no worker; the relay must not stay shut for the others."""
    (high,) = rows.add(engine, priority=Priority.HIGH)
    low, _ = rows.add(engine, 2, priority=Priority.LOW)
    with SmtpServer() as server:
        settings = settings_for(server)
        with engine.begin() as connection:
            breaker.pause(connection, settings.endpoints[0].name, "test", "ada")
            connection.execute(sa.update(EmailRelay).values(state="open", paused_until=rows.from_now(-1)))
        tried: list[int] = []
        drain(engine, settings, "worker-1", lambda _lane, ids, _token: tried.extend(ids))
        end_pauses(engine)
        drain(engine, settings, "worker-1", lambda _lane, ids, _token: tried.extend(ids))
    assert tried == [low, high]


def test_a_pause_by_a_person_reaches_the_chunk_in_hand(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "LOOK_SECONDS", 0)
    ids = rows.add(engine, 5)
    with SmtpServer() as server:
        settings = settings_for(server)

        def script(event: Any) -> None:
            if event.verb == "DOT" and not server.mails:
                with engine.begin() as connection:
                    breaker.pause(connection, settings.endpoints[0].name, "stop!", "ada")

        server.script = script
        assert deliver(engine, settings) == {Status.SENT: 1}
    assert rows.statuses(engine, ids) == ["sent"] + ["pending"] * 4
    assert [rows.row(engine, id_).claims for id_ in ids] == [1, 0, 0, 0, 0]


def test_the_third_refused_sender_in_a_row_is_not_the_mails_fault(engine: sa.Engine) -> None:
    ids = rows.add(engine, 5)
    with SmtpServer(at("MAIL", Reply(553, "5.7.1 Sender address rejected: not owned by user"))) as server:
        settings = settings_for(server)
        deliver(engine, settings)
    assert rows.statuses(engine, ids) == ["dead", "dead", "pending", "pending", "pending"]
    assert rows.row(engine, ids[2]).attempts == 0
    assert relay(engine, settings).latched


# --- Rates


def test_a_full_domain_does_not_block_the_others(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        settings = settings_for(server, outbox_domain_rate="2/hour")
        ids = [
            queue(engine, settings, to=f"{name}@{domain}")[0]
            for name in "abcd"
            for domain in ("one.example", "two.example")
        ]
        assert deliver(engine, settings) == {Status.SENT: 4, Status.PENDING: 4}
        assert {recipient[2:] for recipient in recipients(server)} == {"one.example", "two.example"}
    waiting = [rows.row(engine, id_) for id_ in ids if rows.row(engine, id_).status == "pending"]
    for row in waiting:
        assert (row.attempts, row.claims) == (0, 0)
        assert row.recipient.partition("@")[2] in row.waiting_for
        assert 60 < seconds_until(row.next_attempt_at) <= 3700
    assert rows.attempts(engine, waiting[0].id) == []


def test_what_has_to_wait_for_its_domain_comes_back_one_after_the_other(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        settings = settings_for(server, outbox_domain_rate="1/10 second")
        ids = rows.add(engine, 6)
        assert deliver(engine, settings) == {Status.SENT: 1, Status.PENDING: 5}
    waits = [seconds_until(rows.row(engine, id_).next_attempt_at) for id_ in ids[1:]]
    assert waits == pytest.approx([10, 20, 30, 40, 50], abs=3)


def test_but_none_waits_for_ever() -> None:
    turns = Turns()
    waits = [turns.next(("relay", "x.example"), 5, 1) for _ in range(1_000)]
    assert max(waits) <= 5 + LAST_TURN
    assert sum(5 <= wait < 5.5 for wait in waits) == 2
    assert turns.next(("relay", "y.example"), 5, 1) == pytest.approx(5)


def test_a_relay_whose_rate_is_used_up_rests_and_its_mail_keeps_its_place(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        settings = settings_for(server, outbox_relay_rate="2/hour")
        ids = rows.add(engine, 5)
        before = [rows.row(engine, id_).next_attempt_at for id_ in ids]
        assert deliver(engine, settings) == {Status.SENT: 2}
        assert deliver(engine, settings) == {}
    found = [rows.row(engine, id_) for id_ in ids]
    assert [row.next_attempt_at for row in found[2:]] == before[2:]
    assert "2 per 1 hour" in str(relay(engine, settings).reason)


def test_a_second_relay_has_a_rate_of_its_own(engine: sa.Engine) -> None:
    with SmtpServer() as one, SmtpServer() as two:
        settings = settings_for_both(one, two, outbox_relay_rate="2/hour")
        rows.add(engine, 5)
        assert deliver(engine, settings) == {Status.SENT: 4}
        assert (len(one.mails), len(two.mails)) == (2, 2)


def test_a_short_wait_is_waited_for(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        settings = settings_for(server, outbox_relay_rate="2/second")
        rows.add(engine, 5)
        started = time.monotonic()
        assert deliver(engine, settings) == {Status.SENT: 5}
        assert time.monotonic() - started > 1.9
    stamps = [mail.at for mail in server.mails]
    assert all(later - earlier > 0.9 for earlier, later in zip(stamps, stamps[2:], strict=False))


def test_a_wait_that_others_prolong_ends_with_half_of_the_lease(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More threads than places: whoever always comes too late hands back its chunk, before that is taken away."""
    monkeypatch.setattr(Rates, "wait", lambda *_: Wait(0.2, None, "somebody else was faster"))
    (id_,) = rows.add(engine)
    with SmtpServer() as server, closing(Courier(engine, settings_for(server), "worker-1")) as courier:
        assert courier.deliver(*claim(engine, lease=3)) == {}
    assert rows.row(engine, id_).status == "pending"


def test_stop_ends_the_wait(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        settings = settings_for(server, outbox_relay_rate="1/5 second")
        rows.add(engine, 2)
        with closing(Courier(engine, settings, "worker-1")) as courier:
            threading.Timer(0.5, courier.stop).start()
            started = time.monotonic()
            assert courier.deliver(*claim(engine)) == {Status.SENT: 1}
            assert time.monotonic() - started < 3


def test_a_domain_that_the_relay_finds_too_many_is_left_alone(engine: sa.Engine) -> None:
    def script(event: Any) -> Reply | None:
        full = event.verb == "RCPT" and str(event.recipient).endswith("@full.example")
        return Reply(452, "4.7.28 rate of mail for this domain") if full else None

    with SmtpServer(script) as server:
        settings = settings_for(server)
        for recipient in ("a@full.example", "b@full.example", ADA, "c@full.example", BOB):
            queue(engine, settings, to=recipient)
        assert deliver(engine, settings) == {Status.SENT: 2, Status.PENDING: 3}
        assert sum(event.verb == "RCPT" and "full.example" in str(event.recipient) for event in server.events) == 1
        assert relay(engine, settings).available


# --- The fence


def test_whoever_is_not_on_the_list_waits(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        settings = settings_for(server, outbox_allow_recipients=("ada@example.com",))
        queue(engine, settings, to=[ADA, BOB], bcc=[DEE])
        assert deliver(engine, settings) == {Status.SENT: 1, Status.PENDING: 2}
        assert recipients(server) == [ADA]
    with engine.connect() as connection:
        found = connection.execute(sa.select(QueuedEmail.__table__).where(QueuedEmail.status == "pending")).all()
    for row in found:
        assert (row.attempts, row.claims) == (0, 0)
        assert "OUTBOX_ALLOW_RECIPIENTS" in row.waiting_for
        assert FENCE_SECONDS - 60 < seconds_until(row.next_attempt_at) <= FENCE_SECONDS


def test_an_empty_list_allows_nobody(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_ALLOW_RECIPIENTS", "")
    with SmtpServer() as server:
        settings = settings_for(server)
        queue(engine, settings, to=[ADA, BOB])
        assert deliver(engine, settings) == {Status.PENDING: 2}
        assert not server.mails


def test_all_mail_goes_to_one_address_and_says_whose_it_was(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        settings = settings_for(server, outbox_redirect_to="test@staging.example")
        queue(engine, settings, to=[ADA], cc=[BOB], bcc=[DEE])
        assert deliver(engine, settings) == {Status.SENT: 3}
        assert recipients(server) == ["test@staging.example"] * 3
        originals = [mail.data.split(b"\r\n", 1)[0] for mail in server.mails]
    assert originals == [f"X-Original-To: {address}".encode() for address in (ADA, BOB, DEE)]


def test_what_a_relay_says_of_the_one_address_suppresses_nobody(engine: sa.Engine) -> None:
    with SmtpServer(at("RCPT", REFUSED)) as server:
        settings = settings_for(server, outbox_redirect_to="test@staging.example")
        queue(engine, settings)
        assert deliver(engine, settings) == {Status.DEAD: 1}
    with engine.connect() as connection:
        assert connection.execute(sa.select(EmailSuppression)).all() == []


def test_a_copy_of_another_environments_database_holds_its_mail(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        production = settings_for(server, outbox_environment="production")
        staging = settings_for(server, outbox_environment="staging")
        (first, second) = rows.add(engine, 2)
        assert deliver(engine, production) == {Status.SENT: 2}
        ids = rows.add(engine, 2)
        assert deliver(engine, staging) == {}
        why = str(obstacle(engine, staging))
        assert "production" in why
        assert "staging" in why
        with closing(Courier(engine, staging, "worker-2")) as courier:  # a task that was published before the copy
            assert courier.deliver(*claim(engine)) == {}
        assert [(rows.row(engine, id_).status, rows.row(engine, id_).claims) for id_ in ids] == [("pending", 0)] * 2

        with engine.begin() as connection:
            fence.adopt(connection, staging, "ada")
        assert deliver(engine, staging) == {Status.SENT: 2}
    with engine.connect() as connection:
        assert connection.scalars(sa.select(EmailEnvironment.name)).all() == ["staging"]
    assert rows.statuses(engine, [first, second]) == ["sent", "sent"]


# --- Suppression


def test_a_recipient_who_does_not_exist_gets_no_second_mail(engine: sa.Engine) -> None:
    with SmtpServer(at("RCPT", REFUSED)) as server:
        settings = settings_for(server)
        first, second = rows.add(engine, 2, recipient="Nobody@example.com")
        assert deliver(engine, settings)[Status.DEAD] == 2
        (third,) = rows.add(engine, recipient="nobody@example.com")
        server.script = lambda event: None
        assert deliver(engine, settings) == {Status.DEAD: 1}
        assert not server.mails
    assert [rows.row(engine, id_).dead_reason for id_ in (first, second, third)] == ["rejected"] * 2 + ["suppressed"]
    assert "5.1.1 no such user" in rows.row(engine, third).last_error
    with engine.connect() as connection:
        (entry,) = connection.execute(sa.select(EmailSuppression.__table__))
    assert (entry.target, entry.source) == ("nobody@example.com", settings.endpoints[0].name)


def test_a_mail_that_was_queued_before_its_domain_was_suppressed(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        settings = settings_for(server)
        (id_,) = rows.add(engine, recipient="ada@gone.example")
        (other,) = rows.add(engine, recipient="ada@here.example")
        with engine.begin() as connection:
            suppressions.add(connection, "gone.example", "the company is gone", "ada")
        assert deliver(engine, settings) == {Status.SENT: 1, Status.DEAD: 1}
    assert rows.row(engine, id_).dead_reason == "suppressed"
    assert rows.row(engine, other).status == "sent"


# --- Poison


def test_a_mail_that_workers_died_of_is_marked_before_it_is_composed(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, tuple[str, str | None]] = {}
    compose = Composer.compose

    def look(composer: Composer, mail: Mail) -> bytes:
        row = rows.row(engine, mail.id)
        seen[mail.id] = (row.status, row.relay)
        return compose(composer, mail)

    monkeypatch.setattr(Composer, "compose", look)
    (suspect,) = rows.add(engine, claims=1)  # a claim that left no attempt
    (other,) = rows.add(engine)
    with SmtpServer() as server:
        assert deliver(engine, settings_for(server)) == {Status.SENT: 2}
    assert seen == {suspect: ("sending", None), other: ("claimed", None)}


def test_a_suspect_that_was_taken_meanwhile_is_not_sent(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    (suspect,) = rows.add(engine, claims=1)
    with SmtpServer() as server, closing(Courier(engine, settings_for(server), "worker-1")) as courier:
        ids, token = claim(engine)
        take = Composer.compose

        def taken(composer: Composer, mail: Mail) -> bytes:
            with engine.begin() as connection:
                connection.execute(sa.update(QueuedEmail).values(lease_expires_at=rows.from_now(60)))
                assert claims.begin(connection, [Begin(suspect, mail.token, "another's", "relay:25")], 60) == {suspect}
            return take(composer, mail)

        monkeypatch.setattr(Composer, "compose", taken)
        assert courier.deliver(ids, token) == {}
        assert not server.mails
    assert rows.row(engine, suspect).claim_token == "another's"


# --- The claim


def test_a_claim_is_short_and_a_conversation_has_the_whole_lease(engine: sa.Engine) -> None:
    (id_,) = rows.add(engine)
    leases = []

    def script(event: Any) -> None:
        if event.verb == "DOT":
            leases.append(seconds_until(rows.row(engine, id_).lease_expires_at))

    with SmtpServer(script) as server:
        settings = settings_for(server, outbox_lease_seconds=900)
        with closing(Courier(engine, settings, "worker-1")) as courier:

            def publish(_: Priority, ids: list[int], token: str) -> None:
                leases.append(seconds_until(rows.row(engine, id_).lease_expires_at))
                courier.deliver(ids, token)

            drain(engine, settings, "worker-1", publish)
    claimed, sending = leases
    assert CLAIM_LEASE - 10 < claimed <= CLAIM_LEASE
    assert 890 < sending <= 900
    assert rows.attempts(engine, id_)[0].outcome == Outcome.SENT
