"""Projects, their tasks, and how those came to where they are."""

import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime, time, timedelta
from importlib.resources import files
from random import Random
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from app.accounts.models import User
from app.notifications.models import Notification
from app.projects.models import ChangedField, Project, Task, TaskChange, TaskPriority, TaskStatus

_DONE, _STARTED = 9, 14
"""Of a project's tasks in their order: so many are done, so many at least begun."""
_FIRST_DUE = timedelta(days=-64)
_STEP = timedelta(days=5)
"""From one task's day to the next one's, give or take one: four of those begun are late, and one is due now."""
_PRIORITIES = (TaskPriority.HIGH, TaskPriority.NORMAL, TaskPriority.NORMAL, TaskPriority.LOW)
_REASONS = (
    "",
    "",
    "Waited for the copy from the office",
    "Done together with the one before",
    "Took longer than we thought",
)
_WITHOUT_DATE, _FREE = 16, 18
"""The places of the task that has no day, and of the one that nobody has taken yet."""


def add_projects(session: Session, users: Mapping[str, User], now: datetime, random: Random) -> tuple[int, int]:
    """Those of `projects.toml`; returns how many, and how many tasks."""
    told = tomllib.loads((files(__package__) / "projects.toml").read_text("utf-8"))["projects"]
    tasks = [task for project in told for task in _tasks(session, project, users, now, random)]
    session.flush()
    _tell_the_newest(session, tasks)
    return len(told), len(tasks)


def _tasks(
    session: Session, told: Mapping[str, object], users: Mapping[str, User], now: datetime, random: Random
) -> list[Task]:
    owner = users[str(told["owner"])]
    project = Project(name=told["name"], owner=owner, organisation=owner.organisation)
    team = [user for user in users.values() if user.organisation is owner.organisation]
    titles = told["tasks"]
    assert isinstance(titles, list)
    made = [_task(project, team, title, place, now=now, random=random) for place, title in enumerate(titles)]
    session.add_all(made)
    return made


def _task(project: Project, team: Sequence[User], title: str, place: int, *, now: datetime, random: Random) -> Task:
    day = now + _FIRST_DUE + place * _STEP + timedelta(days=random.randint(-1, 1))
    due = _end_of_work(day, ZoneInfo(project.owner.time_zone))
    task = Task(
        project=project,
        title=title,
        due_at=None if place == _WITHOUT_DATE else due,
        priority=random.choice(_PRIORITIES),
        status=TaskStatus.PENDING,
        assignee=None if place == _FREE else team[place % len(team)],
        created_at=min(due, now) - timedelta(days=random.uniform(14, 28)),
    )
    if task.assignee is not None:
        _note(task, task.created_at, project.owner, ChangedField.ASSIGNEE, old=None, new=task.assignee.name)
    if place < _STARTED:
        _move(task, task.created_at + timedelta(days=random.uniform(1, 9)), TaskStatus.IN_PROGRESS)
    if place < _DONE:
        done = due + timedelta(days=random.uniform(-4, 2))
        _move(task, done, TaskStatus.DONE, random.choice(_REASONS))
        task.completed_at = done
    return task


def _end_of_work(moment: datetime, zone: ZoneInfo) -> datetime:
    """Five in the afternoon there."""
    return datetime.combine(moment.astimezone(zone).date(), time(17), zone)


def _move(task: Task, when: datetime, status: TaskStatus, reason: str = "") -> None:
    _note(task, when, task.assignee, ChangedField.STATUS, old=task.status, new=status, reason=reason)
    task.status = status


def _note(
    task: Task, when: datetime, by: User | None, field: ChangedField, *, old: str | None, new: str, reason: str = ""
) -> None:
    task.changes.append(TaskChange(changed_at=when, changed_by=by, field=field, old=old, new=new, reason=reason))


def _tell_the_newest(session: Session, tasks: Sequence[Task]) -> None:
    """A line for the bell of everybody who has an open task: the newest of them."""
    newest = {task.assignee: task for task in tasks if task.assignee is not None and task.status != TaskStatus.DONE}
    session.add_all(
        Notification(
            user_id=user.id,
            title="A task is yours",
            body=f"{task.title} ({task.project.name})",
            url=f"/tasks/{task.id}",
            created_at=task.created_at,
        )
        for user, task in newest.items()
    )
