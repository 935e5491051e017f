"""What became of a mail behind the relay's 250, as a provider or the recipient's own server tells it.

Whoever brings a notice (a webhook, a mailbox of bounces) has checked whose it is and made `Event`s of it. Here each
finds its mail, is kept there once, and suppresses a recipient who does not exist or does not want mail.

An event that names no mail of ours changes nothing. Nor does one that comes again, not even after a person has lifted
the suppression which it brought.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa

from outbox import suppressions
from outbox.database import insert
from outbox.models import EmailAttempt, EmailContent, EmailEvent, QueuedEmail
from outbox.states import Feedback, Outcome, Status

LONGEST_SAID = 500
"""Characters of the other server's words: a reply of several lines, without the pages that some append."""

_LONGEST_ID = 255
_SHORTEST_PROVIDER_ID = 8
"""Characters: less is found in any reply by chance."""

_NEWEST = 1000
"""Mails of the recipient whose replies are looked through for a provider's id: feedback follows within days."""

_SUPPRESSING = {
    Feedback.BOUNCED: "bounced",
    Feedback.COMPLAINED: "complained",
}
"""All mail to the recipient, whatever its category: the next mail to somebody who calls us spam costs everybody's
delivery, and a provider does not tell which of our mails they are tired of."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a mail on its way to one recipient."""

    kind: Feedback
    provider: str
    id: str
    """The provider's name for it, the same however often it is told."""
    recipient: str
    occurred_at: datetime
    said: str = ""
    message_ids: tuple[str, ...] = ()
    """What may be our Message-ID, with angle brackets or without."""
    provider_id: str | None = None
    """The provider's own name for the mail, where its reply to our final dot has told that name."""


class Taken(StrEnum):
    """What an event came to."""

    RECORDED = "recorded"
    KNOWN = "known"  # told before: nothing changes
    UNKNOWN = "unknown"  # of no mail that we have sent to that recipient


class Notice(NamedTuple):
    """The last word about a mail."""

    kind: Feedback
    provider: str
    occurred_at: datetime
    said: str


def take(connection: sa.Connection, events: Iterable[Event]) -> Counter[Taken]:
    """Keep them, in the caller's transaction."""
    # In one order everywhere, or two transactions wait for each other's suppressions.
    return Counter(_take(connection, event) for event in sorted(events, key=lambda event: event.recipient.lower()))


def _take(connection: sa.Connection, event: Event) -> Taken:
    mail = _find(connection, event)
    if mail is None:
        return Taken.UNKNOWN
    said = one_line(event.said)
    line = (
        insert(EmailEvent, connection)
        .values(
            email_id=mail.id,
            kind=event.kind,
            provider=event.provider,
            provider_event_id=_event_id(event.id),
            occurred_at=min(event.occurred_at, datetime.now(UTC)),
            said=said,
        )
        .on_conflict_do_nothing(index_elements=["email_id", "provider", "provider_event_id"])
    )
    if connection.execute(line.returning(EmailEvent.id)).first() is None:
        return Taken.KNOWN
    if verb := _SUPPRESSING.get(event.kind):
        suppressions.add_for_good(connection, mail.recipient, f"{verb}: {said}" if said else verb, event.provider)
    return Taken.RECORDED


def last(connection: sa.Connection, id_: int) -> Notice | None:
    """What was told last of a mail."""
    e = EmailEvent
    query = sa.select(e.kind, e.provider, e.occurred_at, e.said).where(e.email_id == id_)
    row = connection.execute(query.order_by(e.occurred_at.desc(), e.id.desc()).limit(1)).first()
    return row and Notice(Feedback(row.kind), *row[1:])


def of_mail(connection: sa.Connection, id_: int) -> Sequence[sa.Row[Any]]:
    """All that was told of a mail, in the order in which it happened."""
    table = EmailEvent.__table__
    ordered = sa.select(table).where(table.c.email_id == id_).order_by(table.c.occurred_at, table.c.id)
    return connection.execute(ordered).all()


def one_line(text: str) -> str:
    """Words from outside, fit for a column, a log and a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:LONGEST_SAID]


def _event_id(id_: str) -> str:
    """As it is, unless no column or index would have it."""
    is_fit = 0 < len(id_) <= _LONGEST_ID and id_.isprintable()
    return id_ if is_fit else hashlib.sha256(id_.encode(errors="surrogatepass")).hexdigest()


_Q, _A = QueuedEmail, EmailAttempt
_LEFT_US = sa.or_(
    _Q.status == Status.SENT,
    sa.exists().where(_A.email_id == _Q.id, _A.outcome.in_((Outcome.SENT, Outcome.UNCERTAIN))),
)
"""A relay has, or may have, taken it: nobody can tell anything of one that never went."""


def _find(connection: sa.Connection, event: Event) -> sa.Row[int, str] | None:
    """The mail, locked against a purge: the newest that fits, for the same mail may be owed to an address twice."""
    if not event.recipient.isprintable():
        return None
    named = [f"<{id_.strip().strip('<>')}>" for id_ in event.message_ids if id_ and id_.isprintable()]
    if named:
        contents = sa.select(EmailContent.id).where(EmailContent.message_id.in_(named))
        found = _newest(connection, event, _Q.content_id.in_(contents))
        if found is not None:
            return found
    ids = _replied_with(connection, event) if event.provider_id else []
    return _newest(connection, event, _Q.id.in_(ids)) if ids else None


def _newest(connection: sa.Connection, event: Event, which: sa.ColumnElement[bool]) -> sa.Row[int, str] | None:
    # Without ORDER BY and LIMIT, which would have the planner walk all ids backwards until one fits. They are few.
    mails = sa.select(_Q.id, _Q.recipient).where(which, _to(event.recipient), _LEFT_US)
    found = connection.execute(mails.with_for_update(read=True, key_share=True, of=_Q)).all()
    return max(found, key=lambda mail: mail.id, default=None)


def _replied_with(connection: sa.Connection, event: Event) -> list[int]:
    """Mails to the recipient for which a relay's reply names the provider's id."""
    id_ = event.provider_id or ""
    if len(id_) < _SHORTEST_PROVIDER_ID or not id_.isprintable():
        return []
    # In the order of the index, so that it is the one that is read.
    in_order = sa.text("lower(email_queue.recipient) DESC, email_queue.id DESC")
    newest = connection.scalars(sa.select(_Q.id).where(_to(event.recipient)).order_by(in_order).limit(_NEWEST)).all()
    replies = sa.select(_A.email_id, _A.reply).where(_A.email_id.in_(newest))
    whole = re.compile(rf"(?<![\w-]){re.escape(id_)}(?![\w-])")
    return [row.email_id for row in connection.execute(replies) if whole.search(row.reply)] if newest else []


def _to(recipient: str) -> sa.TextClause:
    # Both sides by the database: which letters its `lower` knows is its own affair.
    return sa.text("lower(email_queue.recipient) = lower(:recipient)").bindparams(recipient=recipient)
