"""The monthly report: how somebody's quizzes went in the month that is over, and where that puts them among all."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from itertools import groupby
from operator import attrgetter
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from app import mailings
from app.accounts.models import User
from app.accounts.zones import Span, zone_of
from app.categories import REPORTS
from app.mailings import Mailing, Tally
from app.quizzes import chart
from app.quizzes.figures import Figures, Standings, Taken
from app.quizzes.mails import addressed_to
from app.quizzes.models import Attempt, Quiz, Subject
from app.quizzes.months import Month
from app.settings import AppSettings
from outbox import Attachment
from outbox.subscriptions import wanted_by

MAILING = Mailing("monthly_report", REPORTS)

CHART = "chart"
"""By which the mail's HTML shows its picture."""

ROWS = 1000
"""Attempts in memory at a time: a user may have any number."""


def send(sessions: sessionmaker[Session], settings: AppSettings, now: datetime) -> Tally:
    """Report on the calendar month before that of `now` in `CELERY_TIMEZONE`, once to each user.

    Each user's month is that of their own zone. West of the schedule's it may not be over yet: they are left out, and
    get theirs from the run of the next day. Their place is the one among those who had taken something by that run.
    """
    month = Month.before(now, ZoneInfo(settings.celery_timezone))
    with sessions.begin() as session:
        zones = set(session.scalars(sa.select(User.time_zone).distinct()))
        standings = Standings(list(_averages(session, in_their_month(month, zones))))
    report = _Report(month, standings, settings, now)
    users = sa.select(User).where(wanted_by(User.email, REPORTS), User.created_at < _last_end(month, zones))
    return mailings.send(sessions, settings, MAILING, period=str(month), users=users, compose=report.compose)


def in_their_month(month: Month, zones: Iterable[str]) -> sa.ColumnElement[bool]:
    """SQL: that the attempt of a user, who is joined, falls in the month by the user's clock.

    One condition for the few dozen different spans that all time zones make, and the outermost of them for the index.
    """
    names: dict[Span, list[str]] = defaultdict(list)
    for name in sorted(zones):
        names[month.span(zone_of(name))].append(name)
    spans = [
        sa.and_(User.time_zone.in_(found), Attempt.taken_at >= span.start, Attempt.taken_at < span.end)
        for span, found in names.items()
    ]
    if not spans:
        return sa.false()
    first, last = min(span.start for span in names), max(span.end for span in names)
    return sa.and_(Attempt.taken_at >= first, Attempt.taken_at < last, sa.or_(*spans))


def _last_end(month: Month, zones: Iterable[str]) -> datetime:
    """When the month is over in the westernmost zone."""
    return max((month.span(zone_of(name)).end for name in zones), default=month.span(UTC).end)


def _averages(session: Session, in_month: sa.ColumnElement[bool]) -> Iterator[Fraction]:
    """Of each user who took something: once a run. The database sums whole numbers, and so nothing is rounded."""
    rows = session.execute(
        sa.select(
            Attempt.user_id,
            Attempt.questions,
            sa.func.sum(Attempt.correct).label("correct"),
            sa.func.count().label("attempts"),
        )
        .join(Attempt.user)
        .where(in_month)
        .group_by(Attempt.user_id, Attempt.questions)
        .order_by(Attempt.user_id),
        execution_options={"yield_per": ROWS},
    )
    for _, group in groupby(rows, attrgetter("user_id")):
        own = list(group)
        yield sum((Fraction(row.correct, row.questions) for row in own), Fraction(0)) / sum(row.attempts for row in own)


@dataclass(frozen=True)
class _Report:
    """What a run knows before its first batch."""

    month: Month
    standings: Standings
    settings: AppSettings
    now: datetime

    def compose(self, session: Session, users: Sequence[User]) -> Mapping[int, Mapping[str, Any]]:
        """The mails of a batch: one query."""
        due = [user for user in users if self._is_due(user)]
        figures = self._figures(session, due)
        return {user.id: self._mail(user, figures.get(user.id)) for user in due}

    def _is_due(self, user: User) -> bool:
        end = self.month.span(zone_of(user.time_zone)).end
        return end <= self.now and user.created_at < end

    def _figures(self, session: Session, users: Sequence[User]) -> Mapping[int, Figures]:
        """By user, of those who took something."""
        zones = {user.id: zone_of(user.time_zone) for user in users}
        figures: dict[int, Figures] = defaultdict(lambda: Figures(self.month))
        rows = session.execute(
            sa.select(Attempt.user_id, Attempt.taken_at, Attempt.correct, Attempt.questions, Quiz.title, Subject.name)
            .join(Attempt.user)
            .join(Attempt.quiz)
            .join(Quiz.subject)
            .where(Attempt.user_id.in_(zones), in_their_month(self.month, {user.time_zone for user in users}))
            .order_by(Attempt.taken_at, Attempt.id),
            execution_options={"yield_per": ROWS},
        )
        for row in rows:
            figures[row.user_id].add(Taken(*row), row.taken_at.astimezone(zones[row.user_id]).date())
        return figures

    def _mail(self, user: User, figures: Figures | None) -> dict[str, Any]:
        context = addressed_to(user, self.settings) | {"month": self.month.first}
        if figures is None:
            return {"context": context | {"taken": 0}}
        percents = figures.percents
        bars = [(week.days, percent) for week, percent in zip(self.month.weeks, percents, strict=True)]
        place = {"rank": self.standings.rank(figures.all.exactly), "people": self.standings.people}
        picture = {"chart_src": f"cid:{CHART}", "chart_alt": self._in_words(percents)}
        file = Attachment("chart.png", chart.draw(bars), inline_id=CHART)
        return {"context": context | figures.context | place | picture, "attachments": [file]}

    def _in_words(self, percents: Sequence[int | None]) -> str:
        """What the chart shows, for who does not see it."""
        weeks = zip(self.month.weeks, percents, strict=True)
        return ", ".join(
            f"{week.days.replace('-', ' to ')} {self.month.first:%B}: {'nothing' if percent is None else f'{percent}%'}"
            for week, percent in weeks
        )
