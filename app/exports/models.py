"""What was asked for, by whom, and what came of it."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, column_property, mapped_column

from app.database import Base
from outbox.database import UtcDateTime, utcnow


class Export(Base):
    """An export that an admin asked for. Its id is that of the Celery task that makes it."""

    __tablename__ = "exports"
    __table_args__ = (sa.CheckConstraint("error IS NULL OR csv IS NULL", name="ended"),)

    id: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    error: Mapped[str | None] = mapped_column(sa.Text)
    """Why there is none, for whoever asked."""
    csv: Mapped[bytes | None] = mapped_column(sa.LargeBinary, deferred=True)
    """Empty from a day after it was made."""
    has_csv: Mapped[bool] = column_property(csv.is_not(None))
