"""Every task of the schedule that mails or moves something: killed half way, two at once, and again: each thing once.

What each of them says, and to whom, is told in `test_quiz_mail.py` and `test_task_mail.py`.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from subprocess import run
from threading import Barrier, Thread
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
import time_machine

from app import mailings
from app.projects import cleanup
from app.projects.models import Task, TaskStatus
from app.queues import (
    CLEANUP_COMPLETED_TASKS,
    CLEANUP_FILES,
    GENERATE_TASK_REPORT,
    GENERATE_THUMBNAILS,
    HEALTH_CHECK,
    SEND_DAILY_REMINDERS,
    SEND_MONTHLY_REPORTS,
    SEND_OVERDUE_ALERTS,
    SEND_TASK_REMINDERS,
    SEND_WEEKLY_SUMMARY,
    UPDATE_TASK_STATUS,
)
from outbox.models import EmailContent
from tests import killed
from tests.application import World
from workers.schedule import beat_schedule

NOW = datetime(2026, 11, 23, 18, tzinfo=UTC)
"""A Monday."""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PEOPLE = 5
"""Three batches."""

TEMPLATES = {
    SEND_DAILY_REMINDERS: "daily_reminder",
    SEND_MONTHLY_REPORTS: "monthly_report",
    GENERATE_TASK_REPORT: "task_report",
    SEND_TASK_REMINDERS: "task_reminder",
    SEND_OVERDUE_ALERTS: "task_overdue",
    SEND_WEEKLY_SUMMARY: "weekly_summary",
}


class Job(NamedTuple):
    """A task with its arguments, and what it did: who has its mail, or which tasks it moved."""

    name: str
    arguments: dict[str, Any]
    done: Callable[[], Counter[str]]
    told: str = "queued"
    """The entry of its result that counts them."""
    whole: int = PEOPLE
    killed_after: int = 2
    """Writes: the first batch is committed then, the second not."""


def _jobs(world: World) -> list[Job]:
    """An admin each, for whom every mailing has something to say; and old tasks of theirs."""
    organisation = world.organisation()
    people = [world.admin(f"p{n}", organisation=organisation, created_at=NOW - 99 * DAY) for n in range(PEOPLE)]
    project = world.project(world.user("owner", organisation=organisation, last_login_at=NOW, created_at=NOW))
    taken, _ = world.quiz(), world.quiz()
    for one in people:
        world.attempt(one, taken, taken_at=NOW - 30 * DAY)
        for due in (NOW - HOUR, NOW + HOUR):
            world.task(project, one, due_at=due)
        world.task(project, one, status=TaskStatus.DONE, completed_at=NOW - 31 * DAY)
    moved = world.task(project, people[0])

    def mailed(template: str) -> Callable[[], Counter[str]]:
        return lambda: _counted(world, sa.select(EmailContent.to_header).where(EmailContent.template == template))

    def archived() -> Counter[str]:
        return _counted(world, sa.select(Task.title).where(Task.archived_at.is_not(None)))

    change = {"task_id": moved.id, "new_status": "done", "reason": "because"}
    return [
        *(Job(name, {}, mailed(template)) for name, template in TEMPLATES.items()),
        Job(CLEANUP_COMPLETED_TASKS, {}, archived, "archived"),
        Job(UPDATE_TASK_STATUS, change, mailed("task_changed"), "changed", whole=2, killed_after=1),
    ]


def _counted(world: World, query: sa.Select[Any]) -> Counter[str]:
    with world.session() as session:
        return Counter(session.scalars(query))


def _environment(world: World) -> Mapping[str, str]:
    names = ("database_url", "redis_url", "smtp_from_email", "app_url")
    keys = ",".join(key.get_secret_value() for key in world.settings.outbox_signing_keys)
    return {name.upper(): getattr(world.settings, name) for name in names} | {"OUTBOX_SIGNING_KEYS": keys}


def test_killed_then_two_at_once_then_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailings, "BATCH", killed.BATCH)
    monkeypatch.setattr(cleanup, "BATCH", killed.BATCH)
    for name, value in _environment(world).items():
        monkeypatch.setenv(name, value)
    jobs = _jobs(world)

    plan = json.dumps([(job.name, job.arguments, NOW.isoformat(), job.killed_after) for job in jobs])
    run([sys.executable, "-m", "tests.killed", plan], check=True, timeout=60)
    for job in jobs:
        assert job.done().total() == (killed.BATCH if job.killed_after > 1 else 0), job.name

    with time_machine.travel(NOW + timedelta(seconds=1), tick=False):
        for job in jobs:
            left = job.whole - job.done().total()
            results = _two_at_once(world, job)
            assert set(job.done().values()) == {1}, job.name
            assert job.done().total() == job.whole, job.name
            assert sum(result[job.told] for result in results) == (left if job.told != "changed" else 1), job.name
            assert not world.run(job.name, **job.arguments)[job.told], job.name
            assert job.done().total() == job.whole, job.name
    assert len(world.mails()) == PEOPLE * len(TEMPLATES) + 2


def _two_at_once(world: World, job: Job) -> list[dict[str, int]]:
    results: list[dict[str, int]] = []
    start = Barrier(2)

    def one() -> None:
        start.wait()
        results.append(world.run(job.name, **job.arguments))

    threads = [Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(threads), job.name  # what a thread raises, pytest shows
    return results


def test_every_task_that_the_schedule_has_for_the_application_is_tried(world: World) -> None:
    elsewhere = {CLEANUP_FILES, GENERATE_THUMBNAILS, HEALTH_CHECK}
    scheduled = {name for name in beat_schedule(world.settings) if name.startswith("workers.")}
    assert scheduled - elsewhere == {job.name for job in _jobs(world)} - {UPDATE_TASK_STATUS}
