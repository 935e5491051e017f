"""The daily report: how all the tasks stand, to every admin."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from app import mailings
from app.accounts.mails import about
from app.accounts.models import Role, User
from app.categories import TASKS
from app.mailings import Mailing
from app.projects.days import day_of
from app.projects.mails import OPEN
from app.projects.models import Task, TaskStatus
from app.settings import AppSettings

MAILING = Mailing("task_report", TASKS)


def send(sessions: sessionmaker[Session], settings: AppSettings, now: datetime) -> dict[str, int]:
    """Mail the counts to the admins, once a day; returns them, with what became of the mails."""
    with sessions.begin() as session:
        counts = count(session, now)

    def compose(_: Session, admins: Sequence[User]) -> Mapping[int, Mapping[str, Any]]:
        said = {"counts": counts, "counted_at": now, "projects_url": f"{settings.app_url}/projects/"}
        return {user.id: {"context": said | about(user)} for user in admins}

    admins = sa.select(User).where(User.role == Role.ADMIN)
    today = day_of(now, settings.celery_timezone).isoformat()
    tally = mailings.send(sessions, settings, MAILING, period=today, users=admins, compose=compose)
    return counts | asdict(tally)


def count(session: Session, now: datetime) -> dict[str, int]:
    """By status, without what is archived; `overdue` are among the pending and those in progress."""
    query = sa.select(
        *(sa.func.count().filter(Task.status == status).label(status) for status in TaskStatus),
        sa.func.count().filter(OPEN, Task.due_at < now).label("overdue"),
    ).where(Task.archived_at.is_(None))
    return dict(session.execute(query).one()._mapping)  # noqa: SLF001 - public, but for its name
