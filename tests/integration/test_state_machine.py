"""Whatever happens to a mail, in whatever order: the promises hold. Hypothesis looks for an order in which they do not.

Workers that keep every token they ever believed in, deliver chunks twice, die at any point and lose the answers of
their commits; a reaper, persons and a clock that jumps by hours in both directions; all on the real database.
"""

import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, TypeVar

import pytest
import sqlalchemy as sa
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from outbox import claims, operations, settlement
from outbox.chunk import load
from outbox.claims import Begin, Release
from outbox.models import EmailAttempt, EmailContent, QueuedEmail
from outbox.operations import Resolution
from outbox.reaper import reap
from outbox.retry import Policy, decide
from outbox.settings import Settings
from outbox.settlement import Attempt, Settlement
from outbox.states import FINAL, DeadReason, OnUncertain, Outcome, Priority, Stage, Status
from tests import rows
from tests.queue_model import Fate, Known, Token, jump, longest_wait

T = TypeVar("T")

CLAIM_LEASE, LEASE = 120, 900
JUMPS = [400, 3600, 7 * 3600, 30 * 3600]
MARGIN = 60
"""Seconds. No sum or difference of them comes near one of the leases: whether it is over is never a question of ms."""

EXAMPLES = {"sqlite": 70, "postgresql": 12}
STEPS = 60

# Most of it to one of them, so that it goes far.
WHICH = st.sampled_from([0] * 4 + [1])
# The latest token is the one that moves things; older ones must not.
BACK = st.sampled_from([0] * 6 + [1] * 3 + [2, 3, 5, 8])
FATES = st.sampled_from([Fate.COMMITTED] * 4 + list(Fate))
RELAYS = st.sampled_from([None, "a:25", "b:25"])
OUTCOMES = st.sampled_from([Outcome.SENT] * 3 + [Outcome.UNCERTAIN] * 3 + list(Outcome))


class Use(Enum):
    """What a token is good for."""

    BEGIN, SETTLE, BURY, RELEASE = range(4)


USES = st.tuples(BACK, st.sampled_from(Use), RELAYS, OUTCOMES)


class Event(NamedTuple):
    """A method of `Queue`, and its arguments."""

    name: str
    arguments: dict[str, Any]


def _event(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Event]:
    return st.builds(Event, st.just(name), st.fixed_dictionaries(arguments))


CONVERSE = _event("converse", which=WHICH, relay=RELAYS, outcome=OUTCOMES, fate=FATES)
EVENTS = st.one_of(
    CONVERSE,
    CONVERSE,  # more than anything else
    _event("go_on", which=WHICH, relay=RELAYS, outcome=OUTCOMES, fate=FATES),
    _event("use_any_token", which=WHICH, uses=st.lists(USES, min_size=1, max_size=4), fate=FATES),
    _event("replay_journal", which=WHICH, back=BACK, fate=FATES),
    _event("reap", patient=st.booleans()),
    _event("wish", which=WHICH, wish=st.sampled_from(["cancel", "requeue", *Resolution]), fate=FATES),
    _event("jump", seconds=st.sampled_from([*JUMPS, *(-seconds for seconds in JUMPS)])),
    _event("wait"),
)


class Queue(RuleBasedStateMachine):
    """Two mails, and everybody who may touch them."""

    _engine: sa.Engine

    def __init__(self) -> None:
        super().__init__()
        self._settings = Settings.load(outbox_lease_seconds=LEASE)
        self._policy = Policy.of(self._settings)
        self._jumped = 0.0
        self._rows: list[Known] = []
        self._sent: list[Known] = []
        self._columns: dict[str, Any] = {}
        self._compared = False

    @initialize(
        on_uncertain=st.lists(st.sampled_from(OnUncertain), min_size=2, max_size=2),
        max_attempts=st.sampled_from([5, 5, 4, 2, 1]),
        expires_in=st.none() | st.sampled_from(JUMPS),
    )
    def queue(self, on_uncertain: list[OnUncertain], max_attempts: int, expires_in: float | None) -> None:
        with self._engine.begin() as connection:
            connection.execute(sa.delete(EmailContent))
        expires_at = None if expires_in is None else rows.from_now(expires_in)
        self._columns = {"max_attempts": max_attempts, "expires_at": expires_at}
        self._rows = [self._add(policy) for policy in on_uncertain]

    @rule(event=EVENTS)
    def happens(self, event: Event) -> None:
        """One rule for all: Hypothesis leaves some rules out of most runs, and without a worker nothing moves."""
        getattr(self, event.name)(**event.arguments)

    # What workers do.

    def converse(self, which: int, relay: str | None, outcome: Outcome, fate: Fate) -> None:
        """A whole conversation; its end may not be recorded."""
        row = self._rows[which]
        if row.status is Status.SENT:
            # For good: it stays under watch, and another takes its place.
            self._sent.append(row)
            row = self._rows[which] = self._add(row.on_uncertain)
        speaking = False
        for _ in range(4):
            if not speaking:
                speaking = row.owner is not None and row.owner.relay is not None
                self._go_on(row, relay, outcome, fate if speaking else Fate.COMMITTED)
                self.compare()

    def go_on(self, which: int, relay: str | None, outcome: Outcome, fate: Fate) -> None:
        """The next thing that the row's owner does."""
        self._go_on(self._rows[which], relay, outcome, fate)

    def use_any_token(self, which: int, uses: list[tuple[int, Use, str | None, Outcome]], fate: Fate) -> None:
        """A chunk that is delivered twice, a worker that wakes up, a line that is written again."""
        for use in uses:
            self._use(self._rows[which], *use, fate)
            self.compare()

    def replay_journal(self, which: int, back: int, fate: Fate) -> None:
        """The 250 that a worker could not record in time."""
        row = self._rows[which]
        if not row.accepted:
            return
        line = list(row.accepted.values())[-1 - back % len(row.accepted)].end
        assert isinstance(line, Settlement)
        assert line.attempt is not None
        number = line.attempt.number
        ours = self._run(
            fate,
            lambda connection: (
                settlement.settle_late(connection, [line]) | settlement.known_as_sent(connection, [line])
            ),
        )
        given_up = row.status in {Status.PENDING, Status.UNCERTAIN} and row.lines.get(number) is Outcome.UNCERTAIN
        known = row.status is Status.SENT
        assert ours == ({row.id} if row.claims == number and (given_up or known) else set())
        if ours and given_up and fate.kept:
            row.corrected.add(number)

    def reap(self, *, patient: bool) -> None:
        """The worker vanished, or is late; or not."""
        if patient:
            self.wait()
        self._reap()

    # What persons do.

    def wish(self, which: int, wish: str | Resolution, fate: Fate) -> None:
        row = self._rows[which]
        moved, possible = False, {Status.UNCERTAIN}
        if isinstance(wish, Resolution):
            moved = self._run(fate, lambda connection: operations.resolve(connection, row.id, wish))
        elif wish == "cancel":
            moved = bool(self._run(fate, lambda connection: operations.cancel(connection, [row.id])))
            possible = {Status.PENDING}
        else:
            moved = bool(self._run(fate, lambda connection: operations.requeue(connection, [row.id])))
            possible = {Status.DEAD, Status.CANCELLED, Status.UNCERTAIN}
        assert moved == (row.status in possible)
        if moved and wish in {"requeue", Resolution.REQUEUE} and fate.kept:
            row.requeued()

    # And time.

    def jump(self, seconds: float) -> None:
        self._run(Fate.COMMITTED, lambda connection: jump(connection, seconds))
        self._jumped += seconds

    def wait(self) -> None:
        """Until something can be done for each row."""
        with self._engine.connect() as connection:
            seconds = longest_wait(connection)
        self.jump(seconds + MARGIN)

    @property
    def _now(self) -> float:
        return time.monotonic() + self._jumped

    @invariant()
    def compare(self) -> None:
        with self._engine.connect() as connection:
            found = {row.id: row for row in connection.execute(sa.select(QueuedEmail.__table__))}
            tried = connection.execute(sa.select(EmailAttempt.__table__)).all()
        for row in [*self._rows, *self._sent]:
            lines = {line.number: Outcome(line.outcome) for line in tried if line.email_id == row.id}
            row.compare(found[row.id], lines)
        self._compared = True

    def teardown(self) -> None:
        """No row is stuck: as time goes by, a reaper and a healthy worker bring each to its end."""
        if not self._compared:
            return  # a promise was broken before
        for _ in range(4):
            self.reap(patient=True)
            self.compare()
            for which in range(len(self._rows)):
                self.converse(which, "a:25", Outcome.SENT, Fate.COMMITTED)
        assert all(row.status in FINAL | {Status.UNCERTAIN} for row in self._rows), self._rows

    def _run(self, fate: Fate, statement: Callable[[sa.Connection], T]) -> T:
        self._compared = False
        with self._engine.connect() as connection, connection.begin() as transaction:
            answer = statement(connection)
            if not fate.kept:
                transaction.rollback()
        return answer

    def _add(self, on_uncertain: OnUncertain) -> Known:
        (id_,) = rows.add(self._engine, on_uncertain=on_uncertain, **self._columns)
        return Known(id_, on_uncertain)

    def _go_on(self, row: Known, relay: str | None, outcome: Outcome, fate: Fate) -> None:
        token = row.owner if row.owner in row.tokens else None
        if row.status is Status.PENDING:
            self.wait()
            self._claim(2, fate)
        elif token is not None and token.relay is None and token.end is None:
            # What was composed once is sent.
            self._begin(row, token, relay or (token.holder and "a:25"), fate)
        elif token is not None:
            self._settle(row, token, outcome, fate)

    def _use(self, row: Known, back: int, how: Use, relay: str | None, outcome: Outcome, fate: Fate) -> None:  # noqa: PLR0917 - as drawn
        if not row.tokens:
            return
        token = row.tokens[-1 - back % len(row.tokens)]
        match how:
            case Use.BEGIN if token.end is None:
                self._begin(row, token, relay, fate)
            case Use.SETTLE if token.relay is not None:
                self._settle(row, token, outcome, fate)
            case Use.BURY if token.relay is None:
                line = Settlement(row.id, token.text, Status.DEAD, dead_reason=DeadReason.INVALID)
                self._record(row, token, line, fate)
            case Use.RELEASE if not isinstance(token.end, Settlement):
                self._release(row, token, fate)

    def _claim(self, room: int, fate: Fate) -> None:
        for token in self._run(fate, partial(_claim, room=room)):
            row = next(row for row in self._rows if row.id == token.mail.id)
            if fate.kept:
                row.claimed(token, self._now + CLAIM_LEASE)
            if fate.believed:
                row.tokens.append(token)

    def _begin(self, row: Known, token: Token, relay: str | None, fate: Fate) -> None:
        own = token.own(relay, committed=fate.kept)
        line = Begin(row.id, token.text, own.text, own.relay)
        ours = self._run(fate, lambda connection: claims.begin(connection, [line], LEASE))
        assert ours == row.owned_by(token)
        if ours and fate.kept:
            row.begun(own, self._now + LEASE)
        if ours and fate.believed:
            row.tokens.append(own)

    def _reap(self) -> None:
        self._compared = False
        lapsed = [row for row in self._rows if row.owner is not None and row.until < self._now]
        reap(self._engine, self._settings)
        for row in lapsed:
            row.reaped()

    def _release(self, row: Known, token: Token, fate: Fate) -> None:
        line = token.end or Release(row.id, token.text, delay=60, waiting_for="a rate", relay=token.mail.relay)
        assert isinstance(line, Release)
        if token.holder is not None:
            token.end = line
        ours = self._run(fate, lambda connection: claims.release(connection, [line]))
        assert ours == row.owned_by(token)
        if ours and fate.kept:
            row.released()

    def _settle(self, row: Known, token: Token, outcome: Outcome, fate: Fate) -> None:
        if token.end is None:
            token.end = self._settlement(token, outcome)
            if outcome is Outcome.SENT and token.committed:
                row.accepted[token.mail.number] = token
        if isinstance(token.end, Settlement):
            self._record(row, token, token.end, fate)

    def _record(self, row: Known, token: Token, line: Settlement, fate: Fate) -> None:
        ours = self._run(fate, lambda connection: settlement.settle(connection, [line]))
        assert ours == row.owned_by(token)
        if ours and fate.kept:
            row.settled(line)

    def _settlement(self, token: Token, outcome: Outcome) -> Settlement:
        assert token.relay is not None
        mail = token.mail
        verdict = decide(outcome, mail.standing, self._policy, spread=0)
        line = Attempt(mail.id, mail.number, 0.1, outcome, Stage.DOT, None, "as told", token.relay, "worker-1")
        return Settlement.of(token.text, verdict, line, relay=token.mail.relay)


def _claim(connection: sa.Connection, room: int) -> list[Token]:
    claim = claims.claim(connection, dict.fromkeys(Priority, room), "worker-1", CLAIM_LEASE)
    ids = claim.ids[Priority.NORMAL]
    return [Token(claim.token, mail) for mail in load(connection, ids, claim.token)]


@pytest.fixture
def quick_engine(engine: sa.Engine) -> sa.Engine:
    """Without waiting for the disk: what a commit survives is shown elsewhere, by servers that are killed."""
    setting = {"postgresql": "SET synchronous_commit = off", "sqlite": "PRAGMA synchronous = OFF"}[engine.dialect.name]

    @sa.event.listens_for(engine, "connect")
    def _(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
        connection.cursor().execute(setting)
        connection.commit()

    return engine


@pytest.mark.timeout(600)  # to shrink what was found takes minutes
def test_no_order_of_events_breaks_a_promise(quick_engine: sa.Engine) -> None:
    class Machine(Queue):
        _engine = quick_engine

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES[quick_engine.dialect.name],
            stateful_step_count=STEPS,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            database=None,
            print_blob=True,
        ),
    )
