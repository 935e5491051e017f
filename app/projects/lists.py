"""What the pages list, a bounded number of rows and a fixed number of queries each."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session, joinedload

from app.accounts.models import User
from app.projects.access import seen_by
from app.projects.mails import OPEN
from app.projects.models import Project, Task, TaskChange, TaskStatus

PAGE = 50
"""Tasks on a page."""

HISTORY = 200
"""Lines of a task's history, the newest; more are hardly ever, and a page has to end."""


class Page(NamedTuple):
    """Some of the tasks."""

    tasks: Sequence[Task]
    number: int
    """From 1."""
    is_last: bool


def projects(session: Session, user: User, now: datetime) -> Sequence[Any]:
    """Rows of `Project, open, done, overdue`, by name. What is archived does not count."""
    counted = (
        sa.select(
            Task.project_id,
            sa.func.count().filter(OPEN).label("open"),
            sa.func.count().filter(Task.status == TaskStatus.DONE).label("done"),
            sa.func.count().filter(OPEN, Task.due_at < now).label("overdue"),
        )
        .where(Task.archived_at.is_(None))
        .group_by(Task.project_id)
        .subquery()
    )
    counts = (sa.func.coalesce(counted.c[name], 0).label(name) for name in ("open", "done", "overdue"))
    query = (
        sa.select(Project, *counts)
        .options(joinedload(Project.owner), joinedload(Project.organisation))
        .outerjoin(counted, counted.c.project_id == Project.id)
        .where(seen_by(user))
        .order_by(Project.name, Project.id)
    )
    return session.execute(query).all()


def tasks(session: Session, whose: sa.ColumnElement[bool], status: TaskStatus | None, number: int) -> Page:
    """What is open first, the earliest due first; of what is done, the last first. Without what is archived."""
    query = (
        sa.select(Task)
        .options(joinedload(Task.assignee), joinedload(Task.project))
        .where(whose, Task.archived_at.is_(None), sa.true() if status is None else Task.status == status)
        .order_by(Task.completed_at.desc().nulls_first(), Task.due_at.asc().nulls_last(), Task.id)
        .offset((number - 1) * PAGE)
        .limit(PAGE + 1)  # one more says whether there is another page
    )
    found = session.scalars(query).all()
    return Page(found[:PAGE], number, is_last=len(found) <= PAGE)


def history(session: Session, task: Task) -> Sequence[TaskChange]:
    """The newest first, with who did it."""
    query = (
        sa.select(TaskChange)
        .options(joinedload(TaskChange.changed_by))
        .where(TaskChange.task_id == task.id)
        .order_by(TaskChange.id.desc())
        .limit(HISTORY)
    )
    return session.scalars(query).all()
