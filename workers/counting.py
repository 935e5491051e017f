"""What happens in this worker, counted for Prometheus: in files that every process on this host reads (`app.counted`).

The counting itself is prometheus-client's, whose files are mapped into memory: what is counted is on record without a
word to the kernel, and stays when the process is killed. Three things it leaves to us:

* A process that is gone leaves its files, and without them the sums would fall, which Prometheus takes for a restart
  and counts all again. So whoever starts folds the files of the dead into one, and there are never more than live.
* Who is dead? Pids repeat, and containers that share a folder share them, too. Each holds a lock on a file of its own,
  which the kernel lets go with the process, however it ends.
* A full disk kills whoever writes to a mapped file with a hole (SIGBUS). Ours have none: their place is taken before.
"""

import fcntl
import logging
import os
import socket
import struct
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, values
from prometheus_client.mmap_dict import MmapedDict

from app.counted import KINDS, locked
from outbox import signals
from outbox.logs import tell
from outbox.signals import Settled
from outbox.states import Outcome, Priority

log = logging.getLogger(__name__)

M = TypeVar("M", Counter, Histogram)

_FILE_BYTES = 1024 * 1024
"""Room for 4,000 series, of which each relay has a hundred. A file that outgrows it goes on, with a hole."""

_FOLDED = "folded"
"""The name of the process that is all who are gone."""

_MEASURE_EVERY = 0.05
"""Seconds between two conversations whose stages are measured. Four stages are eight writes: of every mail they would
cost a tenth of its processor time. But for a peak it is every one."""

_held: list[IO[bytes]] = []
"""The lock that says that we live; closed by nobody."""


@cache
def _of(metric: M, *labels: str) -> M:
    """The metric of these labels. Looked up by prometheus-client, it would cost half of the counting."""
    return metric.labels(*labels)


class Counts:
    """All that is counted. Names and labels are in `docs/operations.md`, rules and dashboard in `deploy/`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, help_: str, *labels: str) -> Counter:
            return Counter(f"outbox_{name}", help_, labels, registry=registry)

        def histogram(name: str, help_: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"outbox_{name}", help_, labels, registry=registry, buckets=buckets)

        self.claimed = counter("claimed_total", "Mails that a drain took from the queue", "priority")
        self.sent = counter("sent_total", "Mails that a relay took", "relay")
        self.outcomes = {
            Outcome.DEFERRED: counter("deferred_total", "Conversations that end in: later", "relay"),
            Outcome.REJECTED: counter("rejected_total", "Conversations that end in: never (5xx)", "relay"),
            Outcome.UNCERTAIN: counter("uncertain_total", "Conversations that were lost after the dot", "relay"),
            Outcome.THROTTLED: counter("throttled_total", "Conversations in which the relay wanted less", "relay"),
            Outcome.RELAY_DOWN: counter("relay_down_total", "Conversations that found the relay down", "relay"),
            Outcome.RELAY_MISCONFIGURED: counter(
                "relay_misconfigured_total", "Conversations in which relay and settings disagreed", "relay"
            ),
        }
        self.dead = counter("dead_total", "Mails that will not be delivered", "reason")
        self.lease_lost = counter(
            "lease_lost_total", "Mails given up by a worker: others had them, or the database was silent"
        )
        self.reaped = counter("reaped_total", "Mails taken back from workers that are gone")
        self.queue_seconds = histogram(
            "queue_seconds",
            "From when a mail could first be tried until a relay took it",
            (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600, 14400),
            "priority",
        )
        self.stage_seconds = histogram(
            "smtp_stage_seconds",
            "How long a relay took for a stage of the conversation; of 20 conversations a second at most",
            (0.005, 0.02, 0.1, 0.5, 1, 5, 30, 120, 300),
            "relay",
            "stage",
        )
        self._measured_at = 0.0
        self.drain_seconds = histogram("drain_seconds", "How long a drain took", (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60))

    def listen(self) -> None:
        """Count from now on, for as long as this object lives."""
        for signal in (signals.sent, signals.deferred, signals.dead, signals.uncertain):
            signal.connect(self._settled)
        signals.drained.connect(self._drained)
        signals.lease_lost.connect(self._lease_lost)
        signals.reaped.connect(self._reaped)

    def _settled(self, category: str | None, mail: Settled) -> None:
        del category
        relay = mail.relay or "none"
        if mail.outcome is Outcome.SENT:
            _of(self.sent, relay).inc()
            _of(self.queue_seconds, mail.priority.label).observe(mail.seconds_in_queue)
        elif mail.outcome is not None:
            _of(self.outcomes[mail.outcome], relay).inc()
        if mail.dead_reason is not None:
            _of(self.dead, mail.dead_reason).inc()
        if mail.marks and (now := mail.marks[-1][1]) - self._measured_at > _MEASURE_EVERY:
            self._measured_at = now
            for stage, seconds in mail.seconds.items():
                _of(self.stage_seconds, relay, stage).observe(seconds)

    def _drained(self, _: None, rows: dict[Priority, int], seconds: float) -> None:
        for lane, count in rows.items():
            self.claimed.labels(lane.label).inc(count)
        self.drain_seconds.observe(seconds)

    def _lease_lost(self, _: None, why: str) -> None:
        del why
        self.lease_lost.inc()

    def _reaped(self, _: None, rows: int) -> None:
        self.reaped.inc(rows)


_counts: list[Counts] = []


def start(folder: Path) -> bool:
    """Count what happens in this process from now on. False if the folder cannot be written: mail goes all the same."""
    name = f"{socket.gethostname()}-{os.getpid()}".replace("_", "-")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, writing=True):
            _hold(folder / f"{name}.alive")
            _fold(folder, but=name)
            for kind in KINDS:
                _take_room(folder / f"{kind}_{name}.db")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder.absolute())
        # Chosen by that variable when the package is imported, which was long ago.
        values.ValueClass = values.MultiProcessValue(lambda: name)
        counts = Counts(CollectorRegistry())
    except (OSError, ValueError) as error:
        sentence = "metrics: nothing is counted here, for METRICS_DIR=%(folder)s cannot be used: %(why)s"
        tell(log, logging.WARNING, "counts.unwritable", sentence, folder=str(folder), why=str(error))
        return False
    _counts.append(counts)
    counts.listen()
    return True


def _hold(path: Path) -> None:
    file = path.open("ab")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _held.append(file)


def _fold(folder: Path, but: str) -> None:
    """Add what the dead have counted to what those before them had."""
    for path in folder.glob("*.alive"):
        if path.stem == but:
            continue
        with path.open("ab") as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for kind in KINDS:
                _fold_file(folder / f"{kind}_{path.stem}.db", folder / f"{kind}_{_FOLDED}.db")
            path.unlink()


def _fold_file(gone: Path, folded: Path) -> None:
    """Killed between the last two lines, it will be folded twice: some counts too high, once in a great while."""
    sums: dict[str, float] = {}
    for path in (folded, gone):
        # A file that makes no sense was being made when its process was killed: it had counted nothing.
        with suppress(FileNotFoundError, RuntimeError, struct.error, UnicodeDecodeError):
            for key, value, _, _ in MmapedDict.read_all_values_from_file(path):
                sums[key] = sums.get(key, 0.0) + value
    new = folded.with_suffix(".new")
    new.unlink(missing_ok=True)
    _take_room(new)
    file = MmapedDict(str(new))
    for key, value in sums.items():
        file.write_value(key, value, 0.0)
    file.close()
    new.replace(folded)
    gone.unlink(missing_ok=True)


def _take_room(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(max(0, _FILE_BYTES - file.tell())))
