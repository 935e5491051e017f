"""What the mails about tasks say, and the queries that several of them are made of.

A mail shows at most `SHOWN` tasks and counts the others, so that a batch of mails is bounded, whatever waits.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.accounts.mails import about
from app.accounts.models import User
from app.mailings import LAST
from app.projects.days import day_of
from app.projects.models import Project, Task
from app.settings import AppSettings

SHOWN = 50
"""Tasks that a mail lists: two screens of a phone; Gmail clips a mail at 102 KB, some 150 of them."""

OPEN = Task.status != sa.literal_column("'done'")
"""Spelled as in the index on `due_at`, which is only used then. What is archived is done."""


@dataclass
class Tasks:
    """The first of somebody's tasks, and how many they are."""

    shown: list[Any] = field(default_factory=list)
    """Rows of `id, title, priority, due_at, project`."""
    total: int = 0

    @property
    def more(self) -> int:
        """Those that are not shown."""
        return self.total - len(self.shown)


def assignees_of(which: sa.ColumnElement[bool]) -> sa.Select[User]:
    """The users to whom such tasks are assigned, for `mailings.send`.

    Of 20,000 users with 100,000 tasks, a batch in the middle reads 3,600 tasks with LAST, and 50,000 without.
    """
    return sa.select(User).where(User.id.in_(sa.select(Task.assignee_id).where(Task.assignee_id > LAST, which)))


COLUMNS = (Task.assignee_id, Task.id, Task.title, Task.priority, Task.due_at, Project.name.label("project"))


def tasks_of(session: Session, users: Collection[User], which: sa.ColumnElement[bool]) -> dict[int, Tasks]:
    """By assignee, the earliest due first: one query for all of them. `which` may look at their `users` row, too."""
    ranked = (
        sa.select(
            *COLUMNS,
            sa.func.row_number().over(partition_by=Task.assignee_id, order_by=(Task.due_at, Task.id)).label("place"),
            sa.func.count().over(partition_by=Task.assignee_id).label("total"),
        )
        .join(Task.project)
        .join(Task.assignee)
        .where(Task.assignee_id.in_([user.id for user in users]), which)
        .subquery()
    )
    found: dict[int, Tasks] = {}
    first = sa.select(ranked).where(ranked.c.place <= SHOWN).order_by(ranked.c.assignee_id, ranked.c.place)
    for row in session.execute(first):
        tasks = found.setdefault(row.assignee_id, Tasks(total=row.total))
        tasks.shown.append(row)
    return found


def addressed_to(user: User, settings: AppSettings) -> dict[str, Any]:
    """The part of a context that is the same in all of them. Outside a request: no `url_for`."""
    return {**about(user), "tasks_url": f"{settings.app_url}/tasks/"}


def line(task: Any, settings: AppSettings) -> dict[str, Any]:
    """A task, as a mail lists it."""
    return {
        "title": task.title,
        "project": task.project,
        "priority": task.priority,
        "due_at": task.due_at,
        "url": task_url(task.id, settings),
    }


def overdue_line(task: Any, user: User, now: datetime, settings: AppSettings) -> dict[str, Any]:
    """And for how many days it has been overdue by its assignee's calendar: 0 since earlier today."""
    days = day_of(now, user.time_zone) - day_of(task.due_at, user.time_zone)
    return line(task, settings) | {"days_overdue": days.days}


def task_url(id_: int, settings: AppSettings) -> str:
    """Where a task is looked at."""
    return f"{settings.app_url}/tasks/{id_}"
