"""A calendar month: when it began and ended for somebody, and its weeks. Pure."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from functools import cached_property
from typing import NamedTuple

from app.accounts.zones import Span, midnight


class Week(NamedTuple):
    """Monday to Sunday, or what of it is in the month."""

    first: date
    last: date

    @property
    def days(self) -> str:
        """`2-8`, or `30` for one day."""
        return f"{self.first.day}" if self.first == self.last else f"{self.first.day}-{self.last.day}"


@dataclass(frozen=True)
class Month:
    """The month that begins on `first`."""

    first: date

    @classmethod
    def before(cls, now: datetime, zone: tzinfo) -> "Month":
        """The last that is over by the calendar of `zone`."""
        return cls((now.astimezone(zone).date().replace(day=1) - timedelta(days=1)).replace(day=1))

    @property
    def next(self) -> "Month":
        """The one after it."""
        return Month((self.first + timedelta(days=31)).replace(day=1))

    def span(self, zone: tzinfo) -> Span:
        """From midnight to midnight by the clocks of `zone`, which need not be 24 hours times the days."""
        return Span(midnight(self.first, zone), midnight(self.next.first, zone))

    @cached_property
    def weeks(self) -> tuple[Week, ...]:
        """Four to six of them."""
        last = self.next.first - timedelta(days=1)
        days = [self.first + timedelta(days=n) for n in range(last.day)]
        firsts = [day for day in days if day == self.first or day.weekday() == 0]
        return tuple(Week(day, min(day + timedelta(days=6 - day.weekday()), last)) for day in firsts)

    def week(self, day: date) -> int:
        """The place of a day's week among the weeks."""
        return (day.day - 1 + self.first.weekday()) // 7

    def __str__(self) -> str:
        """`2026-10`."""
        return f"{self.first:%Y-%m}"
