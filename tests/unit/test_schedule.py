"""The beat schedule: what is in it, and that it is right where the clocks change."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine
from celery import Celery, current_app
from celery.schedules import crontab
from kombu.exceptions import OperationalError

from app import queues
from app.settings import AppSettings
from workers.beat import AGAIN_SECONDS, Beat
from workers.schedule import beat_schedule

BERLIN, NEW_YORK, KOLKATA = "Europe/Berlin", "America/New_York", "Asia/Kolkata"
HALF_AN_HOUR_ONLY = "Australia/Lord_Howe"

CHANGES = [
    (BERLIN, date(2026, 3, 29)),
    (BERLIN, date(2026, 10, 25)),
    (NEW_YORK, date(2026, 3, 8)),
    (NEW_YORK, date(2026, 11, 1)),
    (HALF_AN_HOUR_ONLY, date(2026, 10, 4)),
    (KOLKATA, date(2026, 3, 29)),
]


def entries(**settings: Any) -> dict[str, Any]:
    return beat_schedule(AppSettings.load(**settings))


def test_every_task_that_runs_by_itself_has_an_entry() -> None:
    on_demand = {
        queues.SEND_EMAILS, queues.GENERATE_USER_EXPORT, queues.UPDATE_TASK_STATUS, queues.SEND_NOTIFICATION,
        queues.BROADCAST_NOTIFICATION,
    }  # fmt: skip
    names = {
        value for value in vars(queues).values() if isinstance(value, str) and value.startswith(("outbox.", "workers."))
    }
    told = {"outbox_event_webhook": "https://x.example/", "outbox_event_secret": f"whsec_{'a' * 32}"}
    assert set(entries(**told)) == names - on_demand
    assert set(entries()) == names - on_demand - {queues.PUBLISH_EVENTS}


def test_what_waits_for_a_worker_is_dropped_before_its_successor_comes() -> None:
    expires = {name: entry["options"]["expires"] for name, entry in entries().items()}
    assert expires[queues.DRAIN] == 54
    assert expires[queues.HEALTH_CHECK] == 270
    assert expires[queues.GENERATE_THUMBNAILS] == 54 * 60
    assert 20 * 3600 < expires[queues.SEND_DAILY_REMINDERS] < 24 * 3600
    assert 6 * 86400 < expires[queues.SEND_WEEKLY_SUMMARY] < 7 * 86400


# --- Where the clocks change


def runs(
    schedule: crontab, zone: str, start: datetime, end: datetime, down: tuple[datetime, datetime]
) -> list[datetime]:
    """When it runs from start to end, asked when it says that it will be due, but not while beat is down."""
    app = Celery(set_as_current=False, timezone=zone)
    local = ZoneInfo(zone)
    at = [start]
    asked = crontab(
        minute=schedule._orig_minute,
        hour=schedule._orig_hour,
        day_of_week=schedule._orig_day_of_week,
        day_of_month=schedule._orig_day_of_month,
        nowfun=lambda: at[0].astimezone(local),
        app=app,
    )
    last, found = start.astimezone(local), []
    while at[0] < end:
        is_due, seconds = asked.is_due(last)
        if is_due:
            last = at[0].astimezone(local)
            found.append(last)
        at[0] += timedelta(seconds=max(seconds, 0.5))
        if down[0] <= at[0] < down[1]:
            at[0] = down[1]
    return found


NEVER = (datetime.max.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


@pytest.mark.parametrize(("zone", "day"), CHANGES)
def test_each_hour_comes_once_a_day_where_the_clocks_change(zone: str, day: date) -> None:
    # From a quarter to midnight, two days before, to a quarter to midnight: three whole days.
    start = datetime.combine(day - timedelta(days=2), time(23, 45), ZoneInfo(zone)).astimezone(UTC)
    end = datetime.combine(day + timedelta(days=1), time(23, 45), ZoneInfo(zone)).astimezone(UTC)
    for hour in range(24):
        schedule = entries(daily_reminder_hour=hour)[queues.SEND_DAILY_REMINDERS]["schedule"]
        found = runs(schedule, zone, start, end, NEVER)
        assert [moment.date() - day for moment in found] == [timedelta(days=days) for days in (-1, 0, 1)], hour
        # At its hour; or, where that is left out, when the clocks have jumped over it.
        assert {moment.hour for moment in found} <= {hour, hour + 1}
        assert Counter(moment.hour for moment in found)[hour] >= 2
        assert all(moment.minute in {0, 30} for moment in found)


@pytest.mark.parametrize(("zone", "day"), CHANGES)
def test_a_day_of_the_week_and_of_the_month_come_once(zone: str, day: date) -> None:
    start = datetime.combine(day - timedelta(days=2), time(23, 45), ZoneInfo(zone)).astimezone(UTC)
    for hour in (0, 1, 2, 3, 23):
        made = entries(
            task_cleanup_hour=hour,
            task_cleanup_day="sunday",
            monthly_report_day=min(day.day, 28),
            monthly_report_hour=hour,
        )
        weekly = runs(made[queues.CLEANUP_COMPLETED_TASKS]["schedule"], zone, start, start + timedelta(days=7), NEVER)
        assert [moment.date() for moment in weekly] == [day]
        monthly = runs(made[queues.SEND_MONTHLY_REPORTS]["schedule"], zone, start, start + timedelta(days=7), NEVER)
        assert [moment.day for moment in monthly] == [min(day.day, 28) + n for n in (0, 1)]


@pytest.mark.parametrize(("zone", "day"), CHANGES)
def test_what_a_beat_missed_that_was_down_runs_once_when_it_is_back(zone: str, day: date) -> None:
    local = ZoneInfo(zone)
    start = datetime.combine(day - timedelta(days=2), time(23, 45), local).astimezone(UTC)
    down = datetime.combine(day, time(0, 30), local).astimezone(UTC)
    back = datetime.combine(day, time(7, 15), local).astimezone(UTC)
    for hour in range(24):
        schedule = entries(daily_reminder_hour=hour)[queues.SEND_DAILY_REMINDERS]["schedule"]
        on_the_day = [
            m for m in runs(schedule, zone, start, start + timedelta(days=3), (down, back)) if m.date() == day
        ]
        assert len(on_the_day) == 1
        late = 1 <= hour <= 7
        assert on_the_day[0].time() == (time(7, 15) if late else time(hour))


def test_monthly_reports_run_on_their_day_and_the_day_after_in_every_month() -> None:
    start = datetime(2026, 12, 31, 12, tzinfo=UTC)
    for day in (1, 28):
        schedule = entries(monthly_report_day=day)[queues.SEND_MONTHLY_REPORTS]["schedule"]
        found = runs(schedule, KOLKATA, start, start + timedelta(days=365), NEVER)
        assert all((moment.hour, moment.minute) == (9, 0) for moment in found)
        days = Counter(moment.day for moment in found)
        assert days == {day: 12, day + 1: 12 if day == 1 else 11}, "there is no 29 February in 2027"


# --- Beat


class Broker:
    """What the Celery application publishes to; away while `error` is set."""

    def __init__(self) -> None:
        self.published: list[str] = []
        self.error: Exception | None = None
        self.refused: str | None = None

    def send_task(self, name: str, *_arguments: Any, **_options: Any) -> None:
        if self.error is not None:
            raise self.error
        if name == self.refused:
            raise ValueError("it can never be published")
        self.published.append(name)

    def seen(self) -> list[str]:
        found, self.published = self.published, []
        return found


EVENING = datetime(2026, 11, 22, 18, tzinfo=ZoneInfo(BERLIN))
START = EVENING - timedelta(minutes=10)
REMINDERS, DRAIN = queues.SEND_DAILY_REMINDERS, queues.DRAIN


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(START, tick=False) as clock:
        yield clock


@pytest.fixture
def celery(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    before = current_app._get_current_object()
    app = Celery(timezone=BERLIN)  # the current one: a crontab asks it for the time
    schedule = entries(daily_reminder_hour=18)
    app.conf.beat_schedule = {name: schedule[name] for name in (DRAIN, REMINDERS)}
    app.conf.result_expires = None  # no entry of Celery's own
    monkeypatch.setattr(app, "send_task", broker.send_task)
    monkeypatch.setattr(Beat, "producer", None)
    yield app
    before.set_current()


Start = Callable[[], Beat]


@pytest.fixture
def start(celery: Celery) -> Iterator[Start]:
    """Starts beat, after it was stopped or for the first time."""
    started: list[Beat] = []

    def start() -> Beat:
        beat = Beat(app=celery, schedule_filename="beat", max_interval=30)
        beat.sync_every = 10 * 3600  # rather than every 3 minutes of a time that flies
        started.append(beat)
        return beat

    yield start
    for beat in started:
        beat.close()


def tick_until(beat: Beat, clock: time_machine.Traveller, end: datetime) -> None:
    """As `celery beat` does: it sleeps for as long as `tick` says."""
    while datetime.now(UTC) < end:
        clock.shift(max(beat.tick(), 0.05))  # some time passes, even where it does not sleep


def test_beat_runs_each_entry_at_its_time(start: Start, broker: Broker, clock: time_machine.Traveller) -> None:
    tick_until(start(), clock, START + timedelta(minutes=20, seconds=30))
    assert Counter(broker.seen()) == {DRAIN: 20, REMINDERS: 1}


def test_what_cannot_be_published_is_tried_again(start: Start, broker: Broker, clock: time_machine.Traveller) -> None:
    beat = start()
    tick_until(beat, clock, EVENING - timedelta(minutes=5))
    assert REMINDERS not in broker.seen()
    broker.error = OperationalError("Redis is away")
    tick_until(beat, clock, EVENING + timedelta(minutes=5))
    assert beat.tick() == AGAIN_SECONDS, "rather than at once, over and over"
    broker.error = None
    tick_until(beat, clock, EVENING + timedelta(minutes=6))
    assert Counter(broker.seen())[REMINDERS] == 1
    tick_until(beat, clock, EVENING + timedelta(minutes=30))
    assert REMINDERS not in broker.seen()


@pytest.mark.parametrize("refused", [DRAIN, REMINDERS])
def test_what_can_never_be_published_holds_nothing_else_up(
    start: Start, broker: Broker, clock: time_machine.Traveller, refused: str
) -> None:
    broker.refused = refused
    clock.move_to(EVENING - timedelta(minutes=5))
    beat = start()
    tick_until(beat, clock, EVENING + timedelta(minutes=5, seconds=30))
    seen = Counter(broker.seen())
    assert seen == {REMINDERS: 1} if refused == DRAIN else seen[DRAIN] in {9, 10}


def test_what_was_not_published_is_not_forgotten_with_beat(
    start: Start, broker: Broker, clock: time_machine.Traveller
) -> None:
    beat = start()
    tick_until(beat, clock, EVENING - timedelta(minutes=5))
    broker.seen()
    broker.error = OperationalError("Redis is away")
    tick_until(beat, clock, EVENING + timedelta(minutes=5))
    beat.close()
    broker.error = None
    beat = start()
    tick_until(beat, clock, EVENING + timedelta(minutes=6))
    assert Counter(broker.seen()) == {DRAIN: 1, REMINDERS: 1}


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_is_set_back_stops_nothing(
    start: Start, broker: Broker, clock: time_machine.Traveller, restarted: bool
) -> None:
    beat = start()
    tick_until(beat, clock, START + timedelta(minutes=2))
    wrong = START + timedelta(days=31)
    clock.move_to(wrong)
    tick_until(beat, clock, wrong + timedelta(minutes=10))
    assert REMINDERS in broker.seen(), "what would have been missed in that month"
    clock.move_to(START + timedelta(minutes=3))
    if restarted:
        beat.close()
        beat = start()
    tick_until(beat, clock, START + timedelta(minutes=9))
    assert Counter(broker.seen())[DRAIN] in {5, 6}
    tick_until(beat, clock, START + timedelta(minutes=20))
    assert Counter(broker.seen())[REMINDERS] == 1


def test_a_clock_that_is_corrected_by_seconds_repeats_nothing(
    start: Start, broker: Broker, clock: time_machine.Traveller
) -> None:
    beat = start()
    tick_until(beat, clock, EVENING + timedelta(seconds=1))
    clock.shift(-20)
    tick_until(beat, clock, EVENING + timedelta(minutes=5))
    assert Counter(broker.seen())[REMINDERS] == 1


def test_the_schedule_survives_the_file_that_beat_keeps(start: Start, clock: time_machine.Traveller) -> None:
    beat = start()
    tick_until(beat, clock, START + timedelta(minutes=10))
    ran = {name: entry.last_run_at for name, entry in beat.schedule.items()}
    beat.close()
    again = start()
    assert {name: entry.last_run_at for name, entry in again.schedule.items()} == ran
    assert [path.name for path in Path().iterdir() if path.name.startswith("beat")]
