"""Times, as they are typed."""

import re
from datetime import UTC, datetime, timedelta

import click

_AGO = re.compile(r"(\d{1,6})\s*(s|min|h|d|w)")
_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(_: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """An aware time. One without a zone is refused as in Python: whose clock, and on which side of the DST change?"""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is not an ISO 8601 time, such as 2026-12-24T18:00+01:00 or 2026-12-24T17:00Z", param=parameter
        ) from error
    if moment.utcoffset() is None:
        here = moment.astimezone().isoformat(timespec="minutes")
        raise click.BadParameter(
            f"{value!r} has no time zone: write {here} if this machine's is meant, or end in Z for UTC",
            param=parameter,
        )
    return moment


def time_or_ago(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """`2h`, `3d`: so long ago; or a time with its zone, as `queue --at` takes it."""
    ago = _AGO.fullmatch(value.strip()) if value else None
    if ago is None:
        return moment(context, parameter, value)
    try:
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    except OverflowError as error:
        raise click.BadParameter(f"{value!r} is before all time", param=parameter) from error
