"""What is old goes: bodies and files after `OUTBOX_BODY_RETENTION_DAYS`, rows after `OUTBOX_RETENTION_DAYS`, and the
record of who did what, which outlives the mail that it speaks of, after `OUTBOX_AUDIT_RETENTION_DAYS`.

A mail's age counts from the end of its last recipient; one of which any row is not final keeps everything. With a mail
go its rows, their attempts and events, and its idempotency key: the same key then makes a new mail.

Each batch is a transaction. It locks the mails that it means, passing over those that are locked, and looks in a second
statement, under the lock, whether they still are what they seemed. `operations.requeue`, which alone moves a row that
is final, takes the same lock; so does, on a file, whoever refers to it (`enqueue`). Two purges at once share the work.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from outbox.database import reading, utcnow
from outbox.models import EmailAttachment, EmailAudit, EmailBlob, EmailContent, QueuedEmail
from outbox.settings import Settings

BATCH = 500
"""Mails in a transaction: short enough that nobody waits for its locks."""

_C, _Q, _B, _A = EmailContent, QueuedEmail, EmailBlob, EmailAudit
BY_END = (_Q.finalized_at, _Q.id)
BY_AGE = (_C.created_at, _C.id)
FILES_BY_AGE = (_B.created_at, _B.sha256)

# As their indexes have it, word by word.
_FINAL = sa.text("email_queue.status IN ('sent', 'dead', 'cancelled')")
_UNPURGED = sa.text("email_contents.purged_at IS NULL")

# Neither this nor `_is_over` is written as NOT EXISTS: the planner would make a join of that, and read the whole table
# for it. Both are of type boolean, which it takes for true of every other row, and so foresees a batch of a few
# thousand steps. Of a comparison with a subquery (`... IS NULL`, `... = 0`) it expects one in 200, foresees a million
# steps, and compiles (JIT) for a second what then runs for a millisecond.
#
# One link is enough: a logo may have a million.
_HAS_NO_LINK = sa.func.coalesce(
    sa.select(sa.false()).where(EmailAttachment.sha256 == _B.sha256).limit(1).scalar_subquery(), sa.true()
)


@dataclass
class Purged:
    """What went."""

    mails: int = 0
    """With all that is known of them."""
    bodies: int = 0
    """Of mails whose rows stay."""
    files: int = 0
    bytes: int = 0
    """Of those files."""
    lines: int = 0
    """Of the record of who did what."""


def purge(
    engine: sa.Engine,
    settings: Settings,
    *,
    dry_run: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> Purged:
    """Delete what is past its retention. With `dry_run` only count it; files that go with their mails are not counted.

    The ages are by the database's clock. `progress` hears after each batch how much it was.
    """
    with reading(engine) as connection:
        now = connection.execute(sa.select(utcnow())).scalar_one()
    rows_before = now - timedelta(days=settings.outbox_retention_days)
    bodies_before = now - timedelta(days=settings.outbox_body_retention_days)
    purged = Purged()
    for ids in _batches(engine, old_mails(rows_before), *BY_END):
        purged.mails += len(ids) if dry_run else _in_transaction(engine, delete_mails, ids, rows_before)
        progress(len(ids))
    for ids in _batches(engine, old_bodies(bodies_before), *BY_AGE):
        purged.bodies += len(ids) if dry_run else _in_transaction(engine, empty_bodies, ids, bodies_before)
        progress(len(ids))
    for hashes in _batches(engine, old_files(bodies_before), *FILES_BY_AGE):
        with engine.begin() as connection:
            sizes = (_sizes if dry_run else delete_files)(connection, hashes)
        purged.files += len(sizes)
        purged.bytes += sum(sizes)
        progress(len(hashes))
    purged.lines = _purge_audit(engine, now - timedelta(days=settings.outbox_audit_retention_days), dry_run, progress)
    return purged


def old_mails(before: datetime) -> sa.Select[Any]:
    """The mails that ended before: each once, by the last of its rows."""
    return sa.select(_Q.content_id).where(
        _FINAL, _Q.finalized_at < before, _is_over(_Q.content_id, before, lambda rows: sa.func.max(rows.id) == _Q.id)
    )


def old_bodies(before: datetime) -> sa.Select[Any]:
    """The mails that ended before, and whose bodies are still there."""
    # None ends before it is made; the index has little more than what is wanted.
    return sa.select(_C.id).where(_UNPURGED, _C.created_at < before, _is_over(_C.id, before))


def old_files(before: datetime) -> sa.Select[Any]:
    """The files that were stored before and that no mail has. A younger one may wait for its mail."""
    return sa.select(_B.sha256).where(_B.created_at < before, _HAS_NO_LINK)


def delete_mails(connection: sa.Connection, ids: Sequence[int], before: datetime) -> int:
    """Delete those of them that still are what they seemed, with their rows and attempts. Returns their number."""
    locked = _lock(connection, ids)
    return connection.execute(sa.delete(_C).where(_C.id.in_(locked), _is_over(_C.id, before))).rowcount


def empty_bodies(connection: sa.Connection, ids: Sequence[int], before: datetime) -> int:
    """Forget what those of them said that still are what they seemed, and the files that they carried."""
    empty = {name: sa.null() for name in ("text", "html", "contexts", "sealed")}
    emptied = connection.scalars(
        sa.update(_C)
        .where(_C.id.in_(_lock(connection, ids)), _UNPURGED, _is_over(_C.id, before))
        .values(purged_at=utcnow(), **empty)
        .returning(_C.id)
    ).all()
    connection.execute(sa.delete(EmailAttachment).where(EmailAttachment.content_id.in_(emptied)))
    return len(emptied)


def delete_files(connection: sa.Connection, hashes: Sequence[str]) -> Sequence[int]:
    """Delete those of them that no mail has, nor is about to have. Returns the bytes of each.

    FOR UPDATE, since it alone keeps out who wants to refer to the row, and passes over a row that somebody refers to.
    """
    lock = sa.select(_B.sha256).where(_B.sha256.in_(hashes)).with_for_update(skip_locked=True)
    locked = connection.scalars(lock).all()
    delete = sa.delete(_B).where(_B.sha256.in_(locked), _HAS_NO_LINK)
    return connection.scalars(delete.returning(_B.size)).all()


def _purge_audit(engine: sa.Engine, before: datetime, dry_run: bool, progress: Callable[[int], object]) -> int:
    """Along the primary key from its begin: what is oldest was written first, or nearly."""
    gone, last = 0, 0
    while True:
        query = sa.select(_A.id, _A.at).where(_A.id > last).order_by(_A.id).limit(BATCH)
        with reading(engine) as connection:
            lines = connection.execute(query).all()
        old = [line.id for line in lines if line.at < before]
        if old and not dry_run:
            with engine.begin() as connection:
                connection.execute(sa.delete(_A).where(_A.id.in_(old)))
        gone += len(old)
        progress(len(old))
        if len(old) < BATCH:
            return gone
        last = old[-1]


def _sizes(connection: sa.Connection, hashes: Sequence[str]) -> Sequence[int]:
    return connection.scalars(sa.select(_B.size).where(_B.sha256.in_(hashes))).all()


def _is_over(content_id: Any, before: datetime, *further: Callable[[Any], Any]) -> sa.ScalarSelect[bool]:
    """Whether each row of the mail is, and for long enough; and what else is to be true of its rows together."""
    rows = sa.orm.aliased(_Q)
    over = sa.and_(rows.finalized_at.is_not(None), rows.finalized_at < before)
    true = sa.and_(sa.func.count().filter(~over) == 0, *(condition(rows) for condition in further))
    return sa.select(true).where(rows.content_id == content_id).scalar_subquery()


def _lock(connection: sa.Connection, ids: Sequence[int]) -> Sequence[int]:
    query = sa.select(_C.id).where(_C.id.in_(ids)).order_by(_C.id)
    return connection.scalars(query.with_for_update(key_share=True, skip_locked=True)).all()


def _batches(engine: sa.Engine, query: sa.Select[Any], *order: Any) -> Iterator[list[Any]]:
    """What the query finds, a batch at a time: each begins behind the one before, whatever became of that."""
    ordered = first(query, *order)
    behind: sa.Select[Any] = ordered
    while True:
        with reading(engine) as connection:
            rows = connection.execute(behind).all()
        if rows:
            yield [row[0] for row in rows]
        if len(rows) < BATCH:
            return
        reached = (sa.literal(value, column.type) for value, column in zip(rows[-1][1:], order, strict=True))
        behind = ordered.where(sa.tuple_(*order) > sa.tuple_(*reached))


def first(query: sa.Select[Any], *order: Any) -> sa.Select[Any]:
    """Its first batch, in this order, and behind what is asked for what it is ordered by."""
    named = (column.label(f"order_{number}") for number, column in enumerate(order))
    return query.add_columns(*named).order_by(*order).limit(BATCH)


def _in_transaction(engine: sa.Engine, act: Callable[..., int], *arguments: Any) -> int:
    with engine.begin() as connection:
        return act(connection, *arguments)
