"""Tell users something in their pages: rows of the caller's transaction."""

from collections.abc import Collection

from sqlalchemy.orm import Session

from app.notifications.models import Notification


def notify(session: Session, user_ids: Collection[int], title: str, body: str = "", url: str = "") -> None:
    """Tell these users, if the session's transaction is committed. `url`: a path of the application, or nothing."""
    session.add_all(Notification(user_id=id_, title=title, body=body, url=url) for id_ in sorted(set(user_ids)))
