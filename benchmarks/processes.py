"""What processes cost: CPU seconds and memory of each role, a role being a process and all below it.

A process that has ended is in the children's times of its parent, so nothing is lost of those that come and go. Memory
is sampled, since nobody else remembers its peak.
"""

import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil

_SAMPLE_SECONDS = 0.2
"""A sample takes 2 ms: a hundredth of a core."""


class Processes:
    """The processes of each role, while the context of `watching` lasts."""

    def __init__(self, roles: Mapping[str, int], apart: Collection[int]) -> None:
        self._roles, self._apart = roles, frozenset(apart)
        self._peaks: defaultdict[int, int] = defaultdict(int)
        self._ended = threading.Event()

    def cpu(self) -> dict[str, float]:
        """Role -> seconds so far, of the user and of the system."""
        return {role: sum(self.cpu_of(role).values()) for role in self._roles}

    def cpu_of(self, role: str) -> dict[int, float]:
        """Process -> seconds so far, with those of its children that have ended."""
        seconds = {}
        for process in self._tree(role):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds[process.pid] = times.user + times.system + times.children_user + times.children_system
        return seconds

    def resident(self, role: str) -> dict[int, int]:
        """Process -> bytes of memory that it has now."""
        sizes = {}
        for process in self._tree(role):
            with suppress(psutil.NoSuchProcess):
                sizes[process.pid] = process.memory_info().rss
        return sizes

    def peaks(self) -> dict[int, int]:
        """Process of the role that is measured -> the most bytes that it was seen with."""
        return dict(self._peaks)

    def sample(self, role: str) -> None:
        """Until `watching` ends."""
        while not self._ended.wait(_SAMPLE_SECONDS):
            for pid, size in self.resident(role).items():
                self._peaks[pid] = max(self._peaks[pid], size)

    def end(self) -> None:
        """No further sample."""
        self._ended.set()

    def _tree(self, role: str) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._roles[role])
            below = root.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [process for process in (root, *below) if process.pid not in self._apart]


@contextmanager
def watching(measured: str, roles: Mapping[str, int], apart: Collection[int] = ()) -> Iterator[Processes]:
    """Watch each role's process and all below it, but for those `apart`, which are our own.

    Of the role `measured` the peaks of memory are kept.
    """
    processes = Processes(roles, apart)
    thread = threading.Thread(target=processes.sample, args=(measured,), daemon=True)
    thread.start()
    try:
        yield processes
    finally:
        processes.end()
        thread.join()
