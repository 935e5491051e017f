"""Answers that come with a form, and what of them is right. Pure."""

from collections.abc import Callable, Sequence

from app.quizzes.models import Question

Choices = list[int | None]
"""Question by question: the place of what was chosen, from 0; None where nothing was."""


class ForgedAnswer(ValueError):
    """What the form of the quiz cannot send."""


def field_of(question: Question) -> str:
    """The form field with its answer."""
    return f"question-{question.position}"


def read_choices(questions: Sequence[Question], values: Callable[[str], list[str]]) -> Choices:
    """From the values of each form field. Raises ForgedAnswer for a choice that there is not, or several at once."""
    return [_read(question, values(field_of(question))) for question in questions]


def _read(question: Question, given: list[str]) -> int | None:
    if not given:
        return None
    offered = {str(place): place for place in range(len(question.choices))}
    if len(given) > 1 or given[0] not in offered:
        shown = ", ".join(given)[:50]
        raise ForgedAnswer(
            f"{field_of(question)}={shown!r} is no answer: choose one of 0 to {len(question.choices) - 1}, or none"
        )
    return offered[given[0]]


def count_correct(questions: Sequence[Question], choices: Choices) -> int:
    """What was not answered is wrong."""
    return sum(question.answer == choice for question, choice in zip(questions, choices, strict=True))
