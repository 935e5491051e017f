"""The daily reminder: to who has not logged in for a while, while there are quizzes they did not take."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from app import mailings
from app.accounts.models import User
from app.accounts.zones import midnight
from app.categories import REMINDERS
from app.mailings import Mailing, Tally
from app.quizzes.mails import addressed_to, quiz_url
from app.quizzes.models import Attempt, Question, Quiz, Subject
from app.settings import AppSettings
from outbox.subscriptions import wanted_by

MAILING = Mailing("daily_reminder", REMINDERS)

LISTED = 5
"""Open quizzes that a mail names. It counts the others."""


def send(sessions: sessionmaker[Session], settings: AppSettings, now: datetime) -> Tally:
    """Remind them, once on each day of `CELERY_TIMEZONE`, however often this runs.

    The mail's key keeps the promise; `last_reminder_sent` says it to people, and spares a second run the work.
    """
    zone = ZoneInfo(settings.celery_timezone)
    today = now.astimezone(zone).date()
    with sessions.begin() as session:
        quizzes = _quizzes(session, settings)

    def compose(session: Session, users: Sequence[User]) -> Mapping[int, Mapping[str, Any]]:
        taken = _taken(session, users)
        contexts = {user.id: _context(quizzes, taken[user.id]) | addressed_to(user, settings) for user in users}
        return {
            user.id: {"context": contexts[user.id] | {"last_login_at": user.last_login_at}}
            for user in users
            if contexts[user.id]["open"]
        }

    def record(session: Session, ids: Collection[int]) -> None:
        session.execute(
            sa.update(User).where(User.id.in_(ids)).values(last_reminder_sent=now),
            execution_options={"synchronize_session": False},
        )

    users = _inactive(now - timedelta(days=settings.reminder_inactive_days), midnight(today, zone))
    period = today.isoformat()
    return mailings.send(sessions, settings, MAILING, period=period, users=users, compose=compose, record=record)


def _inactive(since: datetime, today: datetime) -> sa.Select[User]:
    """Who was last here before `since`, or never, was not reminded since `today` began, and wants to be."""
    return sa.select(User).where(
        sa.or_(User.last_login_at.is_(None), User.last_login_at < since),
        sa.or_(User.last_reminder_sent.is_(None), User.last_reminder_sent < today),
        wanted_by(User.email, REMINDERS),
    )


def _quizzes(session: Session, settings: AppSettings) -> dict[int, dict[str, Any]]:
    """By id, as the mail shows them, the newest first. One without questions cannot be taken, and is not among them."""
    rows = session.execute(
        sa.select(Quiz.id, Quiz.title, Subject.name, sa.func.count().label("questions"))
        .join(Quiz.subject)
        .join(Question, Question.quiz_id == Quiz.id)
        .group_by(Quiz.id, Subject.id)
        .order_by(Quiz.created_at.desc(), Quiz.id.desc())
    )
    return {
        row.id: {
            "title": row.title,
            "subject": row.name,
            "questions": row.questions,
            "url": quiz_url(row.id, settings),
        }
        for row in rows
    }


@dataclass
class _Taken:
    """What one user took so far."""

    quizzes: set[int] = field(default_factory=set)
    attempts: int = 0
    results: float = 0.0
    """The sum of the shares of right answers."""


def _taken(session: Session, users: Sequence[User]) -> Mapping[int, _Taken]:
    """By user: one query for the batch, with a row for each quiz that one of them took."""
    rows = session.execute(
        sa.select(
            Attempt.user_id,
            Attempt.quiz_id,
            sa.func.count().label("attempts"),
            sa.func.sum(sa.cast(Attempt.correct, sa.Float) / Attempt.questions).label("results"),
        )
        .where(Attempt.user_id.in_([user.id for user in users]))
        .group_by(Attempt.user_id, Attempt.quiz_id)
    )
    taken: dict[int, _Taken] = defaultdict(_Taken)
    for row in rows:
        one = taken[row.user_id]
        one.quizzes.add(row.quiz_id)
        one.attempts += row.attempts
        one.results += row.results
    return taken


def _context(quizzes: Mapping[int, Mapping[str, Any]], taken: _Taken) -> dict[str, Any]:
    attempted = len(taken.quizzes & quizzes.keys())
    still_open = (quiz for id_, quiz in quizzes.items() if id_ not in taken.quizzes)
    return {
        "attempted": attempted,
        "available": len(quizzes),
        "open": len(quizzes) - attempted,
        "average": taken.results / taken.attempts if taken.attempts else None,
        "quizzes": list(islice(still_open, LISTED)),
    }
