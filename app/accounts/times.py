"""Times as pages show them: where the user who reads is.

{{ moment|local }}        22 Nov 2026, 18:00
{{ moment|local_date }}   22 Nov 2026
"""

from datetime import date, datetime

from babel.dates import format_date, format_datetime
from flask import Flask
from flask_login import current_user

from app.accounts.zones import zone_of

_LOCALE = "en"
"""The language of the pages."""


def tell_times(app: Flask) -> None:
    """Give the filters to the application's pages."""
    app.add_template_filter(local)
    app.add_template_filter(local_date)


def local(moment: datetime | None) -> str:
    """Nothing for None. ValueError for a time without a zone, which could be any."""
    return format_datetime(_here(moment), "d MMM y, HH:mm", locale=_LOCALE) if moment is not None else ""


def local_to_the_second(moment: datetime) -> str:
    """For whoever holds it against a log."""
    return format_datetime(_here(moment), "d MMM y, HH:mm:ss", locale=_LOCALE)


def local_date(day: date | None) -> str:
    """Of a moment, the user's day; a date is one already."""
    shown = _here(day) if isinstance(day, datetime) else day
    return format_date(shown, "d MMM y", locale=_LOCALE) if shown is not None else ""


def _here(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone: pass an aware datetime")
    return moment.astimezone(zone_of(getattr(current_user, "time_zone", "UTC")))
