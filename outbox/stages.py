"""In which stage a conversation is, and when each began."""

from collections.abc import Sequence
from itertools import pairwise
from time import perf_counter

from outbox.states import Stage

Mark = tuple[Stage | None, float]
"""A stage began then (`time.perf_counter`); None: nobody waited for the relay any more. Plain tuples, since every mail
has nine: named ones would cost it twice as much."""


class Staged:
    """What a relay is, for its conversation to say how far it has come.

    It notes the time and counts nothing: that is done for whoever asks (`seconds`), and mostly nobody does.
    """

    def __init__(self) -> None:
        self._stage = Stage.CONNECT
        self._marks: list[Mark] = []

    @property
    def stage(self) -> Stage:
        """The one that the conversation is in, or ended in."""
        return self._stage

    @stage.setter
    def stage(self, stage: Stage) -> None:
        self._stage = stage
        self._marks.append((stage, perf_counter()))

    def start_clock(self) -> None:
        """Another mail: what is noted from here on is its own."""
        self._marks = []

    def pause_clock(self) -> Sequence[Mark]:
        """No stage is waited for until the next begins. Returns what was noted of this mail."""
        self._marks.append((None, perf_counter()))
        return self._marks


def seconds(marks: Sequence[Mark]) -> dict[Stage, float]:
    """How long each stage took."""
    took: dict[Stage, float] = {}
    for (stage, began), (_, ended) in pairwise(marks):
        if stage is not None:
            took[stage] = took.get(stage, 0.0) + ended - began
    return took
