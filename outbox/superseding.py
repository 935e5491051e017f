"""The SQL by which a mail takes the place of older ones that have not gone: superseding them, or taking them up.

A mail in a worker's hands is not ours to stop. If its worker hands it back, `chunk` sees that a newer one supersedes
it, and it is cancelled then. What a relay may have already is left alone as well: to call it cancelled could be untrue.
"""

import json
from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from outbox import wiping
from outbox.database import Statement, UtcDateTime, Words

SUPERSEDED = "superseded by a newer mail"
COLLAPSED = "taken up by a newer mail"
"""What the cancelled row says (`last_error`), with the key behind it."""

MOST_CONTEXTS = 500
"""In a digest; the next mail begins another. Each new one renders them all, and nobody reads more."""


class Digest(NamedTuple):
    """What a collapsing mail takes over from those before it."""

    contexts: list[dict[str, Any]]
    due: datetime
    ids: frozenset[int]


def superseded_by(q: str) -> str:
    """The newest mail that supersedes the row `q`, or NULL: an expression for a query."""
    return f"""(SELECT max(n.id) FROM email_queue AS n WHERE n.supersedes IS NOT NULL
            AND n.supersedes = {q}.supersedes AND n.content_id > {q}.content_id)"""


def _supersede(sql: Words) -> str:
    return f"""
UPDATE email_queue
   SET status = 'cancelled', finalized_at = {sql.now}, waiting_for = NULL, last_error = :said || supersedes
 WHERE supersedes IS NOT NULL AND supersedes {sql.among(sql.texts(":keys"))}
   AND status = 'pending' AND relay IS NULL AND {superseded_by("email_queue")} IS NOT NULL
RETURNING id"""


def _take_over(sql: Words) -> str:
    # The status once more, for the row as it is when a lock on it was waited for.
    return f"""
UPDATE email_queue
   SET status = 'cancelled', finalized_at = {sql.now}, waiting_for = NULL, last_error = :said || collapse
 WHERE status = 'pending' AND id {sql.among(_WAITING)}
RETURNING id, content_id, next_attempt_at"""


_WAITING = """SELECT q.id FROM email_queue AS q JOIN email_contents AS c ON c.id = q.content_id
         WHERE q.status = 'pending' AND q.collapse IS NOT NULL AND q.collapse = :key AND q.recipient = :recipient
           AND q.relay IS NULL AND c.template = :template AND json_array_length(c.contexts) < :most"""


def _contexts(sql: Words) -> str:
    return f"""SELECT contexts FROM email_contents WHERE id {sql.among(sql.numbers(":ids"))} ORDER BY id"""


def _forget_contexts(sql: Words) -> str:
    return f"""
UPDATE email_contents SET contexts = NULL WHERE id {sql.among(sql.numbers(":ids"))}"""


_SUPERSEDE = Statement(_supersede)
_TAKE_OVER = Statement(_take_over, next_attempt_at=UtcDateTime)
_CONTEXTS = Statement(_contexts, contexts=sa.JSON)
_FORGET_CONTEXTS = Statement(_forget_contexts)
_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")


def supersede(connection: sa.Connection, keys: Collection[str]) -> set[int]:
    """pending -> cancelled: all mails of these keys but the newest of each. Returns the ids that were moved.

    Of two transactions with the same key neither sees the other's mail; then the older one ends at its turn to be sent.
    """
    moved = set(_SUPERSEDE(connection, keys=json.dumps(sorted(keys)), said=f"{SUPERSEDED}: ").scalars())
    wiping.wipe(connection, moved)
    return moved


def take_over(connection: sa.Connection, key: str, recipient: str, template: str) -> Digest | None:
    """pending -> cancelled: the digest that waits for this recipient, for the caller to write it anew, grown by one.

    Of two transactions with the same key, one waits here for the other: else each would write a digest of its own.
    """
    if connection.dialect.name == "postgresql":  # SQLite has but one writer
        connection.execute(_LOCK, {"key": f"outbox:collapse:{key}:{recipient}"})
    taken = _TAKE_OVER(
        connection, key=key, recipient=recipient, template=template, most=MOST_CONTEXTS, said=f"{COLLAPSED}: "
    ).all()
    if not taken:
        return None
    ids = json.dumps([row.content_id for row in taken])
    contexts = [context for row in _CONTEXTS(connection, ids=ids) for context in row.contexts]
    _FORGET_CONTEXTS(connection, ids=ids)  # they live on in the new one; a copy in each would grow with the square
    return Digest(contexts, min(row.next_attempt_at for row in taken), frozenset(row.id for row in taken))
