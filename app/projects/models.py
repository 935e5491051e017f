"""Projects, tasks, and the history of a task."""

from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.accounts.models import Organisation, User
from app.database import Base, one_of
from outbox.database import BigId, UtcDateTime, utcnow


class TaskStatus(StrEnum):
    """How far a task is."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    DONE = "done"


class TaskPriority(StrEnum):
    """How urgent."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class ChangedField(StrEnum):
    """What the history records."""

    STATUS = "status"
    ASSIGNEE = "assignee"


class Project(Base):
    """Seen by its organisation; its owner may change all its tasks."""

    __tablename__ = "projects"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    organisation_id: Mapped[int] = mapped_column(sa.ForeignKey("organisations.id"), index=True)
    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(sa.Text)

    organisation: Mapped[Organisation] = relationship()
    owner: Mapped[User] = relationship()


class Task(Base):
    """Something to do, by somebody, by some time."""

    __tablename__ = "tasks"
    __table_args__ = (
        one_of("status", TaskStatus),
        one_of("priority", TaskPriority),
        sa.CheckConstraint("(status = 'done') = (completed_at IS NOT NULL)", name="completed"),
        sa.CheckConstraint("archived_at IS NULL OR status = 'done'", name="archived"),
        sa.Index("ix_tasks_assignee_id", "assignee_id"),
        sa.Index("ix_tasks_project_id", "project_id"),
        sa.Index(
            "ix_tasks_due_at",
            "due_at",
            postgresql_where=sa.text("status <> 'done'"),
            sqlite_where=sa.text("status <> 'done'"),
        ),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    project_id: Mapped[int] = mapped_column(sa.ForeignKey("projects.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(sa.Text)
    due_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    priority: Mapped[str] = mapped_column(sa.Text, default=TaskPriority.NORMAL)
    status: Mapped[str] = mapped_column(sa.Text, default=TaskStatus.PENDING)
    assignee_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id", ondelete="SET NULL"))
    reminded_of: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """The `due_at` that its assignee was reminded of: no reminder of the same twice, one more when it moves."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    completed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Off the lists; its history stays."""

    project: Mapped[Project] = relationship()
    assignee: Mapped[User | None] = relationship()
    changes: Mapped[list["TaskChange"]] = relationship(order_by="TaskChange.id")


class TaskChange(Base):
    """A line of a task's history."""

    __tablename__ = "task_changes"
    __table_args__ = (one_of("field", ChangedField), sa.Index("ix_task_changes_task_id", "task_id"))

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    task_id: Mapped[int] = mapped_column(sa.ForeignKey("tasks.id", ondelete="CASCADE"))
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    changed_by_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id", ondelete="SET NULL"))
    """Empty where no user did it, but a task of the schedule."""
    field: Mapped[str] = mapped_column(sa.Text)
    old: Mapped[str | None] = mapped_column(sa.Text)
    """The status, or the assignee's name at the time."""
    new: Mapped[str | None] = mapped_column(sa.Text)
    reason: Mapped[str] = mapped_column(sa.Text, default="")

    changed_by: Mapped[User | None] = relationship()
