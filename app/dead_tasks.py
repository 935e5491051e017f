"""Celery tasks that failed for good, kept until somebody has looked: they can be read, and sent once more.

    fails for good ──> a line ──retry──> on its way ──fails again──> the line, as before, with the newer failure
                         │                    └──────succeeds──────> no line; the audit says who sent it
                         └─ deleted, or past OUTBOX_RETENTION_DAYS

A task that is sent once more keeps its id, so that whatever becomes of it finds its line, and what a task writes under
its id (an export, a notification) is written once.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from celery import Celery
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.background import UNREACHABLE
from app.celery_app import REQUEST_ID
from app.database import Base
from outbox import auditing
from outbox.database import BigId, UtcDateTime, insert, reading, utcnow
from outbox.errors import NotPossible
from outbox.times import clock

ON_ITS_WAY = timedelta(hours=1)
"""That a task may take which was sent once more, all its tries included. Then it counts as lost with its broker."""

BATCH = 1000
"""Lines that are purged in one transaction."""


class DeadTask(Base):
    """A task that failed for good. What carries mail is not among them: its row in `email_queue` is the truth."""

    __tablename__ = "dead_tasks"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    task_id: Mapped[str] = mapped_column(sa.Text, unique=True)
    """Celery's: a task that is delivered again, and fails again, has one line."""
    name: Mapped[str] = mapped_column(sa.Text)
    queue: Mapped[str] = mapped_column(sa.Text)
    args: Mapped[list[Any] | None] = mapped_column(sa.JSON, nullable=False)
    """None, as JSON: they were too long to be kept, and the task cannot be sent once more."""
    kwargs: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON, nullable=False)
    exception: Mapped[str] = mapped_column(sa.Text)
    """Its type and its words."""
    traceback: Mapped[str] = mapped_column(sa.Text)
    tries: Mapped[int]
    """Since it was sent, or last sent by a person."""
    request_id: Mapped[str | None] = mapped_column(sa.Text)
    failed_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    retried_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When a person sent it once more, under its own id: if it fails again, this is empty again."""
    retried_by: Mapped[str | None] = mapped_column(sa.Text)


class BrokerAway(NotPossible):
    """Nor would any other task reach it now."""


class Failure(NamedTuple):
    """What is kept of one: the columns of the same names."""

    task_id: str
    name: str
    queue: str
    args: list[Any] | None
    kwargs: dict[str, Any] | None
    exception: str
    traceback: str
    tries: int
    request_id: str | None


class OfOneName(NamedTuple):
    """What failed of one task."""

    name: str
    failures: int
    first: datetime
    last: datetime
    exception: str
    """Of the last."""


def keep(connection: sa.Connection, failure: Failure) -> int:
    """Write it down, over what was known of the same task. Returns the line's id."""
    new = insert(DeadTask, connection).values(**failure._asdict())
    now: dict[str, Any] = {name: new.excluded[name] for name in Failure._fields if name != "task_id"}
    now |= {"failed_at": utcnow(), "retried_at": None, "retried_by": None}
    statement = new.on_conflict_do_update(index_elements=[DeadTask.task_id], set_=now).returning(DeadTask.id)
    return connection.scalars(statement).one()


def forget(engine: sa.Engine, task_id: str) -> bool:
    """The task has succeeded after all. False if nothing was known against it, as of nearly all of them."""
    with reading(engine) as connection:
        if connection.scalar(sa.select(DeadTask.id).where(DeadTask.task_id == task_id)) is None:
            return False
    with engine.begin() as connection:
        return connection.execute(sa.delete(DeadTask).where(DeadTask.task_id == task_id)).rowcount > 0


def listed(
    session: Session,
    before: int | None = None,
    limit: int = 50,
    *,
    name: str | None = None,
    failed_before: datetime | None = None,
) -> Sequence[DeadTask]:
    """The newest, with ids below `before`: the id of the last one of the page before."""
    query = sa.select(DeadTask).where(*conditions(name, failed_before)).order_by(DeadTask.id.desc()).limit(limit)
    return session.scalars(query if before is None else query.where(DeadTask.id < before)).all()


def conditions(name: str | None, failed_before: datetime | None) -> list[sa.ColumnElement[bool]]:
    """What a filter asks for."""
    conditions = []
    if name is not None:
        conditions.append(DeadTask.name == name)
    if failed_before is not None:
        conditions.append(DeadTask.failed_at < failed_before)
    return conditions


def by_name(session: Session, name: str | None = None, failed_before: datetime | None = None) -> list[OfOneName]:
    """How many failed of each task, most first."""
    newest, count = sa.func.max(DeadTask.id).label("newest"), sa.func.count().label("count")
    first, last = sa.func.min(DeadTask.failed_at).label("first"), sa.func.max(DeadTask.failed_at).label("last")
    groups = sa.select(newest, count, first, last).where(*conditions(name, failed_before)).group_by(DeadTask.name)
    of = groups.subquery()
    query = (
        sa.select(DeadTask.name, of.c.count, of.c.first, of.c.last, DeadTask.exception)
        .join(of, DeadTask.id == of.c.newest)
        .order_by(of.c.count.desc(), DeadTask.name)
    )
    return [OfOneName(*row) for row in session.execute(query)]


def retry(session: Session, celery: Celery, dead_id: int, who: str) -> None:
    """Send it once more, as it was; the caller commits. NotPossible, with a sentence, if it cannot be: nothing changed.

    It is published before the commit: should that fail, the task runs all the same, once more, which is harmless.
    And a worker that is faster than the commit waits for this line.
    """
    dead = _locked(session, dead_id)
    if dead.args is None or dead.kwargs is None:
        raise NotPossible(
            f"Dead task {dead_id} ({dead.name}) cannot be sent once more: its arguments were too long to be kept. "
            "Have what asked for it ask again."
        )
    if dead.retried_at and dead.retried_at > datetime.now(UTC) - ON_ITS_WAY:
        raise NotPossible(
            f"Dead task {dead_id} ({dead.name}) was sent once more at {clock(dead.retried_at)} by {dead.retried_by} "
            "and is on its way. If it fails again it is listed as failed, and if it succeeds not at all."
        )
    try:
        celery.send_task(
            dead.name,
            dead.args,
            dead.kwargs,
            task_id=dead.task_id,
            queue=dead.queue,
            headers={REQUEST_ID: dead.request_id} if dead.request_id else None,
        )
    except UNREACHABLE as error:
        raise BrokerAway(
            f"Dead task {dead_id} ({dead.name}) was not sent: the broker does not answer ({error}). Nothing was "
            "changed; try again when it is back."
        ) from error
    dead.retried_at, dead.retried_by = datetime.now(UTC), who
    session.flush()
    auditing.record(session.connection(), who, "retry", f"task {dead_id} ({dead.name})", task_id=dead.task_id)


def delete(session: Session, dead_id: int, who: str) -> None:
    """Nobody needs it any more; the caller commits. NotPossible if there is none of that id."""
    dead = _locked(session, dead_id)
    session.delete(dead)
    session.flush()
    auditing.record(session.connection(), who, "delete", f"task {dead_id} ({dead.name})", exception=dead.exception)


def purge(engine: sa.Engine, failed_before: datetime, name: str | None = None) -> int:
    """Delete what failed before then, a batch in each transaction. Returns how many lines went."""
    purged = 0
    old = sa.select(DeadTask.id).where(*conditions(name, failed_before)).order_by(DeadTask.id).limit(BATCH)
    while True:
        with engine.begin() as connection:
            gone = connection.execute(sa.delete(DeadTask).where(DeadTask.id.in_(old))).rowcount
        purged += gone
        if gone < BATCH:
            return purged


def _locked(session: Session, dead_id: int) -> DeadTask:
    dead = session.get(DeadTask, dead_id, with_for_update={"key_share": True}, populate_existing=True)
    if dead is None:
        raise NotPossible(f"There is no dead task {dead_id}: it succeeded when it was sent once more, or was deleted.")
    return dead
