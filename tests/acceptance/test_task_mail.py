"""What the schedule mails about tasks: to the right people, the right things, once, whoever else runs."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
import time_machine

from app.accounts.models import User
from app.categories import SUMMARIES
from app.projects import alerts, cleanup, reminders, reports, summaries
from app.projects.mails import SHOWN
from app.projects.models import Project, Task, TaskStatus
from app.queues import (
    CLEANUP_COMPLETED_TASKS,
    GENERATE_TASK_REPORT,
    SEND_OVERDUE_ALERTS,
    SEND_TASK_REMINDERS,
    SEND_WEEKLY_SUMMARY,
)
from outbox import subscriptions
from tests.application import World, html_of, text_of
from tests.smtp_server import SmtpServer

NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)
"""A Monday."""

HOUR, DAY = timedelta(hours=1), timedelta(days=1)

MAILINGS = (reports, reminders, alerts, summaries)


def at(world: World, moment: datetime, name: str) -> Any:
    """The result of the task then."""
    with time_machine.travel(moment, tick=False):
        return world.run(name)


def queued(result: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in result.items() if count}


def done(**ago: float) -> dict[str, Any]:
    return {"status": TaskStatus.DONE, "completed_at": NOW - timedelta(**ago)}


@pytest.fixture
def project(world: World) -> Project:
    """Its owner has no address."""
    return world.project(world.user("owner", email=None), "Mark II")


def test_the_report_counts_for_every_admin_and_returns_it(world: World, project: Project) -> None:
    world.admin("grace", time_zone="Asia/Kolkata")
    world.admin("mute", email=None)
    ada = world.user("ada")
    for status in (TaskStatus.PENDING, TaskStatus.PENDING, TaskStatus.IN_PROGRESS):
        world.task(project, ada, status=status, due_at=NOW - HOUR)
    world.task(project, due_at=NOW)
    world.task(project, **done(days=1), due_at=NOW - DAY)
    world.task(project, **done(days=40), archived_at=NOW)
    counts = {"pending": 3, "in_progress": 1, "done": 1, "overdue": 3}

    assert queued(at(world, NOW, GENERATE_TASK_REPORT)) == counts | {"queued": 1}
    assert queued(at(world, NOW + HOUR, GENERATE_TASK_REPORT)) == counts | {"overdue": 4, "already": 1}
    (mail,) = world.mails()
    assert mail["To"] == "grace@example.com"
    assert mail["Subject"] == "Tasks: 3 overdue, 3 pending, 1 in progress"
    assert "Done: 1" in text_of(mail).splitlines()
    assert "1:30\u202fPM" in text_of(mail)


def test_a_reminder_has_all_that_is_due_within_a_day_and_none_of_it_twice(world: World, project: Project) -> None:
    ada, bob = world.user("ada", time_zone="America/New_York"), world.user("bob")
    for title, due in {"now": NOW, "later": NOW + DAY - timedelta(microseconds=1)}.items():
        world.task(project, ada, title=title, due_at=due)
    for another in (NOW - HOUR, NOW + DAY, None):
        world.task(project, ada, title="another time", due_at=another)
    world.task(project, ada, title="finished", due_at=NOW + HOUR, **done(hours=1))
    world.task(project, title="nobody's", due_at=NOW + HOUR)
    world.task(project, world.user("mute", email=None), due_at=NOW + HOUR)

    assert queued(at(world, NOW, SEND_TASK_REMINDERS)) == {"queued": 1}
    assert queued(at(world, NOW, SEND_TASK_REMINDERS)) == {}
    (mail,) = world.mails()
    assert mail["Subject"] == "2 tasks are due soon"
    text = text_of(mail)
    assert text.index("* now") < text.index("* later")
    assert "another time" not in text
    assert "finished" not in text
    assert "Due Mon 23 Nov, 3:00" in text

    # A run at the very same moment tells of what has come since, and of that alone; and of what was moved.
    world.task(project, ada, title="new", due_at=NOW + HOUR)
    world.task(project, bob, title="bob's", due_at=NOW + HOUR)
    with world.session() as session:
        session.execute(sa.update(Task).where(Task.title == "now").values(due_at=NOW + 2 * HOUR))
    assert queued(at(world, NOW, SEND_TASK_REMINDERS)) == {"queued": 2}
    to_ada, to_bob = world.mails()
    lines = text_of(to_ada).splitlines()
    assert [f"* {title}" in lines for title in ("new", "now", "later", "bob's")] == [True, True, False, False]
    assert to_bob["Subject"] == "Due soon: bob's"


@pytest.mark.parametrize(
    ("first", "hour"),
    [
        (datetime(2026, 10, 24, tzinfo=UTC), 2),
        (datetime(2026, 10, 24, tzinfo=UTC), 8),
        (datetime(2026, 3, 28, tzinfo=UTC), 8),
    ],
)
def test_clock_changes_neither_skip_nor_repeat_a_reminder(
    sqlite_url: str, redis_url: str, smtp: SmtpServer, first: datetime, hour: int
) -> None:
    """Every quarter of an hour of three days has its task, and beat runs each day at one hour of Berlin's."""
    berlin = World(smtp, database_url=sqlite_url, redis_url=redis_url, celery_timezone="Europe/Berlin")
    project = berlin.project(berlin.user("ada"))
    due = [first + timedelta(minutes=15 * n) for n in range(3 * 24 * 4)]
    berlin.add(*(Task(project_id=project.id, assignee_id=project.owner_id, title="?", due_at=moment) for moment in due))
    zone = berlin.app.extensions["celery"].timezone
    days = [(first - DAY + timedelta(days=n)).date() for n in range(5)]
    runs = [datetime(day.year, day.month, day.day, hour, 0, 3, tzinfo=zone).astimezone(UTC) for day in days]

    said = [queued(at(berlin, run, SEND_TASK_REMINDERS)) for run in runs]

    assert all(tally in ({"queued": 1}, {}) for tally in said)
    reminded = sum(_listed(html_of(mail)) for mail in berlin.mails())
    assert reminded == len(due)
    berlin.close()


def _listed(html: str) -> int:
    """Tasks in the mail, and those that it only counts."""
    heading = html.split("</h1>", maxsplit=1)[0].rsplit(">", 1)[1]
    return 1 if heading.startswith("A task") else int(heading.split()[0])


def test_an_alert_counts_the_days_by_the_assignees_calendar(world: World, project: Project) -> None:
    # It is 13:30 in Kolkata and 03:00 in New York.
    ada, bob = world.user("ada", time_zone="Asia/Kolkata"), world.user("bob", time_zone="America/New_York")
    due = {"early": NOW - timedelta(hours=6), "old": NOW - 12 * DAY, "other": NOW - timedelta(seconds=1)}
    for user in (ada, bob):
        for title, moment in due.items():
            world.task(project, user, title=title, due_at=moment)
        world.task(project, user, title="now", due_at=NOW)
        world.task(project, user, title="finished", due_at=NOW - HOUR, **done(minutes=5))

    assert queued(at(world, NOW, SEND_OVERDUE_ALERTS)) == {"queued": 2}
    world.task(project, ada, title="new", due_at=NOW)
    assert queued(at(world, NOW + HOUR, SEND_OVERDUE_ALERTS)) == {"already": 2}
    to_ada, to_bob = world.mails()
    assert to_ada["Subject"] == "3 tasks are overdue"
    assert _days(text_of(to_ada)) == ["12 days overdue", "Overdue since today", "Overdue since today"]
    assert _days(text_of(to_bob)) == ["12 days overdue", "1 day overdue", "Overdue since today"]
    assert "now" not in text_of(to_ada).split()
    assert html_of(to_ada).count('class="late" style="') == 3
    assert "#b3261e" in html_of(to_ada).split('class="late" style="')[1].split('"')[0]
    assert queued(at(world, NOW + DAY, SEND_OVERDUE_ALERTS)) == {"queued": 2}


def _days(text: str) -> list[str]:
    return [line.strip().split(":")[0].split(",")[0] for line in text.splitlines() if "verdue" in line]


def test_a_long_list_is_cut_and_says_so(world: World, project: Project) -> None:
    ada = world.user("ada")
    world.add(
        *(
            Task(project_id=project.id, assignee_id=ada.id, title=f"T{n:02}", due_at=NOW + timedelta(minutes=minutes))
            for minutes in (-60, 60)
            for n in range(SHOWN + 7)
        )
    )
    for name in (SEND_TASK_REMINDERS, SEND_OVERDUE_ALERTS, SEND_WEEKLY_SUMMARY):
        assert queued(at(world, NOW, name)) == {"queued": 1}
        (mail,) = world.mails()
        assert "And 7 more" in text_of(mail)
        assert f"T{SHOWN - 1}" in text_of(mail)
        assert f"T{SHOWN}" not in text_of(mail)
        assert "57" in mail["Subject"]
        assert len(mail.as_bytes()) < 102_000


def test_the_summary_is_of_the_users_week(world: World, project: Project) -> None:
    # The week of both begins on the 23rd: at 05:00 UTC in New York, on the 22nd at 18:30 UTC in Kolkata.
    bob, ada = world.user("bob", time_zone="America/New_York"), world.user("ada", time_zone="Asia/Kolkata")
    world.user("idle")
    world.task(project, world.user("past"), **done(days=20))
    unsubscribed = world.user("unsubscribed")
    with world.session() as session:
        link = subscriptions.Subscription("unsubscribed@example.com", SUMMARIES)
        subscriptions.unsubscribe(session.connection(), link, "a test")
    between = datetime(2026, 11, 22, 20, tzinfo=UTC)
    for user in (ada, bob, unsubscribed):
        world.task(project, user, title="done", status=TaskStatus.DONE, completed_at=between)
        world.task(project, user, title="a week ago", status=TaskStatus.DONE, completed_at=between - 7 * DAY)
        world.task(project, user, title="late", status=TaskStatus.IN_PROGRESS, due_at=NOW - 3 * DAY)
        world.task(project, user, title="this morning", due_at=NOW - timedelta(minutes=1))
        world.task(project, user, title="on sunday", due_at=between + 7 * DAY)
        world.task(project, user, title="in december", due_at=NOW + 14 * DAY)

    assert queued(at(world, NOW, SEND_WEEKLY_SUMMARY)) == {"queued": 2, "nothing_to_say": 1}
    assert queued(at(world, NOW + 6 * DAY, SEND_WEEKLY_SUMMARY)) == {"already": 2, "nothing_to_say": 1}
    to_ada, to_bob = world.mails()
    assert "3 pending, 1 in progress, 2 overdue. You completed 1 in the week from 16 November." in text_of(to_ada)
    assert "You completed 1 in" in text_of(to_bob)
    assert "on sunday" not in text_of(to_ada)  # 01:30 on Monday in Kolkata
    assert "Sun 29 Nov: on sunday" in text_of(to_bob)
    assert text_of(to_bob).count("this morning") == 1
    assert "* 3 days: late (Mark II)" in text_of(to_bob)
    assert "in december" not in text_of(to_bob)
    assert to_bob["Subject"] == "Your week: 2 overdue, 1 due"
    assert "List-Unsubscribe" in to_bob
    assert queued(at(world, NOW + 7 * DAY, SEND_WEEKLY_SUMMARY))["queued"] == 2


def test_a_time_zone_that_this_machine_does_not_know_keeps_no_mail_back(world: World, project: Project) -> None:
    users = [world.admin(name) for name in ("ada", "bob")]
    for user in users:
        for due in (NOW - 2 * DAY, NOW + HOUR):
            world.task(project, user, title="?", due_at=due)
    with world.session() as session:
        session.execute(sa.update(User).where(User.id == users[0].id).values(time_zone="Mars/Olympus"))
    for name in (GENERATE_TASK_REPORT, SEND_TASK_REMINDERS, SEND_OVERDUE_ALERTS, SEND_WEEKLY_SUMMARY):
        assert at(world, NOW, name)["queued"] == 2
        to_ada, to_bob = (re.sub("Ada|Bob|/tasks/[0-9]+|/unsubscribe/.*", "", text_of(mail)) for mail in world.mails())
        assert to_ada == to_bob


def test_what_was_done_a_month_ago_is_archived_in_batches(
    world: World, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "BATCH", 2)
    for _ in range(5):
        world.task(project, title="old", **done(days=30, seconds=1))
    world.task(project, title="young", **done(days=30))
    world.task(project, title="open", due_at=NOW - 90 * DAY)
    assert at(world, NOW, CLEANUP_COMPLETED_TASKS) == {"archived": 5}
    assert at(world, NOW, CLEANUP_COMPLETED_TASKS) == {"archived": 0}
    with world.session() as session:
        archived = session.scalars(sa.select(Task.title).where(Task.archived_at == NOW))
        assert set(archived) == {"old"}


def _everybody_has_everything(world: World, project: Project, users: int) -> None:
    """An admin each, for whom every mailing has something to say."""
    theirs = world.organisation()
    made = [world.admin(f"admin{next(world._numbers)}", organisation=theirs) for _ in range(users)]
    due = (NOW - HOUR, NOW + HOUR)
    world.add(*(Task(project_id=project.id, assignee_id=user.id, title="?", due_at=at) for user in made for at in due))


def test_a_batch_costs_the_same_statements_whatever_is_in_it(world: World, project: Project) -> None:
    def statements() -> list[int]:
        counts = []
        for mailing in MAILINGS:
            seen: list[str] = []
            sa.event.listen(world.engine, "before_cursor_execute", note := lambda *a, seen=seen: seen.append(a[2]))
            mailing.send(world.app.extensions["sessions"], world.settings, NOW)
            sa.event.remove(world.engine, "before_cursor_execute", note)
            counts.append(len(seen))
        return counts

    _everybody_has_everything(world, project, users=2)
    few = statements()
    _everybody_has_everything(world, project, users=12)
    with world.session() as session:
        session.execute(sa.update(Task).values(reminded_of=None))
    assert statements() == few
    assert max(few) < 20
