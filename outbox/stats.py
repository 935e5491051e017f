"""The gauges: how much waits, travels, failed and was done, by lane, from SQL.

Each function is one statement, for metrics may want one every few seconds and another every minute. None reads all of
history: each counts over a partial index, whose predicate stands literally in the query, and says what that costs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from outbox.database import Statement, Words
from outbox.states import DeadReason, Priority, Status

HOUR = 3600
DAY = 24 * HOUR


@dataclass(frozen=True, slots=True)
class Waiting:
    """Pending mail of a lane. `scheduled` is for later: at its appointed time, or when its next try is due."""

    due: int = 0
    scheduled: int = 0
    oldest_due_seconds: float | None = None
    """How long the first in the queue has been due; None if nothing is. Beyond a minute or two, delivery lags."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """Mail of a lane that a worker has."""

    claimed: int = 0
    sending: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """Mail of a lane that a person should look at, from whatever time."""

    uncertain: int = 0
    dead: Mapping[DeadReason, int] = field(default_factory=lambda: dict.fromkeys(DeadReason, 0))


@dataclass(frozen=True, slots=True)
class Finished:
    """Mail of a lane that ended well, or was called back, lately."""

    sent_hour: int = 0
    sent_day: int = 0
    cancelled_day: int = 0


@dataclass(frozen=True, slots=True)
class FailedLately:
    """Mail that failed within the hour. Who must not get mail, and did not, is no failure."""

    dead: int = 0
    uncertain: int = 0


def _waiting(sql: Words) -> str:
    return f"""
SELECT priority, count(*) FILTER (WHERE next_attempt_at <= {sql.now}) AS due,
       count(*) FILTER (WHERE next_attempt_at > {sql.now}) AS scheduled,
       {sql.seconds_since("min(next_attempt_at)")} AS oldest
  FROM email_queue WHERE status = 'pending' GROUP BY priority"""


def _in_flight(_: Words) -> str:
    return """
SELECT priority, count(*) FILTER (WHERE status = 'claimed') AS claimed,
       count(*) FILTER (WHERE status = 'sending') AS sending
  FROM email_queue WHERE status IN ('claimed', 'sending') GROUP BY priority"""


def _failed(_: Words) -> str:
    return """
SELECT priority, status, dead_reason, count(*) AS rows
  FROM email_queue WHERE status IN ('dead', 'uncertain') GROUP BY priority, status, dead_reason"""


def _finished(sql: Words) -> str:
    return f"""
SELECT priority, count(*) FILTER (WHERE status = 'sent' AND finalized_at > {sql.after(f"-{HOUR}")}) AS sent_hour,
       count(*) FILTER (WHERE status = 'sent') AS sent_day,
       count(*) FILTER (WHERE status = 'cancelled') AS cancelled_day
  FROM email_queue
 WHERE status IN ('sent', 'dead', 'cancelled') AND finalized_at > {sql.after(f"-{DAY}")} GROUP BY priority"""


def _failed_lately(sql: Words) -> str:
    an_hour_ago = sql.after(f"-{HOUR}")
    return f"""
SELECT (SELECT count(*) FROM email_queue
         WHERE status IN ('sent', 'dead', 'cancelled') AND status = 'dead' AND finalized_at > {an_hour_ago}
           AND dead_reason <> 'suppressed') AS dead,
       (SELECT count(*) FROM email_queue AS q
         WHERE q.status IN ('dead', 'uncertain') AND q.status = 'uncertain'
           AND (SELECT max(a.finished_at) FROM email_attempts AS a WHERE a.email_id = q.id) > {an_hour_ago}
       ) AS uncertain"""


def _due_up_to(sql: Words) -> str:
    lanes = (
        f"SELECT 1 FROM email_queue WHERE status = 'pending' AND priority = {lane:d} AND next_attempt_at <= {sql.now}"
        for lane in Priority
    )
    return f"SELECT count(*) FROM ({' UNION ALL '.join(lanes)} LIMIT :most) AS due"


_WAITING = Statement(_waiting)
_IN_FLIGHT = Statement(_in_flight)
_FAILED = Statement(_failed)
_FINISHED = Statement(_finished)
_FAILED_LATELY = Statement(_failed_lately)
_DUE_UP_TO = Statement(_due_up_to)


def waiting(connection: sa.Connection) -> dict[Priority, Waiting]:
    """Cost: the entries of `ix_email_queue_due`, which is the backlog and nothing else; the table is not read."""
    found = {
        row.priority: Waiting(row.due, row.scheduled, row.oldest if row.due else None) for row in _WAITING(connection)
    }
    return {lane: found.get(lane, Waiting()) for lane in Priority}


def in_flight(connection: sa.Connection) -> dict[Priority, InFlight]:
    """Cost: the rows of `ix_email_queue_leased`, at most `OUTBOX_IN_FLIGHT` a lane."""
    found = {row.priority: InFlight(row.claimed, row.sending) for row in _IN_FLIGHT(connection)}
    return {lane: found.get(lane, InFlight()) for lane in Priority}


def failed(connection: sa.Connection) -> dict[Priority, Failed]:
    """Cost: the rows of `ix_email_queue_failed`: what nobody has requeued, resolved or purged yet."""
    uncertain = dict.fromkeys(Priority, 0)
    dead = {lane: dict.fromkeys(DeadReason, 0) for lane in Priority}
    for row in _FAILED(connection):
        lane = Priority(row.priority)
        if row.status == Status.UNCERTAIN:
            uncertain[lane] = row.rows
        else:
            dead[lane][DeadReason(row.dead_reason)] = row.rows
    return {lane: Failed(uncertain[lane], dead[lane]) for lane in Priority}


def finished(connection: sa.Connection) -> dict[Priority, Finished]:
    """Cost: the rows of `ix_email_queue_final` of one day. The dearest of these: not for every few seconds."""
    found = {row.priority: Finished(row.sent_hour, row.sent_day, row.cancelled_day) for row in _FINISHED(connection)}
    return {lane: found.get(lane, Finished()) for lane in Priority}


def failed_lately(connection: sa.Connection) -> FailedLately:
    """Cost: the rows of `ix_email_queue_final` of one hour; and the last attempt of all that is uncertain."""
    return FailedLately(*_FAILED_LATELY(connection).one())


def is_deeper_than(connection: sa.Connection, most: int) -> bool:
    """Whether more mails than `most` are due. Cost: that many entries of `ix_email_queue_due`."""
    return bool(_DUE_UP_TO(connection, most=most + 1).scalar_one() > most)
