"""Days and weeks of the schedule and of its users, on the days when clocks change, too."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from app.projects.days import day_of, monday_of, until_tomorrow, week_from

BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("now", "hours"),
    [
        (datetime(2026, 11, 22, 7, tzinfo=UTC), 24),
        (datetime(2026, 10, 24, 6, tzinfo=UTC), 25),  # 08:00, the day before the night that has an hour more
        (datetime(2026, 3, 28, 7, tzinfo=UTC), 23),
        # At 02:30, which comes twice on the 25th: until the second of them; and the run at the first overlaps with it.
        (datetime(2026, 10, 24, 0, 30, tzinfo=UTC), 25),
        # Tomorrow has no 02:30: until the later of the moments that it may mean.
        (datetime(2026, 3, 28, 1, 30, tzinfo=UTC), 24),
    ],
)
def test_until_the_same_time_tomorrow(now: datetime, hours: int) -> None:
    span = until_tomorrow(now, BERLIN)
    assert span.start == now
    assert span.end - span.start == timedelta(hours=hours)


@pytest.mark.parametrize(("month", "day", "fold"), [(3, 27, 0), (10, 23, 0), (10, 23, 1)])
def test_runs_at_one_hour_leave_no_moment_out(month: int, day: int, fold: int) -> None:
    """On the days that have an hour twice, whichever of the two the run takes; or not at all, and it runs later."""
    first = datetime(2026, month, day, tzinfo=ZoneInfo(BERLIN))
    for hour in range(24):
        runs = [(first + timedelta(days=n, hours=hour, minutes=30)).replace(fold=fold) for n in range(5)]
        spans = [until_tomorrow(run.astimezone(UTC), BERLIN) for run in runs]
        assert all(one.end >= following.start for one, following in pairwise(spans))


def test_days_and_mondays_are_those_of_the_zone() -> None:
    late_on_sunday = datetime(2026, 11, 22, 23, 30, tzinfo=UTC)
    assert day_of(late_on_sunday, "UTC") == date(2026, 11, 22)
    assert day_of(late_on_sunday, BERLIN) == date(2026, 11, 23)
    assert monday_of(late_on_sunday, "UTC") == date(2026, 11, 16)
    assert monday_of(late_on_sunday, BERLIN) == date(2026, 11, 23)


def test_a_week_in_which_clocks_change_is_an_hour_longer() -> None:
    week = week_from(date(2026, 10, 19), BERLIN)
    assert week.start == datetime(2026, 10, 18, 22, tzinfo=UTC)
    assert week.end - week.start == timedelta(days=7, hours=1)
