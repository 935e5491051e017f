"""What this worker's tasks came to since it started, by their names: counts, how long they took, when the last ended.

It travels with the worker's sign of life, and `/health/tasks` adds up those of all workers. So it is bounded and can be
added: not the durations are kept but how many fell between two powers of `STEP`, of which a task has a hundred at most.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from celery.signals import task_postrun, task_prerun

from app.task_statistics import STEP

_STATES = {"SUCCESS": "succeeded", "FAILURE": "failed", "RETRY": "retried"}

_SHORTEST, _LONGEST = 0.001, 86400.0
"""Seconds: whatever is beyond counts as that."""

_MOST_NAMES = 200
"""Tasks; ours are twenty. A name may come from outside: an unknown one is refused by Celery, and never gets here."""


class Tally:
    """The counts of one process."""

    def __init__(self, clock: Callable[[], float] = time.time, timer: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._timer = clock, timer
        self._lock = threading.Lock()
        self._began: dict[str, float] = {}
        self._tasks: dict[str, dict[str, Any]] = {}

    def listen(self) -> None:
        """From now on, to all tasks of this process."""
        task_prerun.connect(self.began)
        task_postrun.connect(self.ended)

    def began(self, task_id: str, **_: Any) -> None:
        """A task runs."""
        with self._lock:
            self._began[task_id] = self._timer()

    def ended(self, task_id: str, task: Any, state: str, **_: Any) -> None:
        """And has run."""
        with self._lock:
            now = self._timer()
            seconds = now - self._began.pop(task_id, now)
            if state not in _STATES or (task.name not in self._tasks and len(self._tasks) >= _MOST_NAMES):
                return
            line = self._tasks.setdefault(task.name, dict.fromkeys(_STATES.values(), 0) | {"took": {}})
            line[_STATES[state]] += 1
            line["last_at"] = self._clock()
            step = str(round(math.log(min(max(seconds, _SHORTEST), _LONGEST), STEP)))
            line["took"][step] = line["took"].get(step, 0) + 1

    def counts(self) -> dict[str, Any]:
        """As JSON has it."""
        with self._lock:
            return {name: line | {"took": dict(line["took"])} for name, line in self._tasks.items()}
