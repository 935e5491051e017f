"""Days and weeks by a calendar: the schedule's, which is `CELERY_TIMEZONE`, or a user's. Pure."""

from datetime import UTC, date, datetime, timedelta

from app.accounts.zones import Span, midnight, zone_of


def day_of(moment: datetime, zone: str) -> date:
    """The day that it is then, in that zone."""
    return moment.astimezone(zone_of(zone)).date()


def monday_of(moment: datetime, zone: str) -> date:
    """The Monday of the week that it is then, in that zone."""
    day = day_of(moment, zone)
    return day - timedelta(days=day.weekday())


def week_from(monday: date, zone: str) -> Span:
    """Seven days, from midnight to midnight by the clocks of the zone."""
    return Span(midnight(monday, zone_of(zone)), midnight(monday + timedelta(days=7), zone_of(zone)))


def until_tomorrow(now: datetime, zone: str) -> Span:
    """From now to the same time of day tomorrow: 24 hours, but 23 or 25 when the zone's clocks change.

    A run a day then covers all of time. Where tomorrow has that time twice, or skips it, the later reading holds: what
    is covered twice does less harm than what is not covered at all.
    """
    tomorrow = now.astimezone(zone_of(zone)) + timedelta(days=1)  # wall time: the clock change does not shift it
    return Span(now, max(tomorrow.replace(fold=fold).astimezone(UTC) for fold in (0, 1)))
