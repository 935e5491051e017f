"""The beat schedule: the safety net under the nudge."""

from typing import Any

from app.queues import DRAIN, REAP
from app.settings import AppSettings

_EXPIRES = 0.9
"""Of a period. An entry that waited longer for a worker is dropped: its successor is about to come, and a worker that
was away for a night does not find a thousand drains."""


def beat_schedule(settings: AppSettings) -> dict[str, dict[str, Any]]:
    """Every `OUTBOX_DRAIN_SECONDS`: drain what no nudge announced, and take back what dead workers held."""
    period = settings.outbox_drain_seconds
    return {
        name: {"task": name, "schedule": period, "options": {"expires": period * _EXPIRES}} for name in (DRAIN, REAP)
    }
