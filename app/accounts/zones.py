"""A user's time zone, for mails and pages that must come about whatever the table of zones has, and days in a zone."""

import logging
from datetime import UTC, date, datetime, time, tzinfo
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from outbox.logs import tell

log = logging.getLogger(__name__)


@cache
def zone_of(name: str) -> tzinfo:
    """A user's zone. One that this machine's table does not have must not keep everybody's mail back: UTC then."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder, "Europe", or far too long
        sentence = "users.time_zone=%(zone)r is no time zone here: UTC is used for it; install tzdata or correct it"
        tell(log, logging.WARNING, "zone.unknown", sentence, zone=name)
        return UTC


class Span(NamedTuple):
    """Half-open: `end` is the first moment of what follows."""

    start: datetime
    end: datetime


def midnight(day: date, zone: tzinfo) -> datetime:
    """When the day begins by the clocks of the zone, in UTC."""
    return datetime.combine(day, time(), zone).astimezone(UTC)
