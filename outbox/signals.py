"""What became of each mail, told to whoever listens, as soon as it is on record. The signals are blinker's:

    from outbox import signals

    @signals.dead.connect
    def tell_support(category: str | None, mail: signals.Settled) -> None:
        log.warning("mail %d is dead: %s", mail.id, mail.why)

    signals.sent.connect(count_receipts, sender="receipt")  # of one category alone

A receiver runs in the process and in the thread that had the mail, a worker's as a rule, and the next mail of that
thread waits for it: what takes longer than a moment belongs into a task. Several threads call it at once. What it
raises is logged, and harms nothing. Blinker holds a receiver weakly: one that nothing else refers to, such as a
function inside a function, is connected with `weak=False`.

A word is said after the commit and only then. So a process that dies between the two has said nothing, and the record
is what counts: who must not miss anything reads the table. Two kinds of moves are not told at all. What a person does
(`cancel`, `requeue`, `resolve`) is known to whoever called for it, in whose transaction it may still be rolled back;
`email_audit` has it. And a mail whose recipient was suppressed before it was queued, or that a newer mail replaces,
never was on its way.

The second group is for metrics: what the library alone sees.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa
from blinker import Signal

from outbox import logs, stages
from outbox.database import Statement, Words, reading
from outbox.settlement import Settlement
from outbox.states import DeadReason, Outcome, Priority, Stage, Status

log = logging.getLogger(__name__)

sent = Signal("The relay has taken the mail. `receiver(category, mail=Settled)`, as for the three below.")
deferred = Signal("It goes again later; `mail.outcome` says what was in the way this time.")
dead = Signal("It was not delivered, and will not be unless a person requeues it: `mail.dead_reason`.")
uncertain = Signal("A relay may have taken it or not. A person decides, for `on_uncertain` says `hold`.")

drained = Signal("A drain is over. `receiver(None, rows={Priority: int}, seconds=float)`: what it handed out, by lane.")
lease_lost = Signal("A worker gave a mail up: others have it, or the database is silent. `receiver(None, why=str)`.")
reaped = Signal("Mail came back from workers that are gone. `receiver(None, rows=int)`.")

_BY_STATUS = {Status.SENT: sent, Status.PENDING: deferred, Status.DEAD: dead, Status.UNCERTAIN: uncertain}


class Settled(NamedTuple):
    """What became of a mail, and by what."""

    id: int
    """`email_queue.id`: the mail to this one recipient."""
    recipient: str
    category: str | None
    request_id: str | None
    priority: Priority
    status: Status
    """Where the mail is now."""
    dead_reason: DeadReason | None
    why: str | None
    """What was in the way, in words: the relay's, or ours; None for what is sent."""
    seconds_in_queue: float
    """Since it could first be tried: it was queued, or its time came."""
    outcome: Outcome | None
    """What the conversation came to. This and all below are empty where there was none: expired, suppressed."""
    number: int | None
    """The conversation's, as in `email_attempts`."""
    relay: str | None
    stage: Stage | None
    code: int | None
    reply: str | None
    marks: Sequence[stages.Mark]
    """When each stage of the conversation began; empty where that is not known any more."""

    @property
    def seconds(self) -> Mapping[Stage, float]:
        """How long each stage of the conversation took."""
        return stages.seconds(self.marks)


class About(Protocol):
    """What a settlement does not know of its mail: a claimed mail does, and so does a row of `_about`."""

    id: int
    recipient: str
    category: str | None
    request_id: str | None
    priority: int

    @property
    def age(self) -> float:
        """Seconds since it could first be tried."""


def _about(sql: Words) -> str:
    return f"""
SELECT q.id, q.recipient, q.category, q.request_id, q.priority,
       {sql.seconds_since("CASE WHEN q.scheduled_at > q.created_at THEN q.scheduled_at ELSE q.created_at END")} AS age
  FROM email_queue AS q WHERE q.id {sql.among(sql.numbers(":ids"))}"""


_ABOUT = Statement(_about)


def tell(settlement: Settlement, about: About, marks: Sequence[stages.Mark] = ()) -> None:
    """Say what became of a mail. Its settlement is on record."""
    signal = _BY_STATUS.get(settlement.status)
    if signal is None or not signal.receivers:
        return
    attempt = settlement.attempt
    outcome, number, relay, stage, code, reply = (
        (attempt.outcome, attempt.number, attempt.relay or None, attempt.stage, attempt.code, attempt.reply)
        if attempt
        else (None,) * 6
    )
    mail = Settled(
        id=settlement.id,
        recipient=about.recipient,
        category=about.category,
        request_id=about.request_id,
        priority=Priority(about.priority),
        status=settlement.status,
        dead_reason=settlement.dead_reason,
        why=settlement.last_error,
        seconds_in_queue=about.age,
        outcome=outcome,
        number=number,
        relay=relay,
        stage=stage,
        code=code,
        reply=reply,
        marks=marks,
    )
    announce(signal, about.category, mail=mail)


def tell_of(engine: sa.Engine, settlements: Sequence[Settlement]) -> None:
    """The same for those who know nothing but ids, the reaper and the journal: who the mails were for is looked up."""
    heard = {s.id: s for s in settlements if s.status in _BY_STATUS and _BY_STATUS[s.status].receivers}
    if heard:
        with reading(engine) as connection:
            rows: Sequence[Any] = _ABOUT(connection, ids=json.dumps(list(heard))).all()
        for row in rows:
            tell(heard[row.id], row)


def announce(signal: Signal, sender: str | None, **said: Any) -> None:
    """Call all receivers, whatever one of them raises: mail must not stop because somebody listens."""
    if not signal.receivers:
        return
    for receiver in signal.receivers_for(sender):
        try:
            receiver(sender, **said)
        except Exception as error:  # noqa: BLE001 - theirs, whatever it is
            sentence = "signals: %(receiver)s raised what is logged here, and nothing else came of it"
            logs.tell(log, logging.ERROR, "receiver.failed", sentence, exc_info=error, receiver=repr(receiver))
