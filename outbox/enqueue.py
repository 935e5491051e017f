"""The SQL that writes drafts: contents, rows of the queue, attachments. In the caller's transaction, one mail or many.

A recipient who must not get mail has a row like the others, born dead: the record says that the mail was asked for, and
why it never went.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import sqlalchemy as sa

from outbox import suppressions, wiping
from outbox.attachments import Blob
from outbox.database import insert, insert_lines, json_of, lines_of, utcnow
from outbox.draft import Draft
from outbox.errors import IdempotencyConflict, InvalidEmail
from outbox.models import EmailAttachment, EmailBlob, EmailContent, QueuedEmail
from outbox.states import DeadReason, Status

_CONTENTS, _QUEUE, _ATTACHMENTS, _BLOBS = (
    cast("sa.Table", model.__table__) for model in (EmailContent, QueuedEmail, EmailAttachment, EmailBlob)
)

_KEYS_IN_A_QUERY = 1000
"""SQLite takes 32,766 parameters in a statement, PostgreSQL 65,535; more than this in one brings nothing."""

_KEY_IS_TAKEN: dict[str, Any] = {
    "index_elements": ["idempotency_key"],
    "index_where": sa.text("idempotency_key IS NOT NULL"),
}

_ALIVE = {"status": Status.PENDING, "dead_reason": None, "last_error": None, "finalized_at": None}

Ends = Mapping[suppressions.Question, Mapping[str, Any]]
"""Address and subscription -> the columns with which that row is born, for those who must not get mail."""


def ends(connection: sa.Connection, drafts: Iterable[Draft]) -> Ends:
    """Who of all these recipients is suppressed: one query, and one more for the time if anybody is."""
    reasons = suppressions.find(connection, {(address, d.subscription) for d in drafts for _, address in d.recipients})
    if not reasons:
        return {}
    born_dead = {
        "status": Status.DEAD,
        "dead_reason": DeadReason.SUPPRESSED,
        "finalized_at": connection.scalar(sa.select(utcnow())),
    }
    return {question: born_dead | {"last_error": reason} for question, reason in reasons.items()}


def rows(checked: Draft, ends: Ends) -> list[dict[str, Any]]:
    """The columns of each of its queue rows."""
    return [
        {**checked.row, "kind": kind, "recipient": address, **ends.get((address, checked.subscription), {})}
        for kind, address in checked.recipients
    ]


def links(checked: Draft) -> list[dict[str, Any]]:
    """The columns of each of its attachments."""
    return [
        {
            "position": position,
            "sha256": file.sha256,
            "filename": file.filename,
            "content_type": file.media_type,
            "inline_id": file.inline_id,
        }
        for position, file in enumerate(checked.attachments)
    ]


class Written(NamedTuple):
    """What the database calls a mail that was just written."""

    content_id: int
    row_ids: list[int]


def fits_one_statement(connection: sa.Connection, checked: Draft) -> bool:
    """Whether `write` can write it: it concerns no more than its two tables, and PostgreSQL."""
    return connection.dialect.name == "postgresql" and not checked.attachments and checked.row["supersedes"] is None


def write(connection: sa.Connection, checked: Draft) -> Written | None:
    """A mail in one statement: who is suppressed, what is said, whom it is owed to.

    None, and nothing is written: a recipient is suppressed, or the key is taken. It costs a caller that commits each
    mail by itself half of what three statements and the ORM's flush do.
    """
    lines = rows(checked, {})
    found = connection.execute(
        _one_statement(tuple(checked.content), tuple(lines[0])),
        {
            "targets": json.dumps(suppressions.targets(address for _, address in checked.recipients)),
            "content": json_of(_CONTENTS, [checked.content]),
            "rows": json_of(_QUEUE, lines),
        },
    ).all()
    return Written(found[0].content_id, sorted(row.id for row in found)) if found else None


@cache
def _one_statement(content: tuple[str, ...], row: tuple[str, ...]) -> sa.TextClause:
    said, contents = lines_of(_CONTENTS, content, ":content")
    owed, lines = lines_of(_QUEUE, row, ":rows")
    return sa.text(f"""
WITH stopped AS ({suppressions.stopping(":targets")}),
said AS (
    INSERT INTO email_contents ({", ".join(said)}) SELECT {", ".join(said)} FROM {contents}
     WHERE NOT EXISTS (SELECT FROM stopped)
    ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING id)
INSERT INTO email_queue (content_id, {", ".join(owed)}) SELECT said.id, {", ".join(f"line.{name}" for name in owed)}
  FROM said, {lines}
RETURNING id, content_id""")


def unless_taken(into: Any, connection: sa.Connection) -> Any:
    """INSERT, unless the idempotency key is there: of two transactions with the same key, one waits for the other."""
    return insert(into, connection).on_conflict_do_nothing(**_KEY_IS_TAKEN)


def insert_contents(connection: sa.Connection, drafts: Sequence[Draft]) -> dict[str, int]:
    """Message-ID -> id of the contents written; those whose key is taken are not among them."""
    returning = unless_taken(_CONTENTS, connection).returning(_CONTENTS.c.message_id, _CONTENTS.c.id)
    return {row.message_id: row.id for row in insert_lines(connection, returning, [d.content for d in drafts])}


def insert_rows(connection: sa.Connection, new: Sequence[tuple[int, Draft]]) -> dict[int, int]:
    """Content id -> id of its first queue row."""
    if not new:
        return {}
    stated = _ALIVE | {
        "scheduled_at": None,
        "expires_at": None,
        "next_attempt_at": connection.scalar(sa.select(utcnow())),
    }
    dead = ends(connection, [d for _, d in new])
    lines = [stated | {"content_id": id_, **row} for id_, d in new for row in rows(d, dead)]
    firsts: dict[int, int] = {}
    statement = insert(_QUEUE, connection).returning(_QUEUE.c.content_id, _QUEUE.c.id)
    for row in insert_lines(connection, statement, lines):
        firsts[row.content_id] = min(row.id, firsts.get(row.content_id, row.id))
    if dead:
        wiping.wipe(connection, [firsts[id_] for id_, d in new if d.content["sensitive"]])
    return firsts


def wipe_if_born_dead(connection: sa.Connection, content: EmailContent, checked: Draft, ends: Ends) -> None:
    """Before the flush: a sensitive mail that nobody will get is never written."""
    finals = [row.get("finalized_at") for row in rows(checked, ends)]
    if content.sensitive and all(finals):
        content.sealed, content.purged_at = None, finals[0]
        wiping.empty(connection, [file.sha256 for file in checked.attachments])


def insert_attachments(connection: sa.Connection, new: Sequence[tuple[int, Draft]]) -> None:
    """The files, and the links that say which mail carries them."""
    store_blobs(connection, [d for _, d in new])
    lines = [{"content_id": id_, **link} for id_, d in new for link in links(d)]
    if lines:
        connection.execute(sa.insert(_ATTACHMENTS), lines)


def store_blobs(connection: sa.Connection, drafts: Iterable[Draft]) -> None:
    """Each distinct file once; one that is there, from whatever mail, is left alone."""
    store(
        connection, {file.sha256: file.data for d in drafts for file in d.attachments if isinstance(file.data, bytes)}
    )


def store(connection: sa.Connection, files: Mapping[str, bytes]) -> None:
    """By SHA-256. What is there is not sent to the database again: the same 5 MB for each of 10,000 mails."""
    there = _sizes(connection, files)
    # In one order everywhere, or two transactions wait for each other.
    new = [
        {"sha256": sha256, "size": len(data), "data": data}
        for sha256, data in sorted(files.items())
        if sha256 not in there
    ]
    if new:
        connection.execute(insert(_BLOBS, connection).on_conflict_do_nothing(), new)


def check_blobs(connection: sa.Connection, drafts: Iterable[tuple[str, Draft]]) -> None:
    """Raises InvalidEmail for a stored file that is not there, or not what it was said to be.

    One query for all, if there is any. The drafts with what their fields are called after: `mails[7].`.
    """
    named = [
        (f"{prefix}attachments[{number}].data", file.data)
        for prefix, d in drafts
        for number, file in enumerate(d.attachments)
        if isinstance(file.data, Blob)
    ]
    sizes = _sizes(connection, {blob.sha256 for _, blob in named})
    for name, blob in named:
        if blob.sha256 not in sizes:
            raise InvalidEmail(name, blob, "the database holds no such file: store it with EmailService.store first")
        if blob.size != sizes[blob.sha256]:
            raise InvalidEmail(
                name, blob, f"that file has {sizes[blob.sha256]} bytes: keep the Blob as store returned it"
            )


def _sizes(connection: sa.Connection, hashes: Collection[str]) -> dict[str, int]:
    """Of those files that are there, and stay there until the transaction ends: no purge takes them."""
    # FOR KEY SHARE: what the link's foreign key will ask for anyway.
    query = sa.select(_BLOBS.c.sha256, _BLOBS.c.size).with_for_update(read=True, key_share=True)
    return {row.sha256: row.size for row in _among(connection, query, _BLOBS.c.sha256, sorted(hashes))}


def taken(connection: sa.Connection, keys: Iterable[str]) -> set[str]:
    """Those of the idempotency keys that a mail has."""
    key = _CONTENTS.c.idempotency_key
    return {row.idempotency_key for row in _among(connection, sa.select(key), key, sorted(set(keys)))}


def first_rows(connection: sa.Connection, drafts: Iterable[Draft]) -> dict[str, int]:
    """Key -> id of the first row of the mail that has it, or IdempotencyConflict if that says something else."""
    hashes = [(d.content["idempotency_key"], d.hashes) for d in drafts]
    found = _with_keys(connection, sorted({key for key, _ in hashes}))
    for key, accepted in hashes:
        if key not in found:
            raise IdempotencyConflict(
                f"idempotency_key={key!r}: a concurrent transaction, which this one cannot see, has just used it; "
                "repeat the transaction"
            )
        if found[key].payload_hash not in accepted:
            raise IdempotencyConflict(
                f"idempotency_key={key!r}: it was used on {found[key].created_at:%Y-%m-%d %H:%M} for a mail that "
                f"says something else ({found[key].message_id}); a new mail needs a new key"
            )
    return {key: row.first for key, row in found.items()}


def _with_keys(connection: sa.Connection, keys: Sequence[str]) -> dict[str, Any]:
    c = _CONTENTS.c
    query = (
        sa.select(
            c.idempotency_key, c.payload_hash, c.message_id, c.created_at, sa.func.min(_QUEUE.c.id).label("first")
        )
        .join(_QUEUE, _QUEUE.c.content_id == c.id)
        .group_by(c.id)
    )
    return {row.idempotency_key: row for row in _among(connection, query, c.idempotency_key, keys)}


def _among(
    connection: sa.Connection, query: sa.Select[Any], column: sa.ColumnElement[str], keys: Sequence[str]
) -> Iterator[Any]:
    """The rows whose `column` is one of the keys, however many these are."""
    for start in range(0, len(keys), _KEYS_IN_A_QUERY):
        yield from connection.execute(query.where(column.in_(keys[start : start + _KEYS_IN_A_QUERY])))
