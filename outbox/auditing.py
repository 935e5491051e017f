"""Who did what: the moves of `operations`, of relays and suppressions, as a person makes them and on record.

The record is written in the transaction of the deed: neither is there without the other.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from outbox import breaker, operations, searching, suppressions
from outbox.models import EmailAudit
from outbox.operations import Resolution
from outbox.searching import Filter
from outbox.states import Status
from outbox.suppressions import Suppression

BATCH = 500
"""Mails that a move on a filter takes in one transaction: nobody waits long for its locks."""

REQUEUEABLE = (Status.DEAD, Status.CANCELLED, Status.UNCERTAIN)
CANCELLABLE = (Status.PENDING,)
RESOLVABLE = (Status.UNCERTAIN,)
"""What a move on a filter looks among."""


def record(connection: sa.Connection, who: str, action: str, target: str, **detail: Any) -> None:
    """One line about anything that is not a mail."""
    connection.execute(sa.insert(EmailAudit).values(who=who, action=action, target=target, detail=detail))


def record_mails(connection: sa.Connection, who: str, action: str, ids: Iterable[int], **detail: Any) -> None:
    """A line for each mail, so that the mail's page can show its own."""
    lines = [
        {"who": who, "action": action, "target": f"mail {id_}", "email_id": id_, "detail": detail}
        for id_ in sorted(ids)
    ]
    if lines:
        connection.execute(sa.insert(EmailAudit), lines)


def of_mail(connection: sa.Connection, id_: int) -> Sequence[sa.Row[Any]]:
    """What was done to a mail, oldest first."""
    table = EmailAudit.__table__
    return connection.execute(sa.select(table).where(table.c.email_id == id_).order_by(table.c.id)).all()


def lines(
    connection: sa.Connection,
    *,
    who: str | None = None,
    action: str | None = None,
    target: str | None = None,
    email_id: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int = 50,
) -> Sequence[sa.Row[Any]]:
    """The newest, along the primary key. `who` and `target`: a part of it, in whatever letter case.

    It begins to look at `until`, and stops at `since`: a record of millions of lines is not read for today's.
    """
    table = EmailAudit.__table__
    c = table.c
    conditions = [
        column.icontains(part, autoescape=True) for column, part in ((c.who, who), (c.target, target)) if part
    ]
    conditions += [column == value for column, value in ((c.action, action), (c.email_id, email_id)) if value]
    conditions += searching.since(connection, c.id, c.at, since) if since else []
    conditions += searching.until(connection, c.id, c.at, until) if until else []
    conditions += [c.id < before] if before else []
    return connection.execute(sa.select(table).where(*conditions).order_by(c.id.desc()).limit(limit)).all()


def requeue(connection: sa.Connection, ids: Iterable[int], who: str, **detail: Any) -> set[int]:
    """`operations.requeue`, on record. Returns the ids that were moved."""
    moved = operations.requeue(connection, ids)
    record_mails(connection, who, "requeue", moved, **detail)
    return moved


def cancel(connection: sa.Connection, ids: Iterable[int], who: str, **detail: Any) -> set[int]:
    """`operations.cancel`, on record. Returns the ids that were moved."""
    moved = operations.cancel(connection, ids)
    record_mails(connection, who, "cancel", moved, **detail)
    return moved


def resolve(connection: sa.Connection, ids: Iterable[int], resolution: Resolution, who: str, **detail: Any) -> set[int]:
    """`operations.resolve`, on record. Returns the ids of those that were uncertain."""
    moved = {id_ for id_ in ids if operations.resolve(connection, id_, resolution, who)}
    record_mails(connection, who, "resolve", moved, resolution=resolution, **detail)
    return moved


def on_filter(
    engine: sa.Engine,
    wanted: Filter,
    statuses: Sequence[Status],
    move: Callable[[sa.Connection, Sequence[int]], set[int]],
    progress: Callable[[int], object] = lambda _: None,
) -> int:
    """Move all that the filter finds in `statuses`, a batch in each transaction. Returns how many were moved.

    `move` is one of the three above, with `who` and what is to be on record, as in `lambda connection, ids:
    requeue(connection, ids, who, filter=wanted.given())`. What is queued meanwhile is taken along, what somebody else
    moves is left alone.
    """
    moved, last = 0, 0
    while True:
        with engine.begin() as connection:
            ids = searching.matching(connection, wanted, statuses, after=last, limit=BATCH)
            moved += len(move(connection, ids)) if ids else 0
        progress(moved)
        if len(ids) < BATCH:
            return moved
        last = ids[-1]


def pause(connection: sa.Connection, relay: str, reason: str, who: str) -> None:
    """`breaker.pause`, on record."""
    breaker.pause(connection, relay, reason, who)
    record(connection, who, "pause", f"relay {relay}", reason=reason)


def resume(connection: sa.Connection, relay: str, who: str) -> bool:
    """`breaker.resume`, on record. False if nothing held the relay back."""
    resumed = breaker.resume(connection, relay, who)
    if resumed:
        record(connection, who, "resume", f"relay {relay}")
    return resumed


def suppress(
    connection: sa.Connection,
    target: str,
    reason: str,
    who: str,
    until: datetime | None = None,
    *,
    category: str = "",
) -> Suppression:
    """`suppressions.add`, on record."""
    added = suppressions.add(connection, target, reason, who, until, category=category)
    record(connection, who, "suppress", added.target, reason=reason, category=category)
    return added


def unsuppress(connection: sa.Connection, target: str, who: str, *, category: str = "") -> bool:
    """`suppressions.remove`, on record. False if there was nothing to remove."""
    removed = suppressions.remove(connection, target, category)
    if removed:
        record(connection, who, "unsuppress", suppressions.spelled(target), category=category)
    return removed
