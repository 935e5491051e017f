"""What a request says: fields of a form, or of a JSON object. What makes no sense is a 400 that names it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from flask import request
from werkzeug.exceptions import BadRequest

from app.accounts.models import User
from app.accounts.zones import zone_of
from app.database import LARGEST_ID

_YEARS = range(1970, 3000)
"""The ends of the calendar have no other time zone."""

_DIGITS = len(str(LARGEST_ID))

_SHOWN = 100
"""Characters of a wrong value, in the answer."""

E = TypeVar("E", bound=StrEnum)


class Fields:
    """The request's fields, or those of another mapping, as of its address; one that is not there is empty."""

    def __init__(self, given: Any = None) -> None:
        try:
            if given is None:
                given = request.get_json() if request.is_json else request.form
        except RecursionError as error:
            raise BadRequest("The JSON is nested too deeply: one object with the fields in it will do.") from error
        if not isinstance(given, Mapping):
            raise BadRequest("The body must be a JSON object.")
        self._given = given

    def text(self, name: str, longest: int) -> str:
        """Without blanks around it."""
        value = self._given.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise _bad(name, value, "give a text")
        # PostgreSQL takes neither a NUL nor half a surrogate pair, which JSON can carry.
        if "\0" in value or value.encode(errors="replace").decode() != value:
            raise _bad(name, value, "leave out the characters that are no text")
        if len(value.strip()) > longest:
            raise _bad(name, value, f"use at most {longest} characters")
        return value.strip()

    def line(self, name: str, longest: int) -> str:
        """On one line, and not empty."""
        value = " ".join(self.text(name, longest).split())
        if not value:
            raise BadRequest(f"{name} is missing: say what it is.")
        if not value.isprintable():
            raise _bad(name, value, "leave out the characters that cannot be seen")
        return value

    def choice(self, name: str, values: type[E], default: E | None = None) -> E:
        """One of the values; where nothing is said, the default, if there is one."""
        value = self._given.get(name)
        if default is not None and value in (None, ""):
            return default
        try:
            return values(str(value))
        except ValueError as error:
            raise _bad(name, value, f"choose from {', '.join(values)}") from error

    def moment(self, name: str, user: User) -> datetime | None:
        """By the user's clock, unless it names its offset. None if it is empty."""
        value = self.text(name, longest=40)
        if not value:
            return None
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise _bad(name, value, "give a date and time, such as 2026-11-22T18:00") from error
        if moment.year not in _YEARS:
            raise _bad(name, value, f"use a year from {_YEARS[0]} to {_YEARS[-1]}")
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone_of(user.time_zone))).astimezone(UTC)

    def id(self, name: str) -> int | None:
        """Of somebody or something; None if it is empty."""
        value = self._given.get(name)
        if value is None or value == "":
            return None
        digits = "" if isinstance(value, bool) else str(value)
        if not digits.isascii() or not digits.isdigit() or len(digits) > _DIGITS or int(digits) > LARGEST_ID:
            raise _bad(name, value, "give the number that it has")
        return int(digits)


def _bad(name: str, value: object, remedy: str) -> BadRequest:
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    return BadRequest(f"{name}={shown}: {remedy}.")
