"""Subjects, quizzes with their questions, and attempts."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.accounts.models import User
from app.database import Base
from outbox.database import BigId, UtcDateTime, utcnow


class Subject(Base):
    """What quizzes are about."""

    __tablename__ = "subjects"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.Text, unique=True)


class Quiz(Base):
    """A few questions, open to every user."""

    __tablename__ = "quizzes"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    subject_id: Mapped[int] = mapped_column(sa.ForeignKey("subjects.id"), index=True)
    title: Mapped[str] = mapped_column(sa.Text)
    description: Mapped[str] = mapped_column(sa.Text, default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())

    subject: Mapped[Subject] = relationship()
    questions: Mapped[list["Question"]] = relationship(order_by="Question.position")


class Question(Base):
    """One of several choices is right."""

    __tablename__ = "questions"
    __table_args__ = (sa.CheckConstraint("answer >= 0", name="answer"),)

    quiz_id: Mapped[int] = mapped_column(
        sa.ForeignKey("quizzes.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    position: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True, autoincrement=False)
    text: Mapped[str] = mapped_column(sa.Text)
    choices: Mapped[list[str]] = mapped_column(sa.JSON)
    answer: Mapped[int] = mapped_column(sa.SmallInteger)
    """The place of the right one among the choices, from 0."""


class Attempt(Base):
    """A quiz that somebody took. It may be taken again."""

    __tablename__ = "attempts"
    __table_args__ = (
        sa.CheckConstraint("questions > 0 AND correct BETWEEN 0 AND questions", name="result"),
        sa.Index("ix_attempts_user_id", "user_id", "quiz_id"),
        sa.Index("ix_attempts_taken_at", "taken_at"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"))
    quiz_id: Mapped[int] = mapped_column(sa.ForeignKey("quizzes.id", ondelete="CASCADE"), index=True)
    taken_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    correct: Mapped[int] = mapped_column(sa.SmallInteger)
    questions: Mapped[int] = mapped_column(sa.SmallInteger)
    """How many there were: a quiz may get more."""
    choices: Mapped[list[int | None]] = mapped_column(sa.JSON, default=list)
    """What was chosen, question by question; None where nothing was."""

    quiz: Mapped[Quiz] = relationship()
    user: Mapped[User] = relationship()

    @property
    def result(self) -> float:
        """The share of right answers, 0 to 1."""
        return self.correct / self.questions
