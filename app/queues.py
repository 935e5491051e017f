"""The Celery queues and tasks that the application and its workers know each other by."""

from outbox.states import Priority

DEFAULT_QUEUE = "celery"
"""Everything but the sending itself: a long export must not stand in a password reset's way."""


def queue_of(priority: Priority) -> str:
    """One queue a lane, since priorities within one Redis list are strict and starve the lowest."""
    return f"email.{priority.label}"


QUEUES = (DEFAULT_QUEUE, *(queue_of(priority) for priority in Priority))

DRAIN = "outbox.drain"
SEND_EMAILS = "outbox.send_emails"
REAP = "outbox.reap"

PURGE = "outbox.purge"
WATCH = "outbox.watch"
PUBLISH_EVENTS = "outbox.publish_events"

SEND_DAILY_REMINDERS = "workers.send_daily_reminders"
SEND_MONTHLY_REPORTS = "workers.send_monthly_reports"
GENERATE_USER_EXPORT = "workers.generate_user_export"
GENERATE_TASK_REPORT = "workers.generate_task_report"
SEND_TASK_REMINDERS = "workers.send_task_reminders"
SEND_OVERDUE_ALERTS = "workers.send_overdue_alerts"
SEND_WEEKLY_SUMMARY = "workers.send_weekly_summary"
UPDATE_TASK_STATUS = "workers.update_task_status"
CLEANUP_COMPLETED_TASKS = "workers.cleanup_completed_tasks"
GENERATE_THUMBNAILS = "workers.generate_thumbnails"
CLEANUP_FILES = "workers.cleanup_files"
SEND_NOTIFICATION = "workers.send_notification"
BROADCAST_NOTIFICATION = "workers.broadcast_notification"
HEALTH_CHECK = "workers.health_check"
