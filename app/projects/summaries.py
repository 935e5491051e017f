"""The weekly summary: how somebody's tasks stand, what they completed last week, what is due in this one.

A week is seven days from a Monday's midnight by the user's clocks. Which Monday, the schedule says (that of the run, in
`CELERY_TIMEZONE`): somebody west of it may get the mail on their Sunday, and it is about the same week as everybody's.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from app import mailings
from app.accounts.models import User
from app.categories import SUMMARIES
from app.mailings import Mailing, Tally
from app.projects.days import monday_of, week_from
from app.projects.mails import OPEN, Tasks, addressed_to, assignees_of, line, overdue_line, tasks_of
from app.projects.models import Task, TaskStatus
from app.settings import AppSettings
from outbox.database import UtcDateTime
from outbox.subscriptions import wanted_by

MAILING = Mailing("weekly_summary", SUMMARIES)


def send(sessions: sessionmaker[Session], settings: AppSettings, now: datetime) -> Tally:
    """Mail everybody who wants it, once a week; not to those who have nothing open and completed nothing last week."""
    monday = monday_of(now, settings.celery_timezone)

    def compose(session: Session, users: Sequence[User]) -> Mapping[int, Mapping[str, Any]]:
        weeks = _weeks(users, monday)
        counts = _counts(session, users, weeks, now)
        overdue = tasks_of(session, users, sa.and_(OPEN, Task.due_at < now))
        # What was due this morning is overdue, and is listed there.
        due = tasks_of(
            session, users, sa.and_(OPEN, Task.due_at >= weeks.this, Task.due_at < weeks.next, Task.due_at >= now)
        )
        said = {"week_from": monday, "last_week_from": monday - timedelta(days=7)}
        return {
            user.id: {
                "context": addressed_to(user, settings)
                | said
                | {"counts": counts[user.id], "preferences_url": f"{settings.app_url}/preferences"}
                | _lists(due.get(user.id, Tasks()), overdue.get(user.id, Tasks()), user, now, settings)
            }
            for user in users
            if user.id in counts
        }

    users = assignees_of(Task.archived_at.is_(None)).where(wanted_by(User.email, SUMMARIES))
    return mailings.send(sessions, settings, MAILING, period=monday.isoformat(), users=users, compose=compose)


class _Weeks(NamedTuple):
    """When last week, this one and the next begin, as SQL, which looks at the zone of the `users` row."""

    last: sa.ColumnElement[datetime]
    this: sa.ColumnElement[datetime]
    next: sa.ColumnElement[datetime]


def _weeks(users: Collection[User], monday: date) -> _Weeks:
    """A branch for each zone in which one of these users is: one statement serves them all."""
    zones = sorted({user.time_zone for user in users})

    def midnights(day: date) -> sa.ColumnElement[datetime]:
        moments = {zone: sa.literal(week_from(day, zone).start, UtcDateTime()) for zone in zones}
        return sa.case(moments, value=User.time_zone)

    return _Weeks(*(midnights(monday + timedelta(days=days)) for days in (-7, 0, 7)))


def _counts(session: Session, users: Collection[User], weeks: _Weeks, now: datetime) -> dict[int, dict[str, int]]:
    """By user, of those who have anything open or completed last week, which stays counted when it is archived."""
    completed = sa.and_(Task.completed_at >= weeks.last, Task.completed_at < weeks.this)
    query = (
        sa.select(
            Task.assignee_id,
            sa.func.count().filter(Task.status == TaskStatus.PENDING).label("pending"),
            sa.func.count().filter(Task.status == TaskStatus.IN_PROGRESS).label("in_progress"),
            sa.func.count().filter(completed).label("completed"),
            sa.func.count().filter(OPEN, Task.due_at < now).label("overdue"),
        )
        .join(Task.assignee)
        .where(Task.assignee_id.in_([user.id for user in users]), sa.or_(OPEN, completed))
        .group_by(Task.assignee_id)
    )
    names = ("pending", "in_progress", "completed", "overdue")
    return {row.assignee_id: {name: getattr(row, name) for name in names} for row in session.execute(query)}


def _lists(due: Tasks, overdue: Tasks, user: User, now: datetime, settings: AppSettings) -> dict[str, Any]:
    return {
        "due": [line(task, settings) for task in due.shown],
        "due_total": due.total,
        "due_more": due.more,
        "overdue": [overdue_line(task, user, now, settings) for task in overdue.shown],
        "overdue_more": overdue.more,
    }
