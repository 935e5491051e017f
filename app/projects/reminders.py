"""Reminders of what is due until tomorrow: each task once, and once more when its date moves."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from app import mailings
from app.accounts.models import User
from app.categories import TASKS
from app.mailings import Mailing, Tally
from app.projects.days import until_tomorrow
from app.projects.mails import COLUMNS, OPEN, SHOWN, Tasks, addressed_to, assignees_of, line
from app.projects.models import Task
from app.settings import AppSettings

MAILING = Mailing("task_reminder", TASKS)


def send(sessions: sessionmaker[Session], settings: AppSettings, now: datetime) -> Tally:
    """One mail to each assignee, with all that is due and that no mail has reminded them of.

    `Task.reminded_of` is the memory, written with the mails. A key of the day would forbid a second mail about a task
    that somebody has added since the first; so the period is the run itself, and never the same.
    """
    span = until_tomorrow(now, settings.celery_timezone)
    due = sa.and_(
        OPEN, Task.due_at >= span.start, Task.due_at < span.end, Task.reminded_of.is_distinct_from(Task.due_at)
    )

    def compose(session: Session, users: Sequence[User]) -> Mapping[int, Mapping[str, Any]]:
        tasks = _mark(session, users, due)
        return {
            user.id: {
                "context": addressed_to(user, settings)
                | {
                    "tasks": [line(task, settings) for task in tasks[user.id].shown],
                    "total": tasks[user.id].total,
                    "more": tasks[user.id].more,
                }
            }
            for user in users
            if user.id in tasks
        }

    users = assignees_of(due)
    return mailings.send(sessions, settings, MAILING, period=uuid4().hex, users=users, compose=compose)


def _mark(session: Session, users: Sequence[User], due: sa.ColumnElement[bool]) -> dict[int, Tasks]:
    """By assignee, what they are reminded of now.

    Marked first, and listed from what was marked: a task that is moved meanwhile is in both, or in neither.
    """
    marked = session.execute(
        sa.update(Task)
        .where(Task.assignee_id.in_([user.id for user in users]), due)
        .values(reminded_of=Task.due_at)
        .returning(Task.assignee_id, Task.id, Task.due_at),
        execution_options={"synchronize_session": False},
    )
    found: dict[int, Tasks] = {}
    firsts: dict[int, list[tuple[datetime, int]]] = {}
    for row in marked:
        found.setdefault(row.assignee_id, Tasks()).total += 1
        firsts.setdefault(row.assignee_id, []).append((row.due_at, row.id))
    shown = [id_ for dates in firsts.values() for _, id_ in sorted(dates)[:SHOWN]]
    for row in _rows(session, shown):
        found[row.assignee_id].shown.append(row)
    return found


def _rows(session: Session, ids: Sequence[int]) -> Sequence[Any]:
    query = sa.select(*COLUMNS).join(Task.project).where(Task.id.in_(ids)).order_by(Task.due_at, Task.id)
    return session.execute(query).all()
