"""Bars for a row of steps, as numbers that a template turns into SVG: what went well upwards, the rest downwards.

Two scales: of a thousand mails that go and two that do not, the two are what somebody looks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from outbox.trends import Step

UP, DOWN = 72, 28
"""Heights above and below the line."""

WIDTH = 10
"""Of a step. The picture is as wide as its place: it is stretched, which bars do not mind."""

_GAP = 2
_LEAST = 3
"""Height of what is not nothing."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One rectangle."""

    x: int
    y: float
    width: int
    height: float
    what: str
    """`sent`, `not-now` or `dead`."""


@dataclass(frozen=True, slots=True)
class Bars:
    """A picture, and in numbers what it shows."""

    bars: Sequence[Bar]
    width: int
    total: Step
    most_sent: int
    most_failed: int


def draw(steps: Sequence[Step]) -> Bars:
    """The picture of these steps, oldest on the left."""
    most_sent = max(step.sent for step in steps)
    most_failed = max(step.not_now + step.dead for step in steps)
    bars = []
    for number, step in enumerate(steps):
        x = number * WIDTH + _GAP // 2
        if step.sent:
            height = _height(step.sent, most_sent, UP)
            bars.append(Bar(x, UP - height, WIDTH - _GAP, height, "sent"))
        y = UP + 1.0
        for count, what in ((step.dead, "dead"), (step.not_now, "not-now")):
            if count:
                height = _height(count, most_failed, DOWN)
                bars.append(Bar(x, y, WIDTH - _GAP, height, what))
                y += height
    total = Step(
        sent=sum(step.sent for step in steps),
        dead=sum(step.dead for step in steps),
        not_now=sum(step.not_now for step in steps),
    )
    return Bars(bars, len(steps) * WIDTH, total, most_sent, most_failed)


def _height(count: int, most: int, room: int) -> float:
    return round(max(_LEAST, count / most * room), 1)
