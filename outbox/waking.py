"""After a commit that holds mail: one call that tells the workers, and the log's lines on what was queued."""

import logging
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from outbox import mail_log
from outbox.logs import on_behalf_of, tell
from outbox.models import QueuedEmail

log = logging.getLogger(__name__)

Wake = Callable[[], None]

WAKE = "outbox_wake"
"""The key of `session.info` under which an application keeps its wake, once, on its sessionmaker."""

_WAKING = "outbox_waking"
"""The key of `session.info` for what to call after the transaction that is open."""

_QUEUED = "outbox_queued"
"""The same for what to log: the savepoints that it depends on, and how to say it."""


def wake_after_commit(session: Session | scoped_session[Session], wake: Wake) -> None:
    """Call `wake` once when the transaction that is open has been committed, and not if it is rolled back.

    What it raises is logged: the mail is committed, and must not look as if it failed.
    """
    session = session() if isinstance(session, scoped_session) else session
    session.info.setdefault(_WAKING, set()).add(wake)


def log_after_commit(
    session: Session | scoped_session[Session], mails: Sequence[QueuedEmail | int], request_id: str | None
) -> None:
    """Log that these mails, rows or ids, are queued: when it is true, and not if a savepoint takes it back."""
    session = session() if isinstance(session, scoped_session) else session
    savepoints, transaction = set(), session.get_nested_transaction()
    while transaction is not None:
        savepoints.add(transaction)
        transaction = transaction.parent
    session.info.setdefault(_QUEUED, []).append((savepoints, mails, request_id))


def _after_commit(session: Session) -> None:
    if session.in_nested_transaction():
        return  # a savepoint: nobody else can see the mail yet
    for _, mails, request_id in session.info.pop(_QUEUED, ()):
        ids = [id_ for id_ in map(_id, mails) if id_ is not None]
        if ids:
            with on_behalf_of(request_id):
                mail_log.queued(ids[0], len(ids))
    for wake in session.info.pop(_WAKING, ()):
        try:
            wake()
        except Exception:  # noqa: BLE001 - logged with its traceback
            sentence = "wake failed: the mail is safe and waits for the next drain"
            tell(log, logging.ERROR, "wake.failed", sentence, exc_info=True)


def _id(mail: QueuedEmail | int) -> int | None:
    """None: it was taken out of the session again. Not by its column, which may have expired: no time for a query."""
    identity = (mail,) if isinstance(mail, int) else sa.inspect(mail).identity
    return identity[0] if identity else None


def _after_rollback(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested and _QUEUED in session.info:
        session.info[_QUEUED] = [line for line in session.info[_QUEUED] if transaction not in line[0]]


def _after_end(session: Session, transaction: SessionTransaction) -> None:
    # Not only after a rollback: a session may be closed with its transaction open, and then used again.
    if transaction.parent is None:
        session.info.pop(_WAKING, None)
        session.info.pop(_QUEUED, None)


# To all sessions, once: to listen to each session anew costs a commit more than the rest of this file.
event.listen(Session, "after_commit", _after_commit)
event.listen(Session, "after_soft_rollback", _after_rollback)
event.listen(Session, "after_transaction_end", _after_end)
