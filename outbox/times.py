"""How a time is told to a person."""

from datetime import UTC, datetime

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def clock(moment: datetime) -> str:
    """In full: local, with its offset, and how far away it is."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %z} ({distance(moment)})"


def told(moment: datetime, now: datetime) -> str:
    """In a sentence: `10:32:05 (in 5 min)` if it is today in the zone of `now`, `2026-12-24 18:00 (in 3 d)` if not."""
    local = moment.astimezone(now.tzinfo)
    form = "%H:%M:%S" if local.date() == now.date() else "%Y-%m-%d %H:%M"
    return f"{local:{form}} ({distance(moment, now)})"


def distance(moment: datetime, now: datetime | None = None) -> str:
    """`in 5 min`, `2 h ago`."""
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return f"in {duration(seconds)}" if seconds > 0 else f"{duration(-seconds)} ago"


def duration(seconds: float) -> str:
    """In the largest unit that makes a whole number: `59 s`, `5 min`, `2 h`, `9 d`."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "0 s"
