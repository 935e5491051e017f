"""What users are told in the page."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base
from outbox.database import BigId, UtcDateTime, utcnow


class Notification(Base):
    """A line of a user's bell. Its id is the event's in the stream: a page that was away asks for what came after."""

    __tablename__ = "notifications"
    __table_args__ = (sa.Index("ix_notifications_user_id", "user_id", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(sa.Text)
    body: Mapped[str] = mapped_column(sa.Text, default="")
    url: Mapped[str] = mapped_column(sa.Text, default="")
    """Where it leads, within the application: a path, or empty."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    read_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
