"""Mails by what is known of them: what `list`, the pages, the API and every move "on a filter" look with.

Newest first, along the primary key, a page behind the id of the last one: the thousandth page costs what the first
does. What an index knows (recipient, Message-ID, request, and every status but `sent`) is found however old it is. For
the rest, a subject or a category, a page reads at most `WINDOW` mails and says how far it came: at five million rows
the next click costs 5 to 25 ms, and not the whole history.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox.models import EmailContent, QueuedEmail
from outbox.states import DeadReason, Priority, Status

WINDOW = 10_000
"""Mails that a page looks through at most."""

_ASTRAY = timedelta(hours=1)
"""By which ids and times may disagree: ids are drawn during a transaction, whose time is its beginning."""

_Q = QueuedEmail

_INDEXED = {
    Status.PENDING: "email_queue.status = 'pending'",
    Status.CLAIMED: "email_queue.status IN ('claimed', 'sending') AND email_queue.status = 'claimed'",
    Status.SENDING: "email_queue.status IN ('claimed', 'sending') AND email_queue.status = 'sending'",
    Status.SENT: "email_queue.status = 'sent'",  # most rows are: the newest are found at once
    Status.DEAD: "email_queue.status IN ('dead', 'uncertain') AND email_queue.status = 'dead'",
    Status.UNCERTAIN: "email_queue.status IN ('dead', 'uncertain') AND email_queue.status = 'uncertain'",
    Status.CANCELLED: "email_queue.status = 'cancelled'",
}
"""The condition, led by the predicate of the partial index that knows the rows of that status."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Everything that is given must hold. `str` of it says so in words, for a question or the record."""

    status: Status | None = None
    dead_reason: DeadReason | None = None
    recipient: str | None = None
    """The whole address, in whatever letter case."""
    subject: str | None = None
    """A part of it, in whatever letter case."""
    category: str | None = None
    priority: Priority | None = None
    message_id: str | None = None
    """With its angle brackets or without."""
    request_id: str | None = None
    since: datetime | None = None
    """Queued then or later."""
    until: datetime | None = None
    """Queued before."""

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.given().items()) or "all mail"

    def given(self) -> dict[str, str]:
        """What it asks for, by name, as text."""
        return {name.replace("_", " "): _told(value) for name, value in asdict(self).items() if value is not None}


def _told(value: object) -> str:
    match value:
        case datetime():
            return value.isoformat()
        case Priority():
            return value.label
    return str(value)


class Page(NamedTuple):
    """Mails, newest first, and where to go on."""

    mails: Sequence[QueuedEmail]
    next_before: int | None
    """Give it as `before` for what comes behind; None: there is nothing more."""
    searched_to: datetime | None
    """How far back it has looked, if it stopped at `WINDOW` rather than with a full page."""


def page(session: Session, wanted: Filter, *, before: int | None = None, limit: int = 50) -> Page:
    """The newest `limit` mails with an id below `before`; fewer, if more are further back than a page looks."""
    connection = session.connection()
    indexed, further = _conditions(connection, wanted)
    if before is not None:
        indexed.append(_Q.id < before)
    behind: sa.Select[Any] = sa.select(_Q).where(*indexed)
    lowest, is_all = (None, True) if not further else _window(connection, indexed)
    if lowest is not None:
        behind = behind.where(_Q.id >= lowest)
    mails = session.scalars(behind.where(*further).order_by(_Q.id.desc()).limit(limit)).all()
    if len(mails) == limit:
        return Page(mails, mails[-1].id, None)
    if is_all or lowest is None:
        return Page(mails, None, None)
    searched_to = session.scalars(sa.select(_Q.created_at).where(_Q.id == lowest)).one()
    return Page(mails, lowest, searched_to)


def matching(
    connection: sa.Connection, wanted: Filter, statuses: Sequence[Status], *, after: int = 0, limit: int = 500
) -> Sequence[int]:
    """Ids of mails in one of `statuses`, ascending from behind `after`: those that a move on a filter takes.

    The statuses make it cheap: none but `sent` has history, and nobody moves what is sent.
    """
    conditions = _among(connection, wanted, statuses)
    return connection.scalars(sa.select(_Q.id).where(*conditions, _Q.id > after).order_by(_Q.id).limit(limit)).all()


def count_matching(connection: sa.Connection, wanted: Filter, statuses: Sequence[Status]) -> int:
    """How many such a move would take now."""
    conditions = _among(connection, wanted, statuses)
    return connection.scalars(sa.select(sa.func.count()).select_from(_Q).where(*conditions)).one()


def _among(connection: sa.Connection, wanted: Filter, statuses: Sequence[Status]) -> list[Any]:
    """A status that is asked for is not asked for twice: the planner would read and sort all rows for each batch."""
    indexed, further = _conditions(connection, wanted)
    if wanted.status is None:
        indexed.append(sa.or_(*(sa.text(_INDEXED[status]) for status in statuses)))
    elif wanted.status not in statuses:
        indexed.append(sa.false())
    return indexed + further


def _conditions(connection: sa.Connection, wanted: Filter) -> tuple[list[Any], list[Any]]:
    """Those that an index answers, and those for which rows are read."""
    indexed: list[Any] = []
    further: list[Any] = []
    if wanted.status is not None:
        indexed.append(sa.text(_INDEXED[wanted.status]))
    if wanted.recipient is not None:
        # Both sides by the database: which letters its `lower` knows is its own affair.
        indexed.append(sa.text("lower(recipient) = lower(:recipient)").bindparams(recipient=wanted.recipient.strip()))
    contents = sa.select(EmailContent.id)
    if wanted.message_id is not None:
        id_ = f"<{wanted.message_id.strip().strip('<>')}>"
        indexed.append(_Q.content_id.in_(contents.where(EmailContent.message_id == id_)))
    if wanted.request_id is not None:
        indexed.append(_Q.content_id.in_(contents.where(EmailContent.request_id == wanted.request_id.strip())))
    if wanted.since is not None:
        indexed += since(connection, _Q.id, _Q.created_at, wanted.since)
    if wanted.until is not None:
        indexed += until(connection, _Q.id, _Q.created_at, wanted.until)
    if wanted.subject is not None:
        further.append(_Q.subject.icontains(wanted.subject, autoescape=True))
    for column, value in (
        (_Q.category, wanted.category),
        (_Q.priority, wanted.priority),
        (_Q.dead_reason, wanted.dead_reason),
    ):
        if value is not None:
            further.append(column == value)
    return indexed, further


def _window(connection: sa.Connection, indexed: Sequence[Any]) -> tuple[int | None, bool]:
    """The lowest id of the next `WINDOW` mails that the indexed conditions leave, and whether those are all."""
    ids = sa.select(_Q.id).where(*indexed).order_by(_Q.id.desc()).limit(WINDOW).subquery()
    lowest, count = connection.execute(sa.select(sa.func.min(ids.c.id), sa.func.count())).one()
    return lowest, count < WINDOW


def since(connection: sa.Connection, id_: Any, time: Any, moment: datetime) -> list[sa.ColumnElement[bool]]:
    """Conditions on the rows of that time and later, in a table whose ids and times rise together."""
    return [id_ >= _first_id_of(connection, id_, time, moment - _ASTRAY), time >= moment]


def until(connection: sa.Connection, id_: Any, time: Any, moment: datetime) -> list[sa.ColumnElement[bool]]:
    """The same on those before."""
    return [id_ < _first_id_of(connection, id_, time, moment + _ASTRAY), time < moment]


def _first_id_of(connection: sa.Connection, id_: Any, time: Any, moment: datetime) -> int:
    """The id from which on rows are of `moment` or later, found by halving: some twenty probes of the index.

    `created_at` has no index of its own: it would be written three times for every mail, and asked once a week. One
    statement, since a busy machine lets each of twenty wait for its turn.
    """
    # Each for itself: of two at once, SQLite reads the table.
    least, most = (sa.select(end(id_)).scalar_subquery() for end in (sa.func.min, sa.func.max))
    halved = sa.select(least.label("low"), (most + 1).label("high")).cte("halved", recursive=True)
    low, high = halved.c.low, halved.c.high
    middle = low + (high - low) // 2
    is_later = sa.select(time).where(id_ >= middle).order_by(id_).limit(1).scalar_subquery() >= moment
    halved = halved.union_all(
        sa.select(
            sa.case((is_later, low), else_=middle + 1),
            sa.case((is_later, middle), else_=high),
        ).where(low < high)
    )
    # Of an empty table, both ends are NULL.
    return connection.scalars(sa.select(halved.c.low).where(halved.c.low == halved.c.high)).one_or_none() or 0
