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

from app.projects import alerts, changes, cleanup, reminders, reports, summaries
from app.queues import (
    CLEANUP_COMPLETED_TASKS,
    GENERATE_TASK_REPORT,
    SEND_OVERDUE_ALERTS,
    SEND_TASK_REMINDERS,
    SEND_WEEKLY_SUMMARY,
    UPDATE_TASK_STATUS,
)
from app.settings import AppSettings


class Tools(NamedTuple):
    """What the rooms' functions begin with."""

    sessions: sessionmaker[Session]
    settings: AppSettings
    now: datetime


def _tools() -> Tools:
    parts = current_app.extensions
    return Tools(parts["sessions"], parts["settings"], datetime.now(UTC))


@shared_task(name=GENERATE_TASK_REPORT)
def generate_task_report() -> dict[str, int]:
    """How all the tasks stand, to the admins."""
    return reports.send(*_tools())


@shared_task(name=SEND_TASK_REMINDERS)
def send_task_reminders() -> dict[str, int]:
    """What is due until tomorrow."""
    return asdict(reminders.send(*_tools()))


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
