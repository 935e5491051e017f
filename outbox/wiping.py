"""The SQL that empties a sensitive mail when all of its rows are final: what it said, and the files that it carried.

In the transaction that makes the last row final. What stays is the record: who, when, what came of it, the hash.
"""

import json
from collections.abc import Callable, Iterable, Sequence

import sqlalchemy as sa

from outbox.database import Statement, Words

# Not NOT EXISTS: the planner would make a join of that, and read the whole queue for it.
_ALL_ARE_FINAL = """(SELECT count(*) FROM email_queue AS q WHERE q.content_id = email_contents.id
                       AND q.status NOT IN ('sent', 'dead', 'cancelled')) = 0"""


def _lock(sql: Words, of: Callable[[str], str] = str) -> str:
    contents = of(sql.among(sql.numbers(":ids")))
    return f"""
SELECT id FROM email_contents WHERE id {contents} AND sealed IS NOT NULL ORDER BY id {sql.lock}"""


def _lock_those_of(sql: Words) -> str:
    return _lock(sql, lambda ids: sql.among(f"SELECT content_id FROM email_queue WHERE id {ids}"))


def _lock_all_of(sql: Words) -> str:
    ids = sql.among(sql.numbers(":ids"))
    contents = sql.among(f"SELECT content_id FROM email_queue WHERE id {ids}")
    return f"SELECT id FROM email_contents WHERE id {contents} ORDER BY id {sql.lock}"


def _wipe(sql: Words) -> str:
    return f"""
UPDATE email_contents SET sealed = NULL, purged_at = {sql.now}
 WHERE id {sql.among(sql.numbers(":ids"))} AND sealed IS NOT NULL AND {_ALL_ARE_FINAL}
RETURNING id"""


def _blobs(sql: Words) -> str:
    return f"SELECT sha256 FROM email_attachments WHERE content_id {sql.among(sql.numbers(':ids'))}"


def _empty(sql: Words) -> str:
    # No other mail has these blobs: they are stored under the hash of what is encrypted, which never is the same twice.
    return f"UPDATE email_blobs SET data = :nothing WHERE sha256 {sql.among(sql.texts(':blobs'))}"


def _forgotten(_: Words) -> str:
    return f"SELECT id FROM email_contents WHERE sealed IS NOT NULL AND {_ALL_ARE_FINAL} ORDER BY id"


_LOCK = Statement(_lock)
_LOCK_THOSE_OF = Statement(_lock_those_of)
_LOCK_ALL_OF = Statement(_lock_all_of)
_WIPE = Statement(_wipe)
_BLOBS = Statement(_blobs)
_EMPTY = Statement(_empty)
_FORGOTTEN = Statement(_forgotten)


def lock(connection: sa.Connection, email_ids: Iterable[int]) -> list[int]:
    """The contents of these rows that are not wiped yet, locked in the order of their ids.

    Two transactions that each make one of a mail's last two rows final both see the other's unfinished. With the lock,
    taken after the row is written, one of them waits for the other here, and sees it in its next statement.
    """
    return list(_LOCK_THOSE_OF(connection, ids=json.dumps(list(email_ids))).scalars())


def lock_all(connection: sa.Connection, email_ids: Iterable[int]) -> None:
    """The same for the contents of any kind: neither a wipe nor a purge empties them until the transaction ends."""
    _LOCK_ALL_OF(connection, ids=json.dumps(list(email_ids))).all()


def wipe(connection: sa.Connection, email_ids: Iterable[int]) -> None:
    """Wipe the mails of these rows that are sensitive and final to the last row. All others stay as they are."""
    _wipe_locked(connection, lock(connection, email_ids))


def forgotten(connection: sa.Connection) -> Sequence[int]:
    """Contents that should have been wiped: their rows were made final by hand, or in a transaction whose isolation
    level hid one row's end from the other's.
    """
    return _FORGOTTEN(connection).scalars().all()


def wipe_forgotten(connection: sa.Connection, content_ids: Iterable[int]) -> None:
    """Wipe what `forgotten` has found, if it still stands so."""
    _wipe_locked(connection, list(_LOCK(connection, ids=json.dumps(list(content_ids))).scalars()))


def _wipe_locked(connection: sa.Connection, content_ids: Sequence[int]) -> None:
    if not content_ids:
        return
    wiped = list(_WIPE(connection, ids=json.dumps(content_ids)).scalars())
    empty(connection, list(_BLOBS(connection, ids=json.dumps(wiped)).scalars()))


def empty(connection: sa.Connection, blobs: Sequence[str]) -> None:
    """Forget the bytes of these files, by their hashes. Their rows stay: attachments refer to them."""
    if blobs:
        _EMPTY(connection, blobs=json.dumps(blobs), nothing=b"")
