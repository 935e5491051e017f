"""What every mail about quizzes says."""

import logging
from datetime import UTC, tzinfo
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from app.accounts.models import User
from app.settings import AppSettings

log = logging.getLogger(__name__)


def addressed_to(user: User, settings: AppSettings) -> dict[str, Any]:
    """The part of a template's context that is the same in all of them. Outside a request: no `url_for`."""
    return {
        "name": user.name,
        "time_zone": str(zone_of(user.time_zone)),
        "quizzes_url": f"{settings.app_url}/quizzes/",
        "preferences_url": f"{settings.app_url}/preferences",
    }


def quiz_url(id_: int, settings: AppSettings) -> str:
    """Where a quiz is taken."""
    return f"{settings.app_url}/quizzes/{id_}"


@cache
def zone_of(name: str) -> tzinfo:
    """A user's zone. One that this machine's table does not have must not keep everybody's mail back: UTC then."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        log.warning("users.time_zone=%r is no time zone here: UTC is used for it; install tzdata or correct it", name)
        return UTC
