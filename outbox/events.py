"""What became of mails, in the order in which it did, from what the tables record anyway: a mail pays nothing for it.

`sent` and `dead` are rows of the queue, `deferred` and `uncertain` are attempts. Each has an id of its own, that stays
the same however often it is read.

Read by a cursor over their times; and a transaction's times are those of its beginning, while others see it from its
end on. So nothing is read that is not older than every transaction that may still add something before it (`horizon`).
The cursor may then stand at what was read last, or at the horizon: nothing appears behind it any more. Where something
could all the same, after a clock was set back, or a transaction that only read for ten minutes and then wrote, the
horizon lies before the cursor as long as this can be seen, and reading begins there again: told twice, under the same
ids.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from outbox.database import PostgreSQL, Statement, UtcDateTime, Words, reading
from outbox.models import EmailAttempt, EmailContent, QueuedEmail
from outbox.states import Outcome, Priority, Status

BATCH = 100
"""Events that are read at a time."""

_MARGIN = 5.0
"""Seconds by which the present is avoided: a transaction that begins shows only a moment later; and small steps of the
clock do no harm."""

_READER = 600.0
"""Seconds after which a transaction that has not written yet counts as one that never will: a dump, a report."""

Position = dict[str, list[Any]]
"""Where a reader stands: for each source the time of what it read last, and the numbers that tell equal times apart."""


class Event(NamedTuple):
    """Something that became of a mail."""

    id: str
    type: str
    """`email.sent`, `email.deferred`, `email.dead`, `email.uncertain`."""
    at: datetime
    data: dict[str, Any]


class _Source(NamedTuple):
    query: sa.Select[*tuple[Any, ...]]
    key: tuple[Any, ...]
    """The columns that order it: a time, and what tells equal times apart."""
    event: Callable[[sa.Row[*tuple[Any, ...]]], Event]


def _horizon(sql: Words) -> str:
    if sql is not PostgreSQL:  # one writer: what is written later is later
        return f"SELECT {sql.after(f'-{_MARGIN}')} AS at"
    return f"""
SELECT least({sql.after(f"-{_MARGIN}")},
             (SELECT min(xact_start) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker'
                 AND (backend_xid IS NOT NULL OR xact_start > {sql.after(f"-{_READER}")}))) AS at"""


_HORIZON = Statement(_horizon, at=UtcDateTime)


def horizon(engine: sa.Engine) -> datetime:
    """The time before which nothing is recorded any more.

    In a transaction of its own: what is read must be seen as it is after this, and not before. PostgreSQL shows other
    roles' transactions to members of pg_read_all_stats alone.
    """
    with reading(engine) as connection:
        found: datetime = _HORIZON(connection).scalar_one()
    return found


def beginning(moment: datetime) -> Position:
    """Where a reader stands that wants all from that time on."""
    return {name: _stored(_start(source, moment)) for name, source in _SOURCES.items()}


def read(engine: sa.Engine, position: Position, limit: int = BATCH) -> tuple[list[Event], Position]:
    """The next events behind the position, oldest first, and where that leads."""
    until = horizon(engine)
    with reading(engine) as connection:
        return between(connection, position, until, limit)


def between(
    connection: sa.Connection, position: Position, until: datetime, limit: int = BATCH
) -> tuple[list[Event], Position]:
    """The same up to a time that is the horizon, or was it once.

    Cost: what it finds along two partial indexes, and what they have beside it, rejections and cancelled mail, once.
    """
    found: list[tuple[datetime, str, list[Any], Event]] = []
    reached = {}
    for name, source in _SOURCES.items():
        after = min(_key(position[name]), _start(source, until))
        rows = connection.execute(_behind(source, after, until, limit)).all()
        found += [(row[0], name, _stored(row[: len(source.key)]), source.event(row)) for row in rows]
        # Before its first event a source has nothing to tell, nor ever will: that way is not gone again by each batch.
        reached[name] = _stored(max(after, _start(source, rows[0][0] if rows else until)))
    next_ones = sorted(found, key=lambda line: line[:3])[:limit]
    return [event for *_, event in next_ones], reached | {name: key for _, name, key, _ in next_ones}


def _start(source: _Source, moment: datetime) -> tuple[Any, ...]:
    """Before all that happened at that time: numbers begin at 1."""
    return (moment, *(0 for _ in source.key[1:]))


def _key(stored: list[Any]) -> tuple[Any, ...]:
    return (datetime.fromisoformat(stored[0]), *stored[1:])


def _stored(key: Sequence[Any]) -> list[Any]:
    return [key[0].isoformat(), *key[1:]]


def _behind(source: _Source, after: tuple[Any, ...], until: datetime, limit: int) -> sa.Select[*tuple[Any, ...]]:
    time = source.key[0]
    reached = (sa.literal(value, column.type) for value, column in zip(after, source.key, strict=True))
    # The first condition is for the index, which knows the time alone.
    behind = (time >= after[0], sa.tuple_(*source.key) > sa.tuple_(*reached), time < until)
    return source.query.where(*behind).order_by(*source.key).limit(limit)


_Q, _A, _C = QueuedEmail, EmailAttempt, EmailContent

_TRIED = (_A.outcome, _A.stage, _A.code, _A.reply, _A.relay)
_MAIL = (
    _Q.id.label("mail_id"), _C.message_id, _Q.recipient, _Q.category, _Q.priority, _Q.request_id, _Q.attempts,
)  # fmt: skip
_TOLD = [column.name for column in (*_MAIL, *_TRIED)]  # once: an attribute of the ORM takes its time to say its name

_ENDS = (
    sa.select(_Q.finalized_at, _Q.id, *_MAIL, *_TRIED, _Q.status, _Q.dead_reason, _Q.last_error)
    .join(_C, _C.id == _Q.content_id)
    .outerjoin(_A, sa.and_(_A.email_id == _Q.id, _A.number == _Q.claims))
    .where(sa.text("email_queue.status IN ('sent', 'dead', 'cancelled')"), _Q.status.in_((Status.SENT, Status.DEAD)))
)

# The attempt that a mail died of is told as its death, and what was refused for good always is.
_FATAL = sa.and_(_A.outcome != Outcome.UNCERTAIN, _Q.status == Status.DEAD, _Q.claims == _A.number)
_ATTEMPTS = (
    sa.select(_A.finished_at, _A.email_id, _A.number, *_MAIL, *_TRIED)
    .join(_Q, _Q.id == _A.email_id)
    .join(_C, _C.id == _Q.content_id)
    .where(sa.text("email_attempts.outcome <> 'sent'"), _A.outcome != Outcome.REJECTED, ~_FATAL)
)


def _end(row: sa.Row[*tuple[Any, ...]]) -> Event:
    more = {"dead_reason": row.dead_reason, "error": row.last_error} if row.status == Status.DEAD else {}
    # A mail that was requeued may die, or be sent, once more: the time tells them apart.
    id_ = f"{row.status}-{row.mail_id}-{row.finalized_at.timestamp():.6f}"
    return Event(id_, f"email.{row.status}", row.finalized_at, _told(row) | more)


def _attempt(row: sa.Row[*tuple[Any, ...]]) -> Event:
    kind = "uncertain" if row.outcome == Outcome.UNCERTAIN else "deferred"
    return Event(f"{kind}-{row.mail_id}-{row.number}", f"email.{kind}", row.finished_at, _told(row))


def _told(row: sa.Row[*tuple[Any, ...]]) -> dict[str, Any]:
    columns: dict[str, Any] = row._asdict()
    told = {name: columns[name] for name in _TOLD}
    return {"email_id": told.pop("mail_id"), **told, "priority": Priority(row.priority).label}


_SOURCES: dict[str, _Source] = {
    "attempts": _Source(_ATTEMPTS, (_A.finished_at, _A.email_id, _A.number), _attempt),
    "ends": _Source(_ENDS, (_Q.finalized_at, _Q.id), _end),
}
"""By name, which also orders what happened at the same time: an attempt before the end of its mail."""
