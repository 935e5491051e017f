"""What a monthly report says in numbers: of one user, and of all together. Exact, so that equal averages are equal."""

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from fractions import Fraction
from typing import Any, NamedTuple

from app.quizzes.months import Month

LISTED = 5
"""Attempts that a report names, the newest first."""


class Taken(NamedTuple):
    """An attempt, as the database tells it."""

    user_id: int
    taken_at: datetime
    correct: int
    questions: int
    title: str
    subject: str


@dataclass
class Mean:
    """Of results, each a share of right answers."""

    total: Fraction = Fraction(0)
    count: int = 0

    def add(self, result: Fraction) -> None:
        """Take one more into it."""
        self.total += result
        self.count += 1

    @property
    def exactly(self) -> Fraction:
        """0 to 1."""
        return self.total / self.count


@dataclass
class Figures:
    """A user's month. Attempts come in the order of time; however many there are, little is kept of them."""

    month: Month
    all: Mean = field(default_factory=Mean)
    best: Fraction = Fraction(0)
    subjects: dict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))
    weeks: dict[int, Mean] = field(default_factory=lambda: defaultdict(Mean))
    last: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=LISTED))

    def add(self, taken: Taken, day: date) -> None:
        """An attempt, and the day of it by the user's calendar."""
        result = Fraction(taken.correct, taken.questions)
        self.all.add(result)
        self.best = max(self.best, result)
        self.subjects[taken.subject].add(result)
        self.weeks[self.month.week(day)].add(result)
        self.last.appendleft({"title": taken.title, "taken_at": taken.taken_at, "result": float(result)})

    @property
    def context(self) -> dict[str, Any]:
        """For the template."""
        subjects = sorted(self.subjects.items(), key=lambda item: (-item[1].count, item[0]))
        return {
            "taken": self.all.count,
            "average": float(self.all.exactly),
            "best": float(self.best),
            "subjects": [
                {"name": name, "taken": mean.count, "average": float(mean.exactly)} for name, mean in subjects
            ],
            "attempts": list(self.last),
        }

    @property
    def percents(self) -> list[int | None]:
        """The average of each week; None where nothing was taken."""
        means = [self.weeks.get(number) for number in range(len(self.month.weeks))]
        return [None if mean is None else round(mean.exactly * 100) for mean in means]


class Standings:
    """The averages of all who took something."""

    def __init__(self, averages: Sequence[Fraction]) -> None:
        self._ascending = sorted(averages)

    @property
    def people(self) -> int:
        """How many they are."""
        return len(self._ascending)

    def rank(self, average: Fraction) -> int:
        """1 for the best. Who has the same average shares a place, and the places after it are left out: 1, 2, 2, 4."""
        return self.people - bisect_right(self._ascending, average) + 1
