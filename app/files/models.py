"""What was uploaded."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base
from outbox.database import BigId, UtcDateTime, utcnow

_WAITING = sa.text("thumbnails_at IS NULL AND thumbnail_error IS NULL")


class Upload(Base):
    """A picture of a user's, kept as a file of the name `key`."""

    __tablename__ = "uploads"
    __table_args__ = (
        sa.CheckConstraint("thumbnails_at IS NULL OR thumbnail_error IS NULL", name="thumbnails"),
        sa.Index("ix_uploads_waiting", "id", postgresql_where=_WAITING, sqlite_where=_WAITING),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id", ondelete="SET NULL"), index=True)
    """Empty: its user is gone, and it is an orphan."""
    key: Mapped[str] = mapped_column(sa.Text, unique=True)
    """Random, with the suffix of its format: never a name that somebody sent."""
    filename: Mapped[str] = mapped_column(sa.Text)
    """As its user called it; shown, and never used as a path."""
    media_type: Mapped[str] = mapped_column(sa.Text)
    size: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    thumbnails_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When its thumbnails were made."""
    thumbnail_error: Mapped[str | None] = mapped_column(sa.Text)
    """Why there will never be any: in words for its user."""
