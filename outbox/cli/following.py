"""`outbox doctor --send-test`: one mail, followed through every real part to the relay's 250, or to where it stuck."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox import heartbeats
from outbox.database import reading
from outbox.explaining import explain
from outbox.heartbeats import BEAT, WORKER
from outbox.models import EmailAttempt, QueuedEmail
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.states import Outcome, Priority, Status

LOOK_SECONDS = 0.1
"""Between two looks at the row; what happens in between is read from its attempts."""

GRACE_SECONDS = 30.0
"""Beyond the next drain, which may be a whole period away: the time that the rest of the way may take."""

_TEXT = """\
This is a test. `outbox doctor` queued it, as an application queues its mail; a drain claimed it, a worker sent it, and
the relay took it: everything on the way works.
"""


@dataclass
class Journey:
    """How far the mail came."""

    id: int
    steps: list[tuple[str, float]] = field(default_factory=list)
    """What happened, and how many seconds after the commit."""
    arrived: bool = False
    waits: bool = False
    """It may go later."""
    said: str = ""
    """The relay's words; or where it stuck, and what to do."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        steps = [{"what": what, "seconds": round(seconds, 2)} for what, seconds in self.steps]
        return {"id": self.id, "sent": self.arrived, "steps": steps, "said": self.said}


def send(engine: sa.Engine, settings: Settings, address: str) -> int:
    """Queue the mail, ahead of all that is not urgent. Returns its id."""
    with Session(engine) as session:
        subject = f"Outbox test ({settings.outbox_environment})"
        row = EmailService(session, settings).queue_email(
            address, subject, text=_TEXT, priority=Priority.HIGH.label, category="outbox-test"
        )
        session.commit()
        return row.id


def follow(
    engine: sa.Engine, settings: Settings, id_: int, seconds: float, tell: Callable[[str, float], object]
) -> Journey:
    """Until it is over, or `seconds` have passed. `tell(what, seconds)` is called for each thing that happens."""
    journey = Journey(id_)
    began = time.monotonic()

    def step(what: str) -> None:
        journey.steps.append((what, time.monotonic() - began))
        tell(*journey.steps[-1])

    step(f"queued as mail {id_}")
    before: tuple[str, int] = (Status.PENDING, 0)
    while True:
        row, attempts = _look(engine, id_)
        if (row.status, len(attempts)) != before:
            for attempt in attempts[before[1] :]:
                step(_told(attempt))
            if row.status in {Status.CLAIMED, Status.SENDING}:
                step(f"{row.status} by {row.claimed_by}")
            before = (row.status, len(attempts))
        is_late = time.monotonic() - began > seconds
        if row.status in {Status.SENT, Status.DEAD, Status.CANCELLED, Status.UNCERTAIN} or is_late:
            break
        time.sleep(LOOK_SECONDS)
    journey.arrived, journey.waits = row.status == Status.SENT, row.status == Status.PENDING
    with reading(engine) as connection:
        journey.said = explain(connection, settings, id_)
        if not journey.arrived:
            journey.said += _advice(connection, settings, row)
    return journey


def _look(engine: sa.Engine, id_: int) -> tuple[sa.Row[str, str | None, int], list[sa.Row[Any]]]:
    row = sa.select(QueuedEmail.status, QueuedEmail.claimed_by, QueuedEmail.attempts).where(QueuedEmail.id == id_)
    tries = sa.select(EmailAttempt.__table__).where(EmailAttempt.email_id == id_).order_by(EmailAttempt.number)
    with reading(engine) as connection:
        found = connection.execute(row).one()
        return found, list(connection.execute(tries))


def _told(attempt: sa.Row[Any]) -> str:
    took = (attempt.finished_at - attempt.started_at).total_seconds()
    words = f"{attempt.code} {attempt.reply}" if attempt.code else attempt.reply
    verb = "took it" if attempt.outcome == Outcome.SENT else f"did not take it ({attempt.outcome}, {attempt.stage})"
    return f"{attempt.relay} {verb} after {took:.1f} s: {words}"


def _advice(connection: sa.Connection, settings: Settings, row: sa.Row[str, str | None, int]) -> str:
    """Who should have moved it on, where the mail itself does not know."""
    signs = [sign for sign in heartbeats.signs(connection) if not sign.silent]
    kinds = {sign.kind for sign in signs}
    if row.status == Status.CLAIMED:
        queue = f"email.{Priority.HIGH.label}"
        if not any(queue in sign.detail.get("queues", ()) for sign in signs if sign.kind == WORKER):
            return f" No worker that lives takes from the queue {queue}: start one that does"
        return " Its task has not been taken: are the workers busy (`outbox stats`), or did Redis lose it?"
    if row.status != Status.PENDING or row.attempts:
        return ""
    if WORKER not in kinds:
        return " No worker lives: start one (./start_celery_worker.sh), or send it yourself (`outbox drain`)"
    if BEAT not in kinds:
        return " Beat is silent, and nobody else wakes a drain for a mail from the command line: start it"
    return (
        f" Workers and beat live; if this is more than OUTBOX_DRAIN_SECONDS={settings.outbox_drain_seconds:g}, then "
        "`outbox.drain` does not get from beat to a worker: look at Redis, and at who takes from the queue `celery`"
    )
