"""Quizzes, and two months of attempts."""

import tomllib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from importlib.resources import files
from random import Random

from sqlalchemy.orm import Session

from app.accounts.models import User
from app.quizzes.models import Attempt, Question, Quiz, Subject

_AGE = timedelta(days=90)
"""Of the quizzes."""
_BACK = timedelta(days=62)
"""How far the attempts go: the month before this one is whole, whatever today is."""


def add_quizzes(session: Session, now: datetime, random: Random) -> list[Quiz]:
    """Those of `quizzes.toml`, their choices shuffled."""
    subjects: dict[str, Subject] = {}
    quizzes = []
    for told in tomllib.loads((files(__package__) / "quizzes.toml").read_text("utf-8"))["quizzes"]:
        subject = subjects.setdefault(told["subject"], Subject(name=told["subject"]))
        quiz = Quiz(subject=subject, title=told["title"], description=told["description"], created_at=now - _AGE)
        quiz.questions = [
            _question(position, *words, random=random) for position, words in enumerate(told["questions"])
        ]
        quizzes.append(quiz)
    session.add_all(quizzes)
    return quizzes


def _question(position: int, text: str, right: str, *wrong: str, random: Random) -> Question:
    choices = [right, *wrong]
    random.shuffle(choices)
    return Question(position=position, text=text, choices=choices, answer=choices.index(right))


def add_attempts(
    session: Session, users: Sequence[User], quizzes: Sequence[Quiz], now: datetime, random: Random
) -> int:
    """Of everybody who was ever here, until they were last seen. Each leaves a few quizzes open."""
    made = [
        attempt
        for user in users
        if user.last_login_at is not None
        for attempt in _attempts(user, user.last_login_at, quizzes, now - _BACK, random)
    ]
    made.sort(key=lambda attempt: attempt.taken_at)
    session.add_all(made)
    return len(made)


def _attempts(
    user: User, until: datetime, quizzes: Sequence[Quiz], since: datetime, random: Random
) -> Iterator[Attempt]:
    knows = random.uniform(0.35, 0.95)
    for quiz in random.sample(quizzes, random.randint(3, len(quizzes) - 2)):
        for _ in range(random.choice((1, 1, 1, 2))):
            choices = [
                question.answer if random.random() < knows else random.randrange(len(question.choices))
                for question in quiz.questions
            ]
            yield Attempt(
                user=user,
                quiz=quiz,
                taken_at=since + (until - since) * random.random(),
                correct=sum(
                    chosen == question.answer for chosen, question in zip(choices, quiz.questions, strict=True)
                ),
                questions=len(choices),
                choices=choices,
            )
