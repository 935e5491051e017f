"""Beat as we need it: it tries again what it could not publish, and survives a clock that is set back.

Celery's own counts an entry as run before it is published: with Redis away at 18:00, the reminders of that day would
never go. And after a clock that was a month ahead it would wait for that month to pass.
"""

import time
from heapq import heapify
from typing import Any

from celery.beat import PersistentScheduler, ScheduleEntry, SchedulingError

AGAIN_SECONDS = 10.0
"""Until what could not be published is tried again: soon, and yet a broker that is away for a day fills no log."""

TOLERANCE_SECONDS = 60.0
"""By which the last run may lie ahead of the clock. A clock that is corrected by less runs nothing twice."""


class Beat(PersistentScheduler):  # type: ignore[misc]  # Celery ships no types
    """The scheduler of `celery -A workers beat`."""

    _heap: list[Any] | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unpublished: dict[str, Any] = {}
        self._ticked_at = time.monotonic()
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Run what is due; returns the seconds until the next look."""
        self._ticked_at = time.monotonic()
        self._forget_the_future()
        seconds: float = super().tick(*args, **kwargs)
        if not self._unpublished:
            return seconds
        for name, last_run_at in self._unpublished.items():
            self.schedule[name].last_run_at = last_run_at
        # Behind what is due by then: one that can never be published holds nothing else up.
        self._heap = [
            event._replace(time=self._when(event.entry, AGAIN_SECONDS), entry=self.schedule[event.entry.name])
            if event.entry.name in self._unpublished
            else event
            for event in self._heap or ()
        ]
        heapify(self._heap)
        self._unpublished.clear()
        return AGAIN_SECONDS

    def ticked_ago(self) -> float:
        """Seconds since the last look."""
        return time.monotonic() - self._ticked_at

    def apply_async(self, entry: ScheduleEntry, *args: Any, **kwargs: Any) -> Any:
        """Publish, or remember that it was not."""
        try:
            return super().apply_async(entry, *args, **kwargs)
        except SchedulingError:
            self._unpublished[entry.name] = entry.last_run_at
            raise

    def _forget_the_future(self) -> None:
        """What ran by a clock that was ahead counts as run now: at its next time it is due again.

        Timestamps, for two times of one zone are compared by their wall clocks, which an hour in autumn shows twice.
        """
        ahead = [
            entry
            for entry in self.schedule.values()
            if entry.last_run_at.timestamp() > entry.default_now().timestamp() + TOLERANCE_SECONDS
        ]
        for entry in ahead:
            entry.last_run_at = entry.default_now()
        if ahead:
            self._look_at_all()

    def _look_at_all(self) -> None:
        self._heap = None  # the order in which entries are looked at, by when each was expected to be due
