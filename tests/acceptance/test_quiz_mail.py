"""The mails about quizzes, read at the relay: to the right people, with the right content, once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from io import BytesIO
from typing import Any

import pytest
import sqlalchemy as sa
import time_machine
from PIL import Image

from app import mailings
from app.accounts.models import User
from app.categories import REMINDERS, REPORTS
from app.queues import SEND_DAILY_REMINDERS, SEND_MONTHLY_REPORTS
from app.quizzes import reminders, reports
from outbox import subscriptions
from outbox.models import EmailAttachment, EmailBlob
from outbox.service import EmailService
from outbox.subscriptions import Subscription
from tests.application import World, html_of
from tests.application import text_of as text_with_crlf

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
SOON_AFTER = datetime(2026, 12, 1, 9, tzinfo=UTC)
"""When November's reports go."""

NONE: dict[str, int] = {"queued": 0, "already": 0, "nothing_to_say": 0, "invalid": 0}


def at(moment: datetime) -> time_machine.travel:
    return time_machine.travel(moment, tick=False)


def remind(world: World, now: datetime = NOON) -> Mapping[str, int]:
    """The tally of what was not nothing."""
    with at(now):
        return {name: count for name, count in world.run(SEND_DAILY_REMINDERS).items() if count}


def report(world: World, now: datetime = SOON_AFTER) -> Mapping[str, int]:
    with at(now):
        return {name: count for name, count in world.run(SEND_MONTHLY_REPORTS).items() if count}


def member(world: World, username: str, **columns: Any) -> User:
    """Somebody who has been there for long."""
    return world.user(username, **({"created_at": LONG_AGO} | columns))


def text_of(mail: EmailMessage) -> str:
    return text_with_crlf(mail).replace("\r\n", "\n")


def receivers(mails: Sequence[EmailMessage]) -> list[str]:
    return [str(mail["To"]).partition("@")[0] for mail in mails]


def unsubscribe(world: World, user: User, category: str) -> None:
    assert user.email
    with world.engine.begin() as connection:
        subscriptions.unsubscribe(connection, Subscription(user.email, category), "test")


@contextmanager
def statements(world: World) -> Iterator[list[str]]:
    seen: list[str] = []

    def see(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    sa.event.listen(world.engine, "before_cursor_execute", see)
    yield seen
    sa.event.remove(world.engine, "before_cursor_execute", see)


# Reminders


def test_who_was_away_is_reminded_of_what_they_did_not_take(world: World) -> None:
    quizzes = [world.quiz(f"Quiz {n}") for n in range(1, 8)]
    world.quiz("Without questions", questions=0)
    away = world.user("away", last_login_at=datetime(2026, 11, 20, 11, 59, tzinfo=UTC), time_zone="Asia/Kolkata")
    world.user("never")
    world.user("here", last_login_at=datetime(2026, 11, 20, 12, tzinfo=UTC))
    world.user("no-mail", email=None)
    through = world.user("through")
    unsubscribe(world, world.user("unwilling"), REMINDERS)
    unsubscribe(world, world.user("other"), REPORTS)
    for quiz in quizzes:
        world.attempt(through, quiz)
    world.attempt(away, quizzes[6], correct=1)
    world.attempt(away, quizzes[6], correct=4)

    assert remind(world) == {"queued": 3, "nothing_to_say": 1}
    mails = world.mails()
    assert receivers(mails) == ["away", "never", "other"]
    assert mails[0]["Subject"] == "6 quizzes are waiting for you"
    assert "List-Unsubscribe" in mails[0]
    words = text_of(mails[0])
    assert "You were last here on November 20, 2026." in words
    assert "Taken: 1 of 7, with an average of 62%." in words
    assert [n for n in range(1, 8) if f"* Quiz {n} (Mathematics, 4 questions)" in words] == [2, 3, 4, 5, 6]
    assert f"https://quiz.example/quizzes/{quizzes[5].id}" in html_of(mails[0])
    assert "And 1 more" in words
    assert "You have not been here yet." in text_of(mails[1])
    assert "Taken: 0 of 7.\n" in text_of(mails[1])


def test_nobody_is_reminded_twice_on_a_day_of_the_schedules(database_url: str, world: World) -> None:
    world = with_settings(world, celery_timezone="Asia/Kolkata")  # where the day ends at 18:30 UTC
    world.quiz()
    ada = world.user("ada")
    assert remind(world, datetime(2026, 11, 21, 18, 31, tzinfo=UTC)) == {"queued": 1}
    assert remind(world, datetime(2026, 11, 22, 18, 29, tzinfo=UTC)) == {}
    with world.session() as session:
        kept = session.get_one(User, ada.id).last_reminder_sent
        assert kept == datetime(2026, 11, 21, 18, 31, tzinfo=UTC)
        session.execute(sa.update(User).values(last_reminder_sent=None))  # forgotten; the key remembers
    assert remind(world, datetime(2026, 11, 22, 18, 29, tzinfo=UTC)) == {"already": 1}
    assert remind(world, datetime(2026, 11, 22, 18, 30, tzinfo=UTC)) == {"queued": 1}
    assert receivers(world.mails()) == ["ada", "ada"]


def test_a_reminder_said_elsewhere_today_counts(world: World) -> None:
    world.quiz()
    world.user("today", last_reminder_sent=datetime(2026, 11, 22, tzinfo=UTC))
    world.user("yesterday", last_reminder_sent=datetime(2026, 11, 21, 23, 59, tzinfo=UTC))
    remind(world)
    assert receivers(world.mails()) == ["yesterday"]


def test_a_mail_that_cannot_be_written_keeps_nobody_elses_back(world: World) -> None:
    world.quiz()
    world.user("lost", email="no address")
    world.user("ada")
    assert remind(world) == {"queued": 1, "invalid": 1}
    assert receivers(world.mails()) == ["ada"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_nobody_who_logs_in_waits_for_the_reminders_to_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.quiz()
    world.user("ada")
    whole = EmailService.queue_emails

    def log_in_meanwhile(self: EmailService, mails: Any, **common: Any) -> list[int]:
        with world.engine.begin() as connection:
            connection.execute(sa.select(User.id).with_for_update(nowait=True, key_share=True))
        return whole(self, mails, **common)

    monkeypatch.setattr(EmailService, "queue_emails", log_in_meanwhile)
    assert remind(world) == {"queued": 1}


def test_no_quizzes_no_reminders(world: World) -> None:
    world.user()
    assert remind(world) == {"nothing_to_say": 1}


# Reports


def test_a_report_says_how_the_month_went(world: World) -> None:
    rivers, primes = world.quiz("Rivers", "Geography"), world.quiz("Primes")
    ada, bob, cy, dee = (member(world, name) for name in ("ada", "bob", "cy", "dee"))
    for correct in (1, 2, 3):  # the same average as a fifth: not with floats, which make 0.20000000000000004 of it
        world.attempt(bob, rivers, correct, questions=10, taken_at=datetime(2026, 11, correct, tzinfo=UTC))
    world.attempt(cy, rivers, 1, questions=5, taken_at=NOON)
    taken = ((3, rivers, 2), (4, primes, 4), (5, primes, 3), (16, primes, 3), (29, rivers, 4), (30, primes, 1))
    for day, quiz, correct in taken:
        world.attempt(ada, quiz, correct, taken_at=datetime(2026, 11, day, tzinfo=UTC))
    world.attempt(dee, primes, 0, taken_at=datetime(2026, 11, 30, 23, 59, 59, 999999, tzinfo=UTC))

    assert report(world) == {"queued": 4}
    mails = world.mails()
    assert receivers(mails) == ["ada", "bob", "cy", "dee"]
    assert mails[0]["Subject"] == "Your November 2026: 6 quizzes"
    words = text_of(mails[0])
    assert "Average: 71%\nBest: 100%\nPlace: 1 of 4\n" in words
    assert "* Mathematics: 4 taken, average 69%\n* Geography: 2 taken, average 75%" in words
    last = words.partition("Your last quizzes:")[2]
    assert last.count("* Nov") == 5
    assert "* Nov 30, 2026: Primes, 25%\n* Nov 29, 2026: Rivers, 100%\n* Nov 16, 2026: Primes, 75%" in last
    assert ["Place: 2 of 4" in text_of(mail) for mail in mails] == [False, True, True, False]
    assert "Place: 4 of 4" in text_of(mails[3])


def test_the_chart_is_a_part_of_the_mail_and_is_said_in_words(world: World) -> None:
    quiz, ada = world.quiz(), member(world, "ada", time_zone="Asia/Kolkata")
    for day, correct in ((1, 4), (8, 1), (15, 2)):  # where it is the 9th at 18:30 UTC of the 8th
        world.attempt(ada, quiz, correct, taken_at=datetime(2026, 11, day, 18 if day == 8 else 12, 40, tzinfo=UTC))
    report(world)
    (mail,) = world.mails()
    (picture,) = (part for part in mail.walk() if part.get_content_type() == "image/png")
    assert picture["Content-ID"] == "<chart>"
    assert 'src="cid:chart"' in html_of(mail)
    words = (
        "1 November: 100%, 2 to 8 November: nothing, 9 to 15 November: 38%, "
        "16 to 22 November: nothing, 23 to 29 November: nothing, 30 November: nothing"
    )
    assert f'alt="{words}"' in html_of(mail)
    assert words in text_of(mail)
    with Image.open(BytesIO(picture.get_content())) as image:
        assert image.size == (1068, 448)


def test_the_same_chart_is_kept_once(world: World) -> None:
    quiz = world.quiz()
    for name, correct in (("ada", 2), ("bob", 2), ("cyd", 3)):
        world.attempt(member(world, name), quiz, correct, taken_at=NOON)
    assert report(world) == {"queued": 3}
    with world.session() as session:
        kept, shown = (session.scalar(sa.select(sa.func.count()).select_from(t)) for t in (EmailBlob, EmailAttachment))
        assert (kept, shown) == (2, 3)


def test_who_took_nothing_is_told_so(world: World) -> None:
    quiz, ada = world.quiz(), member(world, "ada")
    world.attempt(ada, quiz, taken_at=datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC))
    world.attempt(ada, quiz, taken_at=datetime(2026, 12, 1, tzinfo=UTC))
    member(world, "no-mail", email=None)
    unsubscribe(world, member(world, "unwilling"), REPORTS)
    world.user("new", created_at=datetime(2026, 12, 1, tzinfo=UTC))
    member(world, "york", time_zone="America/New_York")  # where the month ends later, and for nobody else
    world.user("just-in", created_at=datetime(2026, 11, 30, 23, 59, tzinfo=UTC))
    report(world)
    mails = world.mails()
    assert receivers(mails) == ["ada", "just-in", "york"]
    for mail in mails:
        assert mail["Subject"] == "Your November 2026: no quizzes"
        assert "you took no quiz in November" in text_of(mail)
        assert not [part for part in mail.walk() if part.get_content_maintype() == "image"]


MONTHS = [
    ("UTC", "2026-10-01T00:00", "2026-11-01T00:00"),
    ("Asia/Kolkata", "2026-09-30T18:30", "2026-10-31T18:30"),
    ("Europe/Berlin", "2026-09-30T22:00", "2026-10-31T23:00"),  # summer time ends within
    ("America/New_York", "2026-11-01T04:00", "2026-12-01T05:00"),  # and here
    ("UTC", "2026-12-01T00:00", "2027-01-01T00:00"),
    ("Europe/Berlin", "2027-02-28T23:00", "2027-03-31T22:00"),  # and begins
    ("America/New_York", "2027-03-01T05:00", "2027-04-01T04:00"),
    ("UTC", "2028-02-01T00:00", "2028-03-01T00:00"),  # 29 days
]
"""Zone, and in UTC the first moments of a month and of the next, from the tables of the zones' laws."""


def test_a_month_is_the_users_own(world: World) -> None:
    quiz = world.quiz()
    runs: dict[datetime, dict[str, int]] = {}
    for number, (zone, first, end) in enumerate(MONTHS):
        inside, outside = (member(world, f"{where}{number}", time_zone=zone) for where in ("in", "out"))
        begins, ends = (datetime.fromisoformat(f"{moment}+00:00") for moment in (first, end))
        for user, moments in ((inside, (begins, ends - SECOND)), (outside, (begins - SECOND, ends))):
            for moment in moments:
                world.attempt(user, quiz, taken_at=moment)
        expected = runs.setdefault((ends + DAY / 2).replace(hour=12, minute=0), {})
        expected |= {f"in{number}": 2, f"out{number}": 0}
    for now, expected in sorted(runs.items()):
        assert report(world, now) == {"queued": 2 * len(MONTHS)}
        mails = {str(mail["To"]).partition("@")[0]: text_of(mail) for mail in world.mails()}
        assert {name: mails[name].count("* ") - bool("* " in mails[name]) for name in expected} == expected


def test_a_month_that_is_not_over_yet_is_reported_a_day_later(world: World) -> None:
    quiz = world.quiz()
    east, west = (
        member(world, "east", time_zone="Pacific/Auckland"),
        member(world, "west", time_zone="Pacific/Honolulu"),
    )
    world.attempt(west, quiz, 4, taken_at=datetime(2026, 12, 1, 9, 30, tzinfo=UTC))
    world.attempt(east, quiz, 3, taken_at=datetime(2026, 11, 30, 9, 30, tzinfo=UTC))
    assert report(world, datetime(2026, 12, 1, 9, tzinfo=UTC)) == {"queued": 1, "nothing_to_say": 1}
    (first,) = world.mails()
    assert first["To"] == "east@example.com"
    assert report(world, datetime(2026, 12, 2, 9, tzinfo=UTC)) == {"queued": 1, "already": 1}
    (second,) = world.mails()
    assert second["To"] == "west@example.com"
    assert "one quiz" in second["Subject"]
    assert "Place: 1 of 2" in text_of(second)
    assert report(world, datetime(2026, 12, 3, 9, tzinfo=UTC)) == {"already": 2}


def test_figures_that_change_after_the_report_make_no_second_one(world: World) -> None:
    quiz, ada = world.quiz(), member(world, "ada")
    world.attempt(ada, quiz, taken_at=NOON)
    report(world)
    world.attempt(ada, quiz, 0, taken_at=NOON)
    assert report(world) == {"already": 1}
    assert len(world.mails()) == 1


def test_a_time_zone_that_this_machine_does_not_know_counts_as_utc(world: World) -> None:
    quiz, ada = world.quiz(), member(world, "ada")
    member(world, "bob")
    world.attempt(ada, quiz, taken_at=NOON)
    with world.session() as session:
        session.execute(sa.update(User).where(User.id == ada.id).values(time_zone="Mars/Olympus"))
    assert report(world) == {"queued": 2}
    assert "one quiz" in world.mails()[0]["Subject"]


# Many users

Send = Callable[..., mailings.Tally]
BOTH = pytest.mark.parametrize(
    ("send", "now"), [(reminders.send, NOON), (reports.send, SOON_AFTER)], ids=["reminders", "reports"]
)


def crowd(world: World, count: int) -> None:
    """People with a quiz open and one taken, each with figures of their own."""
    with world.session() as session:
        organisation = world.organisation()
        people = [
            User(
                username=f"p{n:03}-{count}",
                name=f"P{n}",
                email=f"p{n:03}-{count}@example.com",
                organisation_id=organisation.id,
                password_hash="-",
                created_at=LONG_AGO,
            )
            for n in range(count)
        ]
        session.add_all(people)
    taken, _ = world.quiz(), world.quiz()
    for n, one in enumerate(people):
        world.attempt(one, taken, n % 101, questions=100, taken_at=datetime(2026, 11, 9, tzinfo=UTC))


@BOTH
def test_a_batch_costs_the_same_statements_however_many_are_in_it(world: World, send: Send, now: datetime) -> None:
    counts = []
    for people in (3, 30):
        crowd(world, people)
        with statements(world) as seen:
            assert send(world.app.extensions["sessions"], world.settings, now).queued == people
        counts.append(len(seen))
    assert counts[0] == counts[1] < 25


def with_settings(world: World, **settings: Any) -> World:
    """The same database and relay."""
    world.settings = world.settings.model_copy(update=settings)
    world.app.extensions["settings"] = world.settings
    return world
