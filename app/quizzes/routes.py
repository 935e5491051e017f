"""The quizzes, taking one, and its result."""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, abort, redirect, render_template, request, url_for
from flask_login import login_required
from sqlalchemy.orm import joinedload, selectinload
from werkzeug.wrappers import Response

from app.accounts.access import me
from app.database import request_session
from app.quizzes.marking import Choices, ForgedAnswer, count_correct, field_of, read_choices
from app.quizzes.models import Attempt, Question, Quiz, Subject

_QUIZ, _ATTEMPT = "int(max=2147483647)", "int(max=9223372036854775807)"
"""As large as the columns. A larger number is no id: 404, where the database would answer with an error."""

quizzes = Blueprint("quizzes", __name__)
quizzes.add_app_template_filter(field_of, "answer_field")


@quizzes.get("/quizzes/")
@login_required  # type: ignore[untyped-decorator]  # Flask-Login ships no types
def index() -> str:
    """All quizzes by subject, and how one did."""
    rows = _quizzes_and_results(me().id)
    taken = [row for row in rows if row.attempts]
    attempts = sum(row.attempts for row in taken)
    return render_template(
        "quizzes/index.html",
        subjects=[(name, list(of_it)) for name, of_it in groupby(rows, attrgetter("subject"))],
        available=sum(row.questions > 0 for row in rows),
        taken=len(taken),
        average=sum(row.results for row in taken) / attempts if attempts else None,
    )


@quizzes.get(f"/quizzes/<{_QUIZ}:id_>")
@login_required  # type: ignore[untyped-decorator]
def quiz(id_: int) -> str:
    """The form to take it with."""
    return render_template("quizzes/quiz.html", quiz=_quiz(id_))


@quizzes.post(f"/quizzes/<{_QUIZ}:id_>")
@login_required  # type: ignore[untyped-decorator]
def take(id_: int) -> Response | tuple[str, int]:
    """Mark what was answered, and keep it."""
    found = _quiz(id_)
    if not found.questions:
        return _refused(found, "This quiz has no questions yet, so it cannot be taken."), 409
    try:
        choices = read_choices(found.questions, request.form.getlist)
    except ForgedAnswer as error:
        return _refused(found, f"Nothing was kept: {error}."), 400
    correct = count_correct(found.questions, choices)
    attempt = Attempt(
        user_id=me().id, quiz_id=found.id, correct=correct, questions=len(found.questions), choices=choices
    )
    session = request_session()
    session.add(attempt)
    session.flush()
    result = url_for("quizzes.attempt", id_=attempt.id)
    session.commit()
    return redirect(result, 303)


@quizzes.get(f"/attempts/<{_ATTEMPT}:id_>")
@login_required  # type: ignore[untyped-decorator]
def attempt(id_: int) -> str:
    """What was right and what was not: for who took it, and nobody else."""
    options = joinedload(Attempt.quiz).options(joinedload(Quiz.subject), selectinload(Quiz.questions))
    found = request_session().get(Attempt, id_, options=[options])
    if found is None or found.user_id != me().id:
        abort(404)
    return render_template("quizzes/attempt.html", attempt=found, answers=_answers(found.quiz.questions, found.choices))


def _quiz(id_: int) -> Quiz:
    found = request_session().get(Quiz, id_, options=[joinedload(Quiz.subject), selectinload(Quiz.questions)])
    if found is None:
        abort(404)
    return found


def _refused(found: Quiz, trouble: str) -> str:
    return render_template("quizzes/quiz.html", quiz=found, trouble=trouble)


def _answers(questions: Sequence[Question], choices: Choices) -> list[dict[str, Any]]:
    """As far as both go: the quiz may have been changed since."""
    return [
        {
            "question": question.text,
            "chosen": None if choice is None else _choice(question, choice),
            "right": _choice(question, question.answer),
            "is_right": choice == question.answer,
        }
        for question, choice in zip(questions, choices, strict=False)
    ]


def _choice(question: Question, place: int) -> str:
    return question.choices[place] if place < len(question.choices) else "a choice that is there no more"


def _quizzes_and_results(user_id: int) -> Sequence[sa.Row[Any]]:
    """Each quiz with the user's number of attempts, the sum and the best of their results. One query."""
    result = sa.cast(Attempt.correct, sa.Float) / Attempt.questions
    own = (
        sa.select(
            Attempt.quiz_id,
            sa.func.count().label("attempts"),
            sa.func.sum(result).label("results"),
            sa.func.max(result).label("best"),
        )
        .where(Attempt.user_id == user_id)
        .group_by(Attempt.quiz_id)
        .subquery()
    )
    questions = sa.select(sa.func.count()).where(Question.quiz_id == Quiz.id).correlate(Quiz).scalar_subquery()
    query = (
        sa.select(
            Quiz.id,
            Quiz.title,
            Quiz.description,
            Subject.name.label("subject"),
            questions.label("questions"),
            sa.func.coalesce(own.c.attempts, 0).label("attempts"),
            own.c.results,
            own.c.best,
        )
        .join(Quiz.subject)
        .outerjoin(own, own.c.quiz_id == Quiz.id)
        .order_by(Subject.name, Quiz.title, Quiz.id)
    )
    return request_session().execute(query).all()
