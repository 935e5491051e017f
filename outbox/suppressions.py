"""Who must not get mail, and since when, why, and on whose word.

A target is an address, or a domain for every address in it; its subdomains are not in it. Asked when a mail is queued,
and again when it is sent. Letter case does not matter: hardly a host tells `Ada@` from `ada@`, and to write to somebody
who asked us not to is worse than to spare somebody else.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from outbox.addresses import parse_mailbox
from outbox.database import Statement, UtcDateTime, Words, insert, utcnow
from outbox.errors import InvalidEmail
from outbox.models import EmailSuppression


class Suppression(NamedTuple):
    """A line of `email_suppressions`."""

    target: str
    reason: str
    source: str
    until: datetime | None
    created_at: datetime


def _covering(sql: Words) -> str:
    return f"""
SELECT target, reason, source, until, created_at FROM email_suppressions
 WHERE target {sql.among(sql.texts(":targets"))} AND (until IS NULL OR until > {sql.now})"""


_COVERING = Statement(_covering, until=UtcDateTime, created_at=UtcDateTime)


def find(connection: sa.Connection, addresses: Iterable[str]) -> dict[str, str]:
    """Address, as given -> why it must not get mail now. Whoever may get it is not among them."""
    return {address: found.reason for address, found in covering(connection, addresses).items()}


def covering(connection: sa.Connection, addresses: Iterable[str]) -> dict[str, Suppression]:
    """The same with all that is known of it. One query, along the primary key, for however many addresses.

    Where the address and its domain are both suppressed, the address's own line answers.
    """
    targets = {address: (address.lower(), _domain(address.lower())) for address in addresses}
    if not targets:
        return {}
    asked = sorted({target for pair in targets.values() for target in pair})
    found = _COVERING(connection, targets=json.dumps(asked))
    there = {line.target: Suppression._make(line) for line in found}
    return {
        address: there[own] if own in there else there[domain]
        for address, (own, domain) in targets.items()
        if own in there or domain in there
    }


def add(connection: sa.Connection, target: str, reason: str, source: str, until: datetime | None = None) -> Suppression:
    """Suppress an address or a domain; one that is there gets the new reason, source and end.

    Raises InvalidAddress for what is neither, and InvalidEmail for a reason that says nothing and an end in the past.
    """
    if not reason.strip() or not reason.isprintable():
        raise InvalidEmail("reason", reason, "say why, in printable characters")
    if until is not None and until <= connection.execute(sa.select(utcnow())).scalar_one():
        raise InvalidEmail("until", until.isoformat(), "give a time to come")
    values = {"reason": reason, "source": source, "until": until}
    added = (
        insert(EmailSuppression, connection)
        .values(target=spelled(target), **values)
        .on_conflict_do_update(index_elements=["target", "category"], set_=values)
        .returning(*_COLUMNS)
    )
    return Suppression._make(connection.execute(added).one())


def remove(connection: sa.Connection, target: str) -> bool:
    """Let the target have mail again. Whether there was such a line; what died of it stays dead until requeued."""
    gone = sa.delete(EmailSuppression).where(EmailSuppression.target == spelled(target)).returning(*_COLUMNS)
    return connection.execute(gone).first() is not None


def listed(connection: sa.Connection) -> Sequence[Suppression]:
    """All of them by name, those that are over included."""
    query = sa.select(*_COLUMNS).order_by(EmailSuppression.target)
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


def _domain(address: str) -> str:
    return address.rpartition("@")[2]
