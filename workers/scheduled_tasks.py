"""The application's tasks that beat starts, and the longer ones that a request asks for.

They are thin: what they do is in the rooms of `app`, as functions of the sessions, the settings and the time. Each may
be run twice, at once or after it was killed, and does its work once. What they return is for `flask tasks run`, Flower
and the log.
"""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import NamedTuple

from celery import shared_task
from flask import current_app
from sqlalchemy.orm import Session, sessionmaker

from app.queues import SEND_DAILY_REMINDERS, SEND_MONTHLY_REPORTS
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
