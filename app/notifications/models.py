"""What users are told in the page."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base
from outbox.database import BigId, UtcDateTime, utcnow


class Notification(Base):
    """A line of a user's bell. Its id is the event's in the stream: a page that was away asks for what came after."""

    __tablename__ = "notifications"
    __table_args__ = (
        sa.Index("ix_notifications_user_id", "user_id", "id"),
        # What the bell counts on every page: nobody's thousand read ones are passed over for it.
        sa.Index(
            "ix_notifications_unread",
            "user_id",
            "id",
            postgresql_where=sa.text("read_at IS NULL"),
            sqlite_where=sa.text("read_at IS NULL"),
        ),
        sa.Index(
            "ix_notifications_task_id",
            "task_id",
            "user_id",
            unique=True,
            postgresql_where=sa.text("task_id IS NOT NULL"),
            sqlite_where=sa.text("task_id IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(sa.Text)
    body: Mapped[str] = mapped_column(sa.Text, default="")
    url: Mapped[str] = mapped_column(sa.Text, default="")
    """Where it leads, within the application: a path, or empty."""
    task_id: Mapped[str | None] = mapped_column(sa.Text)
    """Of the Celery task that said it: when it is delivered again, it says it to nobody twice."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    read_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
