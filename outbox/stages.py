"""In which stage a conversation is, and how long it was in each."""

from collections.abc import Mapping
from time import perf_counter

from outbox.states import Stage


class Staged:
    """What a relay is, for its conversation to say how far it has come. Two readings of a clock a stage, 0.3 µs."""

    def __init__(self) -> None:
        self._stage = Stage.CONNECT
        self._seconds: dict[Stage, float] = {}
        self._since: float | None = None

    @property
    def stage(self) -> Stage:
        """The one that the conversation is in, or ended in."""
        return self._stage

    @stage.setter
    def stage(self, stage: Stage) -> None:
        self.pause_clock()
        self._stage = stage
        self._since = perf_counter()

    def start_clock(self) -> None:
        """Another mail: what is measured from here on is its own."""
        self._seconds = {}
        self._since = None

    def pause_clock(self) -> Mapping[Stage, float]:
        """No stage is waited for until the next is set. Returns the seconds of those that were, so far."""
        if self._since is not None:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + perf_counter() - self._since
            self._since = None
        return self._seconds
