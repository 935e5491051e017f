"""One recipient's personal data goes, on request; that there was a mail, when, and what came of it, stays.

What is his: the address in the rows, and all that his mails said, quoted or were called by: subject, bodies, headers,
file names and files, the relay's replies, a provider's words, keys and ids by which the rows could be tied to him
again. A Message-ID goes, too: a bounce that comes late finds no mail, and brings the address back into no table. In
place of each address stands another random one; two mails of one person cannot be told to be that.

A mail with several recipients is erased for all of them, but for their addresses and what came of it: what it said may
name him, and nobody can tell. So it waits until the mail is over for the last of them.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from outbox import anonymity, auditing, suppressions
from outbox.addresses import parse_mailbox
from outbox.database import reading
from outbox.models import EmailAudit, EmailContent, EmailSuppression, QueuedEmail
from outbox.operations import Resolution
from outbox.states import FINAL, LEASED, Status

BATCH = 200
"""Mails in a transaction: nobody waits long for its locks."""

_LINES = 2000
"""Of the record, read at a time."""

_C, _Q, _A = EmailContent, QueuedEmail, EmailAudit


@dataclass
class Erased:
    """What went, or would go. No address is in it."""

    mails: int = 0
    """To this recipient: their rows stay, anonymous."""
    cancelled: int = 0
    """Of these, how many had not gone yet."""
    given_up: int = 0
    """Of these, how many were uncertain."""
    files: int = 0
    """That no other mail has."""
    suppressions: int = 0
    lines: int = 0
    """Of the record of who did what, that named him; they stay without it."""
    left: int = 0
    """Mails that are not over yet, for him or for another recipient: to be erased another time."""


def erase(
    engine: sa.Engine,
    address: str,
    who: str,
    *,
    keep_suppressed: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> Erased:
    """Erase what is known of the recipient, in batches; what waits to be sent is cancelled first.

    It may be repeated, and has to be while `left` is not 0. `keep_suppressed`: that he must not get mail stays known,
    and with it the address, in that one table.
    """
    address = parse_mailbox("address", address).address
    erased = Erased()
    last = 0
    while True:
        with reading(engine) as connection:
            rows = _rows(connection, address, last)
        if rows:
            with engine.begin() as connection:
                _stop(connection, rows, who, erased)
            with engine.begin() as connection:
                _erase_mails(connection, [row.id for row in rows], address, erased)
            progress(len(rows))
        if len(rows) < BATCH:
            break
        last = rows[-1].id
    naming = _lines_naming(engine, address)
    with engine.begin() as connection:
        erased.lines = _erase_lines(connection, naming, address)
        anonymity.erase_quotations(connection, address)
        erased.suppressions = _erase_suppressions(connection, address, keep=keep_suppressed)
        auditing.record(connection, who, "erase", "a recipient", **asdict(erased))
    _rewrite_file(engine)
    return erased


def preview(engine: sa.Engine, address: str) -> Erased:
    """What `erase` would do now; files and lines of the record are not counted."""
    address = parse_mailbox("address", address).address
    with reading(engine) as connection:
        found = {line.status: line.mails for line in connection.execute(_count(address))}
        suppressed = _suppressed(address)
        lines = connection.scalar(sa.select(sa.func.count()).select_from(EmailSuppression).where(suppressed)) or 0
    left = sum(found.get(status, 0) for status in LEASED)
    return Erased(
        mails=sum(found.values()) - left,
        cancelled=found.get(Status.PENDING, 0),
        given_up=found.get(Status.UNCERTAIN, 0),
        suppressions=lines,
        left=left,
    )


def _is_his(address: str) -> sa.ColumnElement[bool]:
    # As its index has it, and both sides by the database: which letters its `lower` knows is its own affair.
    return sa.func.lower(_Q.recipient) == sa.func.lower(address)


def _count(address: str) -> sa.Select[*tuple[Any, ...]]:
    return sa.select(_Q.status, sa.func.count().label("mails")).where(_is_his(address)).group_by(_Q.status)


def _rows(connection: sa.Connection, address: str, after: int) -> Sequence[sa.Row[*tuple[Any, ...]]]:
    query = sa.select(_Q.id, _Q.status).where(_is_his(address), _Q.id > after).order_by(_Q.id).limit(BATCH)
    return connection.execute(query).all()


def _stop(connection: sa.Connection, rows: Sequence[sa.Row[*tuple[Any, ...]]], who: str, erased: Erased) -> None:
    """Nothing more goes to him. In a transaction of its own: it takes its locks in another order than the erasure."""
    pending = [row.id for row in rows if row.status == Status.PENDING]
    uncertain = [row.id for row in rows if row.status == Status.UNCERTAIN]
    erased.cancelled += len(auditing.cancel(connection, pending, who))
    erased.given_up += len(auditing.resolve(connection, uncertain, Resolution.DEAD, who))


def _erase_mails(connection: sa.Connection, ids: Sequence[int], address: str, erased: Erased) -> None:
    contents = sa.select(_Q.content_id).where(_Q.id.in_(ids))
    # As a requeue does: nobody makes one of these mails live again until we are through.
    lock = sa.select(_C.id).where(_C.id.in_(contents)).order_by(_C.id).with_for_update(key_share=True)
    locked = connection.scalars(lock).all()
    mails: dict[int, list[sa.Row[*tuple[Any, ...]]]] = {}
    query = sa.select(_Q.id, _Q.content_id, _Q.status, _is_his(address).label("his")).where(_Q.content_id.in_(locked))
    for row in connection.execute(query):
        mails.setdefault(row.content_id, []).append(row)
    over = {id_: rows for id_, rows in mails.items() if all(row.status in FINAL for row in rows)}
    his = [row.id for rows in over.values() for row in rows if row.his]
    erased.mails += len(his)
    erased.left += sum(row.his for id_, rows in mails.items() if id_ not in over for row in rows)
    anonymity.erase_rows(connection, his)
    erased.files += anonymity.erase_contents(connection, list(over))
    anonymity.forget_message_ids(connection, [id_ for id_, rows in over.items() if all(row.his for row in rows)])


def _lines_naming(engine: sa.Engine, address: str) -> list[sa.Row[*tuple[Any, ...]]]:
    """All of the record is read: a filter or a reason may quote him anywhere."""
    found: list[sa.Row[*tuple[Any, ...]]] = []
    last = 0
    while True:
        query = sa.select(_A.id, _A.target, _A.detail).where(_A.id > last).order_by(_A.id).limit(_LINES)
        with reading(engine) as connection:
            lines = connection.execute(query).all()
        found += [line for line in lines if any(_names(said, address) for said in (line.target, *_said(line.detail)))]
        if len(lines) < _LINES:
            return found
        last = lines[-1].id


def _said(detail: Any) -> Iterator[str]:
    """All words in it. Not its JSON, where the `n` of a line's end would be a letter of the address behind it."""
    if isinstance(detail, dict):
        detail = [*detail, *detail.values()]
    if isinstance(detail, list):
        for part in detail:
            yield from _said(part)
    else:
        yield str(detail)


def _names(said: str, address: str) -> bool:
    """Whether it is there, and not as the end of another's: `ann@example.com` is in `joann@example.com`."""
    return re.search(rf"(?<!\w){re.escape(address.lower())}(?!\w)", said.lower()) is not None


def _erase_lines(connection: sa.Connection, lines: Sequence[sa.Row[*tuple[Any, ...]]], address: str) -> int:
    named = [line.id for line in lines if _names(line.target, address)]
    connection.execute(sa.update(_A).where(_A.id.in_(named)).values(target=anonymity.ERASED))
    anonymity.erase_details(connection, lines)
    return len(lines)


def _suppressed(address: str) -> sa.ColumnElement[bool]:
    return EmailSuppression.target == suppressions.spelled(address)


def _erase_suppressions(connection: sa.Connection, address: str, *, keep: bool) -> int:
    """With `keep`, why goes all the same: it quotes the relay, or him. Returns the number of lines that went."""
    if not keep:
        return connection.execute(sa.delete(EmailSuppression).where(_suppressed(address))).rowcount
    connection.execute(sa.update(EmailSuppression).where(_suppressed(address)).values(reason=anonymity.ERASED))
    return 0


def _rewrite_file(engine: sa.Engine) -> None:
    """SQLite leaves what was changed or deleted, ever, in the free parts of its file, and in its write-ahead log."""
    if engine.dialect.name == "sqlite":
        connection = engine.raw_connection()
        try:
            for statement in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
                connection.cursor().execute(statement)
        finally:
            connection.close()
