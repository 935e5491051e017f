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
    """A mail that waits for others of its key."""

    id: int
    content_id: int
    due: datetime
    contexts: list[dict[str, Any]]


def superseded_by(q: str) -> str:
    """The newest mail that supersedes the row `q`, or NULL: an expression for a query."""
    # Not max(id): between VACUUM and ANALYZE, PostgreSQL takes keys for common, and looks for the newest mail from the
    # end of the table. In a burst without any key, it read the whole table for each mail of a chunk (25 s a chunk).
    return f"""(SELECT n.id FROM email_queue AS n WHERE n.supersedes IS NOT NULL
            AND n.supersedes = {q}.supersedes AND n.content_id > {q}.content_id ORDER BY n.content_id DESC LIMIT 1)"""


def _supersede(sql: Words) -> str:
    return f"""
UPDATE email_queue
   SET status = 'cancelled', finalized_at = {sql.now}, waiting_for = NULL, last_error = :said || supersedes
 WHERE supersedes IS NOT NULL AND supersedes {sql.among(sql.texts(":keys"))}
   AND status = 'pending' AND relay IS NULL AND {superseded_by("email_queue")} IS NOT NULL
RETURNING id"""


def _waiting(sql: Words) -> str:
    return f"""
SELECT q.id, q.content_id, q.next_attempt_at AS due, c.contexts
  FROM email_queue AS q JOIN email_contents AS c ON c.id = q.content_id
 WHERE q.status = 'pending' AND q.collapse IS NOT NULL AND q.collapse = :key AND q.recipient = :recipient
   AND q.relay IS NULL AND COALESCE(q.category, '') = :category AND c.template = :template
   AND json_array_length(c.contexts) < :most
 ORDER BY q.content_id DESC LIMIT 1 {sql.lock}"""


def _take_up(sql: Words) -> str:
    return f"""
UPDATE email_queue
   SET status = 'cancelled', finalized_at = {sql.now}, waiting_for = NULL, last_error = :said || collapse
 WHERE id = :id AND status = 'pending'"""


def _forget_contexts(_: Words) -> str:
    return "UPDATE email_contents SET contexts = NULL WHERE id = :id"


_SUPERSEDE = Statement(_supersede)
_WAITING = Statement(_waiting, due=UtcDateTime, contexts=sa.JSON)
_TAKE_UP = Statement(_take_up)
_FORGET_CONTEXTS = Statement(_forget_contexts)
_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")


def supersede(connection: sa.Connection, keys: Collection[str]) -> set[int]:
    """pending -> cancelled: all mails of these keys but the newest of each. Returns the ids that were moved.

    Of two transactions with the same key neither sees the other's mail; then the older one ends at its turn to be sent.
    """
    moved = set(_SUPERSEDE(connection, keys=json.dumps(sorted(keys)), said=f"{SUPERSEDED}: ").scalars())
    wiping.wipe(connection, moved)
    return moved


def waiting(connection: sa.Connection, key: str, recipient: str, category: str | None, template: str) -> Digest | None:
    """The digest that a mail may take up, locked; of several the newest, and the others go by themselves.

    Of two transactions with the same key, one waits here for the other: else each would write a digest of its own.
    """
    if connection.dialect.name == "postgresql":  # SQLite has but one writer
        connection.execute(_LOCK, {"key": f"outbox:collapse:{key}:{recipient}"})
    asked = {"key": key, "recipient": recipient, "category": category or "", "template": template}
    found = _WAITING(connection, **asked, most=MOST_CONTEXTS).first()
    return found and Digest._make(found)


def take_up(connection: sa.Connection, digest: Digest) -> None:
    """pending -> cancelled: the digest, now that a newer mail says what it said."""
    _TAKE_UP(connection, id=digest.id, said=f"{COLLAPSED}: ")
    _FORGET_CONTEXTS(connection, id=digest.content_id)  # a copy in each mail would grow with the square
