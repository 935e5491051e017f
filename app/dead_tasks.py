"""Celery tasks that failed for good, kept until somebody has looked: they can be read, and sent once more."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base
from outbox.database import BigId, UtcDateTime, utcnow


class DeadTask(Base):
    """A task that failed for good. What carries mail is not among them: its row in `email_queue` is the truth."""

    __tablename__ = "dead_tasks"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    task_id: Mapped[str] = mapped_column(sa.Text, unique=True)
    """Celery's: a task that is delivered again, and fails again, has one line."""
    name: Mapped[str] = mapped_column(sa.Text)
    queue: Mapped[str] = mapped_column(sa.Text)
    args: Mapped[list[Any]] = mapped_column(sa.JSON)
    kwargs: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    exception: Mapped[str] = mapped_column(sa.Text)
    """Its type and its words."""
    traceback: Mapped[str] = mapped_column(sa.Text)
    tries: Mapped[int]
    request_id: Mapped[str | None] = mapped_column(sa.Text)
    failed_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    retried_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When a person sent it once more, under its own id: if it fails again, this is empty again."""
    retried_by: Mapped[str | None] = mapped_column(sa.Text)
