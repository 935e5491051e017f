"""Months, weeks, places, and the chart's bars: what a monthly report is made of, without a database."""

from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from io import BytesIO
from zoneinfo import ZoneInfo

import pytest
from PIL import Image

from app.quizzes import chart
from app.quizzes.figures import Figures, Standings, Taken
from app.quizzes.months import Month

NOVEMBER = Month(date(2026, 11, 1))


@pytest.mark.parametrize(
    ("now", "zone", "month"),
    [
        ("2026-12-01T09:00", "UTC", "2026-11"),
        ("2026-11-30T23:59", "UTC", "2026-10"),
        ("2026-11-30T18:30", "Asia/Kolkata", "2026-11"),
        ("2026-12-01T04:59", "America/New_York", "2026-10"),
        ("2027-01-28T00:00", "UTC", "2026-12"),
        ("2028-03-01T00:00", "UTC", "2028-02"),
    ],
)
def test_the_month_before(now: str, zone: str, month: str) -> None:
    assert str(Month.before(datetime.fromisoformat(f"{now}+00:00"), ZoneInfo(zone))) == month


def test_a_month_has_the_hours_that_its_clocks_count() -> None:
    spans = {
        (year, month, zone): Month(date(year, month, 1)).span(ZoneInfo(zone))
        for year, month, zone in (
            (2026, 10, "Europe/Berlin"), (2027, 3, "Europe/Berlin"), (2026, 11, "America/New_York"), (2028, 2, "UTC"),
            (2026, 2, "UTC"),
        )
    }  # fmt: skip
    hours = [(span.end - span.start) / timedelta(hours=1) for span in spans.values()]
    assert hours == [31 * 24 + 1, 31 * 24 - 1, 30 * 24 + 1, 29 * 24, 28 * 24]


@pytest.mark.parametrize("first", [date(2026 + n // 12, n % 12 + 1, 1) for n in range(30)])
def test_weeks_cover_the_month_and_each_day_is_in_its_week(first: date) -> None:
    month = Month(first)
    days = [first + timedelta(days=n) for n in range((month.next.first - first).days)]
    covered = [
        (number, week.first + timedelta(days=n))
        for number, week in enumerate(month.weeks)
        for n in range((week.last - week.first).days + 1)
    ]
    assert covered == [(month.week(day), day) for day in days]
    assert all(week.first.weekday() == 0 for week in month.weeks[1:])


def test_a_place_is_shared_and_those_after_it_left_out() -> None:
    standings = Standings([Fraction(n, 10) for n in (9, 7, 7, 2)])
    assert [standings.rank(Fraction(n, 10)) for n in (9, 7, 2)] == [1, 2, 4]
    assert standings.people == 4


def test_a_thousand_attempts_are_five_lines() -> None:
    figures = Figures(NOVEMBER)
    for n in range(1000):
        at = datetime(2026, 11, 1 + n // 50, tzinfo=UTC)
        figures.add(Taken(1, at, n % 5, 4 + n % 2, f"Quiz {n}", f"Subject {n % 3}"), at.date())
    assert [attempt["title"] for attempt in figures.context["attempts"]] == [f"Quiz {n}" for n in range(999, 994, -1)]
    assert [subject["taken"] for subject in figures.context["subjects"]] == [334, 333, 333]
    assert figures.percents[-2:] == [None, None]


def test_a_bar_is_as_high_as_its_percents() -> None:
    with Image.open(BytesIO(chart.draw([("1-7", 100), ("8-14", 50), ("15", 0), ("16-22", None)]))) as image:
        assert image.size == (1068, 448)
        pixels = image.convert("RGBA")
    blue = (74, 123, 224, 255)
    heights = [sum(pixels.getpixel((int(1068 * (n + 0.5) / 4), y)) == blue for y in range(448)) for n in range(4)]
    assert heights == pytest.approx([290, 145, 0, 0], abs=2)
    assert pixels.getpixel((0, 0)) == (127, 131, 140, 0)  # nothing there, in light and dark


def test_equal_figures_are_one_file() -> None:
    assert chart.draw([("1", 5)]) == chart.draw([("1", 5)]) != chart.draw([("1", 6)])
