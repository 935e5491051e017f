"""Times on pages: where the reader is, whatever the clocks do."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from flask import g

from app import create_app
from app.accounts.models import User
from app.accounts.times import local, local_date
from app.settings import AppSettings


@pytest.fixture(autouse=True)
def reader() -> Iterator[User]:
    """Who looks at the page."""
    user = User(time_zone="Asia/Kolkata")
    with create_app(AppSettings.load()).test_request_context():
        g._login_user = user
        yield user


def test_a_moment_is_told_where_its_reader_is(reader: User) -> None:
    evening = datetime(2026, 11, 22, 18, 45, tzinfo=UTC)
    assert (local(evening), local_date(evening)) == ("23 Nov 2026, 00:15", "23 Nov 2026")
    reader.time_zone = "America/New_York"
    assert (local(evening), local_date(evening)) == ("22 Nov 2026, 13:45", "22 Nov 2026")
    assert local(evening.astimezone(timezone(timedelta(hours=14)))) == "22 Nov 2026, 13:45"


def test_an_hour_that_comes_twice_and_one_that_never_comes(reader: User) -> None:
    reader.time_zone = "Europe/Berlin"
    twice = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert [local(twice + timedelta(hours=hours)) for hours in (0, 1)] == ["25 Oct 2026, 02:30"] * 2
    never = datetime(2026, 3, 29, 0, 59, tzinfo=UTC)
    assert [local(never + timedelta(minutes=minutes))[-5:] for minutes in (0, 1)] == ["01:59", "03:00"]


def test_a_date_is_a_day_already_and_none_is_nothing() -> None:
    assert local_date(date(2028, 2, 29)) == "29 Feb 2028"
    assert (local(None), local_date(None)) == ("", "")


@pytest.mark.parametrize("tell", [local, local_date])
def test_a_time_without_a_zone_is_refused(tell: object) -> None:
    assert callable(tell)
    with pytest.raises(ValueError, match="has no time zone"):
        tell(datetime(2026, 11, 22, 18))  # noqa: DTZ001 - that is the point


def test_nobody_reads_in_utc() -> None:
    app = create_app(AppSettings.load())
    moment = datetime(2026, 11, 22, 18, tzinfo=UTC)
    for context in (app.app_context(), app.test_request_context()):
        with context:
            assert app.jinja_env.from_string("{{ at|local }}; {{ at|local_date }}").render(at=moment) == (
                "22 Nov 2026, 18:00; 22 Nov 2026"
            )
