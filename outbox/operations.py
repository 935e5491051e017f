"""The SQL statements by which a person moves a row.

Each names the status that it moves from, so that who loses a race, against a worker or another person, changes nothing.
`claims` stays as it is: it numbers the attempts, and those that were made are on record.
"""

import json
from collections.abc import Iterable
from enum import StrEnum

import sqlalchemy as sa

from outbox import wiping
from outbox.database import Statement, Words
from outbox.errors import NotPossible
from outbox.states import FINAL, Status


class Resolution(StrEnum):
    """What a person found out about an uncertain mail, or decided."""

    SENT = "sent"  # it arrived
    REQUEUE = "requeue"  # it did not, or a second copy does no harm
    DEAD = "dead"  # nobody will ever know, and it shall not be sent again


_EMPTY = "(c.purged_at IS NOT NULL OR c.sensitive AND c.sealed IS NULL)"
"""Nothing is left of what it said."""


def _requeue(sql: Words, from_: str = "status IN ('dead', 'cancelled', 'uncertain')") -> str:
    # last_code and last_error stay, so that it can still be seen why. A person decided, so any relay may have it.
    return f"""
UPDATE email_queue
   SET status = 'pending', attempts = 0, scheduled_at = {sql.now}, next_attempt_at = {sql.now},
       expires_at = CASE WHEN expires_at > {sql.now} THEN expires_at END,
       dead_reason = NULL, finalized_at = NULL, relay = NULL, waiting_for = NULL
 WHERE id {sql.among(sql.numbers(":ids"))} AND {from_}
   AND NOT EXISTS (SELECT 1 FROM email_contents AS c WHERE c.id = content_id AND {_EMPTY})
RETURNING id"""


def _requeue_uncertain(sql: Words) -> str:
    return _requeue(sql, "status = 'uncertain'")


def _cancel(sql: Words) -> str:
    return f"""
UPDATE email_queue SET status = 'cancelled', finalized_at = {sql.now}, waiting_for = NULL
 WHERE id {sql.among(sql.numbers(":ids"))} AND status = 'pending'
RETURNING id"""


def _confirm(sql: Words) -> str:
    return f"""
UPDATE email_queue SET status = 'sent', sent_at = {sql.now}, finalized_at = {sql.now}, last_error = :said
 WHERE id = :id AND status = 'uncertain'
RETURNING id"""


def _give_up(sql: Words) -> str:
    return f"""
UPDATE email_queue SET status = 'dead', dead_reason = 'exhausted', finalized_at = {sql.now}, last_error = :said
 WHERE id = :id AND status = 'uncertain'
RETURNING id"""


_REQUEUE = Statement(_requeue)
_REQUEUE_UNCERTAIN = Statement(_requeue_uncertain)
_CANCEL = Statement(_cancel)
_CONFIRM = Statement(_confirm)
_GIVE_UP = Statement(_give_up)
_STATUS = sa.text(f"""
SELECT q.status, c.sensitive, {_EMPTY} AS is_empty
  FROM email_queue AS q JOIN email_contents AS c ON c.id = q.content_id WHERE q.id = :id""")


def requeue(connection: sa.Connection, ids: Iterable[int]) -> set[int]:
    """dead, cancelled, uncertain -> pending, due now, as if queued now: no attempt counts, and its age starts anew.

    Returns the ids that were moved. A mail that was wiped or purged is not among them: it has nothing left to say.
    """
    ids = list(ids)
    # Or a recipient's row that ends right now wipes what is requeued here, or a purge empties it.
    wiping.lock_all(connection, ids)
    return set(_REQUEUE(connection, ids=json.dumps(ids)).scalars())


def cancel(connection: sa.Connection, ids: Iterable[int]) -> set[int]:
    """pending -> cancelled. Returns the ids that were moved; what a worker has is not ours to stop."""
    cancelled = set(_CANCEL(connection, ids=json.dumps(list(ids))).scalars())
    wiping.wipe(connection, cancelled)
    return cancelled


def resolve(connection: sa.Connection, id_: int, resolution: Resolution, who: str = "a person") -> bool:
    """uncertain -> sent, pending or dead, on the word of `who`. Whether it was uncertain."""
    match resolution:
        case Resolution.SENT:
            moved = _CONFIRM(connection, id=id_, said=f"resolved as sent by {who}")
        case Resolution.DEAD:
            moved = _GIVE_UP(connection, id=id_, said=f"given up while uncertain, by {who}")
        case Resolution.REQUEUE:
            moved = _REQUEUE_UNCERTAIN(connection, ids=json.dumps([id_]))
    was_uncertain = moved.first() is not None
    wiping.wipe(connection, [id_])
    return was_uncertain


WIPED = "what it said was sensitive, and wiped when it was over; to repeat it, queue a new mail"
PURGED = "what it said was purged when it was old; to repeat it, queue a new mail"
"""Why a mail cannot be requeued, in words."""


def gone(*, sensitive: bool) -> str:
    """Why nothing is left of what a mail said."""
    return WIPED if sensitive else PURGED


_POSSIBLE = {
    Status.PENDING: "it can be cancelled",
    Status.CLAIMED: "a worker has it, and nothing can be done until that is over",
    Status.SENDING: "a worker is sending it, and nothing can be done until that is over",
    Status.SENT: "nothing can be done with it any more; to repeat it, queue a new mail",
    Status.DEAD: "it can be requeued",
    Status.UNCERTAIN: "it can be resolved (sent, requeue or dead) or requeued",
    Status.CANCELLED: "it can be requeued",
}


def refusal(connection: sa.Connection, id_: int, wish: str) -> NotPossible:
    """Why a mail could not be moved, from how it stands now. `wish`: what it should have been, as in `cancelled`."""
    found = connection.execute(_STATUS, {"id": id_}).first()
    if found is None:
        return missing(id_)
    status = Status(found.status)
    empty = found.is_empty and status in FINAL
    possible = gone(sensitive=found.sensitive) if empty else _POSSIBLE[status]
    return NotPossible(f"mail {id_} is {status} and cannot be {wish}: {possible}")


def missing(id_: int) -> NotPossible:
    """There is no such mail."""
    return NotPossible(f"there is no mail {id_}: `outbox list` shows the newest")
