"""The application's tasks that beat starts, and the longer ones that a request asks for.

They are thin: what they do is in the rooms of `app`, as functions of the sessions, the settings and the time. Each may
be run twice, at once or after it was killed, and does its work once. What they return is for `flask tasks run`, Flower
and the log.
"""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

from celery import Task, shared_task
from flask import current_app
from sqlalchemy.orm import Session, sessionmaker

from app.exports import making
from app.queues import GENERATE_USER_EXPORT, SEND_DAILY_REMINDERS, SEND_MONTHLY_REPORTS
from app.quizzes import reminders, reports
from app.settings import AppSettings


class Tools(NamedTuple):
    """What the rooms' functions begin with."""

    sessions: sessionmaker[Session]
    settings: AppSettings
    now: datetime


def _tools() -> Tools:
    parts = current_app.extensions
    return Tools(parts["sessions"], parts["settings"], datetime.now(UTC))


@shared_task(name=SEND_DAILY_REMINDERS)
def send_daily_reminders() -> dict[str, int]:
    """Daily: remind who has been away of the quizzes that they did not take."""
    return asdict(reminders.send(*_tools()))


@shared_task(name=SEND_MONTHLY_REPORTS)
def send_monthly_reports() -> dict[str, int]:
    """Monthly, and again a day later for the zones in which the month ended after the first run."""
    return asdict(reports.send(*_tools()))


@shared_task(name=GENERATE_USER_EXPORT, bind=True)
def generate_user_export(self: Task, admin_email: str, export_id: str | None = None) -> dict[str, Any]:
    """Make the CSV of all users and their results, and mail it to the admin who asked for it.

    Without an `export_id`, the task begins an export of its own id: delivered twice, it is still one.
    """
    id_ = export_id or self.request.id or str(uuid4())  # without a request, it was called and not sent
    return making.generate(*_tools(), admin_email, id_, asked_for=export_id is not None)
