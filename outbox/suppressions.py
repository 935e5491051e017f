"""Who must not get mail, and since when, why, and on whose word.

A target is an address, or a domain for every address in it; its subdomains are not in it. A line with a category stops
the mail of that category alone, one without stops all. Asked when a mail is queued, and again when it is sent. Letter
case does not matter: hardly a host tells `Ada@` from `ada@`, and to write to somebody who asked us not to is worse than
to spare somebody else.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from outbox.addresses import parse_mailbox
from outbox.database import PostgreSQL, Statement, UtcDateTime, Words, insert, utcnow
from outbox.errors import InvalidEmail
from outbox.models import EmailSuppression


class Suppression(NamedTuple):
    """A line of `email_suppressions`."""

    target: str
    reason: str
    source: str
    until: datetime | None
    created_at: datetime
    category: str = ""
    """Empty: all mail."""


Question = tuple[str, str | None]
"""An address, and the category of the mail to it, if that is one that can be unsubscribed from."""


def _covering(sql: Words) -> str:
    return f"""
SELECT target, reason, source, until, created_at, category FROM email_suppressions
 WHERE target {sql.among(sql.texts(":targets"))} AND (until IS NULL OR until > {sql.now})"""


def stopping(targets: str) -> str:
    """A row if any mail to one of the `targets` may not go; which, `covering` knows. In words of PostgreSQL."""
    return f"""
SELECT FROM email_suppressions
 WHERE target {PostgreSQL.among(PostgreSQL.texts(targets))} AND (until IS NULL OR until > now())"""


_COVERING = Statement(_covering, until=UtcDateTime, created_at=UtcDateTime)


def find(connection: sa.Connection, questions: Iterable[Question]) -> dict[Question, str]:
    """Question, as asked -> why that mail must not go now. What may go is not among them."""
    return {question: found.reason for question, found in covering(connection, questions).items()}


def covering(connection: sa.Connection, questions: Iterable[Question]) -> dict[Question, Suppression]:
    """The same with all that is known of it. One query, along the primary key, for however many questions.

    A line that stops all mail answers before one of a category, and the address's own before its domain's.
    """
    lines = {question: _lines(*question) for question in questions}
    if not lines:
        return {}
    asked = sorted({target for keys in lines.values() for target, _ in keys})
    found = _COVERING(connection, targets=json.dumps(asked))
    there = {(line.target, line.category): Suppression._make(line) for line in found}
    answers = {question: next((key for key in keys if key in there), None) for question, keys in lines.items()}
    return {question: there[key] for question, key in answers.items() if key is not None}


def add(
    connection: sa.Connection,
    target: str,
    reason: str,
    source: str,
    until: datetime | None = None,
    *,
    category: str = "",
) -> Suppression:
    """Suppress an address or a domain; a line that is there gets the new reason, source and end.

    Raises InvalidAddress for what is neither, and InvalidEmail for a reason that says nothing and an end in the past.
    """
    if not reason.strip() or not reason.isprintable():
        raise InvalidEmail("reason", reason, "say why, in printable characters")
    if until is not None and until <= connection.execute(sa.select(utcnow())).scalar_one():
        raise InvalidEmail("until", until.isoformat(), "give a time to come")
    values = {"reason": reason, "source": source, "until": until}
    added = (
        insert(EmailSuppression, connection)
        .values(target=spelled(target), category=category, **values)
        .on_conflict_do_update(index_elements=["target", "category"], set_=values)
        .returning(*_COLUMNS)
    )
    return Suppression._make(connection.execute(added).one())


def add_for_good(connection: sa.Connection, address: str, reason: str, source: str) -> None:
    """Suppress an address of our own queue, on the word of a server. A line that does not end keeps what it says."""
    s = EmailSuppression
    values = {"reason": reason, "source": source}
    connection.execute(
        insert(s, connection)
        .values(target=address.lower(), category="", **values)
        .on_conflict_do_update(
            index_elements=["target", "category"],
            set_=values | {"until": None, "created_at": utcnow()},
            where=s.until.is_not(None),
        )
    )


def remove(connection: sa.Connection, target: str, category: str = "") -> bool:
    """Remove that one line. Whether there was such a line; what died of it stays dead until requeued."""
    s = EmailSuppression
    gone = sa.delete(s).where(s.target == spelled(target), s.category == category).returning(s.target)
    return connection.execute(gone).first() is not None


def listed(connection: sa.Connection) -> Sequence[Suppression]:
    """All of them by name, those that are over included."""
    query = sa.select(*_COLUMNS).order_by(EmailSuppression.target, EmailSuppression.category)
    return [Suppression._make(row) for row in connection.execute(query)]


def page(
    connection: sa.Connection, wanted: str = "", *, after: tuple[str, str] | None = None, limit: int
) -> Sequence[Suppression]:
    """The first `limit` by name behind the target and category of `after`.

    `wanted`: an address finds what stops mail to it, its domain's line included; anything else is a part of a target,
    for which the table is read on until the page is full.
    """
    s = EmailSuppression
    query = sa.select(*_COLUMNS).order_by(s.target, s.category).limit(limit)
    if after is not None:
        query = query.where(sa.tuple_(s.target, s.category) > after)
    if wanted:
        try:
            address = spelled(wanted)
        except InvalidEmail:
            address = ""
        is_address = "@" in address
        query = query.where(
            s.target.in_([address, address.rpartition("@")[2]])
            if is_address
            else s.target.contains(wanted.strip().lower(), autoescape=True)
        )
    return [Suppression._make(row) for row in connection.execute(query)]


def spelled(target: str) -> str:
    """The target as the table has it: lower case, the domain in IDNA form."""
    if "@" in target:
        return parse_mailbox("target", target).address.lower()
    try:
        return parse_mailbox("target", f"postmaster@{target.strip()}").domain.lower()
    except InvalidEmail as error:
        raise type(error)("target", target, "give an address, or a domain such as example.com") from error


_COLUMNS = tuple(getattr(EmailSuppression, name) for name in Suppression._fields)


def targets(addresses: Iterable[str]) -> list[str]:
    """What lines that stop mail to these addresses name."""
    return sorted({target for address in addresses for target, _ in _lines(address, None)})


def _lines(address: str, category: str | None) -> list[tuple[str, str]]:
    """The keys of the lines that would stop such a mail, the first that is there answers."""
    own = address.lower()
    categories = ("", category) if category else ("",)
    return [(target, name) for name in categories for target in (own, own.rpartition("@")[2])]
