"""Notifications: to one user, or to all of an organisation.

Delivered twice, at once or again, a task tells everybody once: its id is in the rows.
"""

from typing import Any

from celery import Task, shared_task
from flask import current_app

from app.notifications.broadcast import tell_organisation, tell_user
from app.notifications.feed import Message
from app.queues import BROADCAST_NOTIFICATION, SEND_NOTIFICATION


@shared_task(bind=True, name=SEND_NOTIFICATION)
def send_notification(task: Task, user_id: int, title: str, body: str = "", url: str = "") -> dict[str, int]:
    """Tell one user. `url` is a path of the application, where it leads, or nothing."""
    return {"notified": tell_user(*_tools(), user_id, Message(title, body, url), task.request.id)}


@shared_task(bind=True, name=BROADCAST_NOTIFICATION)
def broadcast_notification(
    task: Task, organisation_id: int, title: str, body: str = "", url: str = ""
) -> dict[str, int]:
    """Tell all users of an organisation."""
    return {"notified": tell_organisation(*_tools(), organisation_id, Message(title, body, url), task.request.id)}


def _tools() -> tuple[Any, Any]:
    parts = current_app.extensions
    return parts["sessions"], parts["wakes"]
