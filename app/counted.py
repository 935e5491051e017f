"""The counters of `/metrics`: what the workers of this host have counted, in files that both know."""

import fcntl
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from outbox.logs import tell

log = logging.getLogger(__name__)

KINDS = ("counter", "histogram")
"""Of files in METRICS_DIR, one each for a process. There is no gauge among them: those come from SQL."""


class Counted(Collector):
    """The sums of what the workers count (`workers.counting`), of those that are gone, too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Nothing, where no worker has ever counted, or what they wrote is not ours to read, which is logged."""
        try:
            with locked(self._folder):
                files = sorted(map(str, self._folder.glob("*.db")))
                return list(MultiProcessCollector.merge(files))
        except FileNotFoundError:
            return []
        except OSError as error:
            sentence = "metrics: what the workers count cannot be read from METRICS_DIR=%(folder)s: %(why)s"
            tell(log, logging.WARNING, "counts.unreadable", sentence, folder=str(self._folder), why=str(error))
            return []

    def describe(self) -> Iterable[Metric]:
        """Nothing: else it would be collected once more, to learn the names."""
        return []


@contextmanager
def locked(folder: Path, *, writing: bool = False) -> Iterator[None]:
    """No file is folded into another meanwhile. Who only reads needs no right to write."""
    with (folder / "lock").open("ab" if writing else "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX if writing else fcntl.LOCK_SH)
        yield
