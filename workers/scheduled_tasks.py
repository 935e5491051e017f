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
from app.projects import alerts, changes, cleanup, summaries
from app.projects import reminders as task_reminders
from app.projects import reports as task_reports
from app.queues import (
    CLEANUP_COMPLETED_TASKS,
    GENERATE_TASK_REPORT,
    GENERATE_USER_EXPORT,
    SEND_DAILY_REMINDERS,
    SEND_MONTHLY_REPORTS,
    SEND_OVERDUE_ALERTS,
    SEND_TASK_REMINDERS,
    SEND_WEEKLY_SUMMARY,
    UPDATE_TASK_STATUS,
)
from app.quizzes import reminders as quiz_reminders
from app.quizzes import reports as quiz_reports
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
    return asdict(quiz_reminders.send(*_tools()))


@shared_task(name=SEND_MONTHLY_REPORTS)
def send_monthly_reports() -> dict[str, int]:
    """Monthly, and again a day later for the zones in which the month ended after the first run."""
    return asdict(quiz_reports.send(*_tools()))


@shared_task(name=GENERATE_TASK_REPORT)
def generate_task_report() -> dict[str, int]:
    """How all the tasks stand, to the admins."""
    return task_reports.send(*_tools())


@shared_task(name=SEND_TASK_REMINDERS)
def send_task_reminders() -> dict[str, int]:
    """What is due until tomorrow."""
    return asdict(task_reminders.send(*_tools()))


@shared_task(name=SEND_OVERDUE_ALERTS)
def send_overdue_alerts() -> dict[str, int]:
    """What should have been done by now."""
    return asdict(alerts.send(*_tools()))


@shared_task(name=SEND_WEEKLY_SUMMARY)
def send_weekly_summary() -> dict[str, int]:
    """How everybody's tasks stand."""
    return asdict(summaries.send(*_tools()))


@shared_task(name=CLEANUP_COMPLETED_TASKS)
def cleanup_completed_tasks() -> dict[str, int]:
    """Off the lists with what was done long ago."""
    tools = _tools()
    return {"archived": cleanup.archive(tools.sessions, tools.now)}


@shared_task(name=UPDATE_TASK_STATUS)
def update_task_status(
    task_id: int, new_status: str, changed_by: int | None = None, reason: str = ""
) -> dict[str, int | str | bool]:
    """Move a task, for a request that has asked whether its user may."""
    changed = changes.update_status(
        *_tools(), task_id=task_id, new_status=new_status, changed_by=changed_by, reason=reason
    )
    return {"task_id": task_id, "status": new_status, "changed": changed}


@shared_task(name=GENERATE_USER_EXPORT, bind=True)
def generate_user_export(self: Task, admin_email: str, export_id: str | None = None) -> dict[str, Any]:
    """Make the CSV of all users and their results, and mail it to the admin who asked for it.

    Without an `export_id`, the task begins an export of its own id: delivered twice, it is still one.
    """
    id_ = export_id or self.request.id or str(uuid4())  # without a request, it was called and not sent
    return making.generate(*_tools(), admin_email, id_, asked_for=export_id is not None)
