"""What was uploaded."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base
from outbox.database import BigId, UtcDateTime, utcnow


class Upload(Base):
    """A picture of a user's, kept as a file of the name `key`."""

    __tablename__ = "uploads"

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
