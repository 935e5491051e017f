"""Alerts: what is overdue, to whom it is assigned, once a day."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from app import mailings
from app.accounts.models import User
from app.categories import TASKS
from app.mailings import Mailing, Tally
from app.projects.days import day_of
from app.projects.mails import OPEN, addressed_to, assignees_of, overdue_line, tasks_of
from app.projects.models import Task
from app.settings import AppSettings

MAILING = Mailing("task_overdue", TASKS)


def send(sessions: sessionmaker[Session], settings: AppSettings, now: datetime) -> Tally:
    """One mail to each assignee, with all their overdue tasks, the oldest first."""
    overdue = sa.and_(OPEN, Task.due_at < now)

    def compose(session: Session, users: Sequence[User]) -> Mapping[int, Mapping[str, Any]]:
        tasks = tasks_of(session, users, overdue)
        return {
            user.id: {
                "context": addressed_to(user, settings)
                | {
                    "tasks": [overdue_line(task, user, now, settings) for task in tasks[user.id].shown],
                    "total": tasks[user.id].total,
                    "more": tasks[user.id].more,
                }
            }
            for user in users
            if user.id in tasks
        }

    users = assignees_of(overdue)
    today = day_of(now, settings.celery_timezone).isoformat()
    return mailings.send(sessions, settings, MAILING, period=today, users=users, compose=compose)
