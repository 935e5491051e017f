"""Notifications that a Celery task sends: to one user, or to all of an organisation.

A task that is delivered again comes with the same id, which stands in the rows: whoever has been told is passed over.
"""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.models import Organisation, User
from app.notifications.feed import Message, lock, write
from app.notifications.wakes import Wakes, channel_of_organisation, channel_of_user

BATCH = 1000
"""Users a transaction. It took 90 ms, which is what another notification may wait for it; half as many took nearly as
long, and twice as many brought no more users a second (20,000 in 1.8 s, on two busy cores)."""


def tell_user(
    sessions: sessionmaker[Session], wakes: Wakes, user_id: int, message: Message, task_id: str | None
) -> int:
    """How many were told now: one, or none if this task has told them before. ValueError for an unknown user."""
    with sessions.begin() as session:
        if session.get(User, user_id) is None:
            raise ValueError(f"there is no user {user_id!r} to notify")
        told = _write(session, [user_id], message, task_id)
    wakes([channel_of_user(user_id)])
    return told


def tell_organisation(
    sessions: sessionmaker[Session], wakes: Wakes, organisation_id: int, message: Message, task_id: str | None
) -> int:
    """How many were told now: not those whom this task had told before. ValueError for an unknown organisation."""
    told = last = 0
    while True:
        with sessions.begin() as session:
            if session.get(Organisation, organisation_id) is None:
                raise ValueError(f"there is no organisation {organisation_id!r} to notify")
            batch = select(User.id).where(User.organisation_id == organisation_id, User.id > last)
            user_ids = session.scalars(batch.order_by(User.id).limit(BATCH)).all()
            if not user_ids:
                break
            told += _write(session, user_ids, message, task_id)
        last = user_ids[-1]
    wakes([channel_of_organisation(organisation_id)])  # once: each word has every open page look
    return told


def _write(session: Session, user_ids: Sequence[int], message: Message, task_id: str | None) -> int:
    lock(session, user_ids)
    return len(write(session, select(User.id).where(User.id.in_(user_ids)), message, task_id))
