"""The bell of every page: how much is unread, and up to where the page has been told."""

import logging
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.accounts.access import me
from app.database import request_session
from app.notifications.models import Notification
from outbox.logs import tell

log = logging.getLogger(__name__)

MOST = 100
"""Nobody counts further: the bell says 99+, and the database reads no more of the index."""


class Bell(NamedTuple):
    """Of who reads the page."""

    unread: int
    after: int | None
    """The latest there was when the page was made: its stream goes on from there. None: not known."""

    @property
    def shown(self) -> str:
        """The number on it."""
        return f"{MOST - 1}+" if self.unread >= MOST else str(self.unread)


def bell() -> Bell:
    """For logged-in users. A page that says that something failed still has one, be it without a number."""
    try:
        user_id, session = me().id, request_session()
        return Bell(unread(session, user_id), latest(session, user_id))
    except sa.exc.SQLAlchemyError as error:
        tell(log, logging.ERROR, "notifications.uncounted", "notifications cannot be counted", exc_info=error)
        return Bell(0, None)


def unread(session: Session, user_id: int) -> int:
    """Up to `MOST`."""
    some = (
        sa.select(Notification.id)
        .where(Notification.user_id == user_id, Notification.read_at.is_(None))
        .limit(MOST)
        .subquery()
    )
    return session.scalar(sa.select(sa.func.count()).select_from(some)) or 0


def latest(session: Session, user_id: int) -> int:
    """The highest id of theirs, or 0."""
    return session.scalar(sa.select(sa.func.max(Notification.id)).where(Notification.user_id == user_id)) or 0
