"""The beat schedule: the safety net under the nudge, and what the application does at its hours and days.

The hours are wall-clock hours of `CELERY_TIMEZONE`. Celery's `crontab` is right where the clocks change: an hour that
is left out runs when the clocks jump over it, one that comes twice runs once; `tests/unit/test_schedule.py` walks
through both, in several zones. What a beat missed that was down over the time runs once when it is back. Every task may
run twice: it does its work once in a period.
"""

from typing import Any

from celery.schedules import crontab

from app import queues
from app.settings import AppSettings

_EXPIRES = 0.9
"""Of a period. An entry that waited longer for a worker is dropped: its successor is about to come, and a worker that
was away for a night does not find a thousand drains. A report that is late by less is still wanted."""

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY
MONTH = 28 * DAY  # the shortest

WATCH_SECONDS = MINUTE
HEALTH_SECONDS = 5 * MINUTE
PUBLISH_SECONDS = 15.0


def beat_schedule(settings: AppSettings) -> dict[str, dict[str, Any]]:
    """An entry for each task that runs by itself, by the task's name."""
    drain = settings.outbox_drain_seconds
    day = settings.monthly_report_day
    entries = {
        # What no nudge announced, and what dead workers held.
        queues.DRAIN: (drain, drain),
        queues.REAP: (drain, drain),
        queues.WATCH: (WATCH_SECONDS, WATCH_SECONDS),
        queues.HEALTH_CHECK: (HEALTH_SECONDS, HEALTH_SECONDS),
        queues.PURGE: _daily(settings.purge_hour),
        queues.SEND_DAILY_REMINDERS: _daily(settings.daily_reminder_hour),
        # And on the day after: for users in zones whose month ended later, and for what the first run missed. (After
        # the 28th of most Februaries there is no 29th; but by then the month before is over in every zone.)
        queues.SEND_MONTHLY_REPORTS: (_at(settings.monthly_report_hour, day_of_month=f"{day},{day + 1}"), MONTH),
        queues.GENERATE_TASK_REPORT: _daily(settings.task_report_hour),
        queues.SEND_TASK_REMINDERS: _daily(settings.task_reminder_hour),
        queues.SEND_OVERDUE_ALERTS: _daily(settings.overdue_alert_hour),
        queues.SEND_WEEKLY_SUMMARY: _weekly(settings.weekly_summary_day, settings.weekly_summary_hour),
        queues.CLEANUP_COMPLETED_TASKS: _weekly(settings.task_cleanup_day, settings.task_cleanup_hour),
        queues.CLEANUP_FILES: _daily(settings.file_cleanup_hour),
        # An upload asks for its own at once; this makes those whose task was lost.
        queues.GENERATE_THUMBNAILS: (crontab(minute=0), HOUR),
    }
    if settings.outbox_event_webhook is not None:
        entries[queues.PUBLISH_EVENTS] = (PUBLISH_SECONDS, PUBLISH_SECONDS)
    return {
        name: {"task": name, "schedule": schedule, "options": {"expires": period * _EXPIRES}}
        for name, (schedule, period) in entries.items()
    }


def _daily(hour: int) -> tuple[crontab, float]:
    return _at(hour), DAY


def _weekly(day: str, hour: int) -> tuple[crontab, float]:
    return _at(hour, day_of_week=day), WEEK


def _at(hour: int, **days: str) -> crontab:
    return crontab(minute=0, hour=hour, **days)
