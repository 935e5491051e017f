"""After a commit that holds mail, one call that tells the workers."""

import logging
from collections.abc import Callable

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

log = logging.getLogger(__name__)

Wake = Callable[[], None]

WAKE = "outbox_wake"
"""The key of `session.info` under which an application keeps its wake, once, on its sessionmaker."""

_WAKING = "outbox_waking"
"""The key of `session.info` for what to call after the transaction that is open."""


def wake_after_commit(session: Session | scoped_session[Session], wake: Wake) -> None:
    """Call `wake` once when the transaction that is open has been committed, and not if it is rolled back.

    What it raises is logged: the mail is committed, and must not look as if it failed.
    """
    session = session() if isinstance(session, scoped_session) else session
    session.info.setdefault(_WAKING, set()).add(wake)
    if not event.contains(session, "after_commit", _after_commit):
        event.listen(session, "after_commit", _after_commit)
        event.listen(session, "after_transaction_end", _after_end)


def _after_commit(session: Session) -> None:
    if session.in_nested_transaction():
        return  # a savepoint: nobody else can see the mail yet
    for wake in session.info.pop(_WAKING, ()):
        try:
            wake()
        except Exception:
            log.exception("wake failed: the mail is safe and waits for the next drain")


def _after_end(session: Session, transaction: SessionTransaction) -> None:
    # Not only after a rollback: a session may be closed with its transaction open, and then used again.
    if transaction.parent is None:
        session.info.pop(_WAKING, None)
