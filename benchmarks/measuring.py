"""How fast a contender delivers, and what that costs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from benchmarks.bench import Bench, Entry
from benchmarks.children import ChildFailed
from benchmarks.processes import Processes, watching
from benchmarks.sinks import Sink

_POLL_SECONDS = 0.1
_POLL_SHARE = 20
"""A poll that takes long is done seldom: it has a twentieth of a core at most."""

_STALL_SECONDS = 120
"""Without a further mail, nothing more will come. To put a burst on record takes the half of it."""


@dataclass(frozen=True)
class _Look:
    at: float
    mails: int
    cpu: dict[str, float]


@dataclass
class Delivery:
    """A contender at work, and what is seen of it from outside."""

    processes: Processes
    taken: Callable[[], int]
    """Mails that the relay has had from it."""
    sent: Callable[[], int]
    """Mails on record as sent; where there is no record, those that the relay has had."""

    def wait(self, last: int, first: int = 0) -> dict[str, float]:
        """Wait until `last` mails are on record: the rate, and the CPU seconds of each role for 1,000 mails.

        Both from the first look at which the relay has had more than `first`: nobody pays for the start. The relay and
        not the record, because some write a thousand results at once: the first of them to be seen would be late.
        """
        began = before = _Look(time.monotonic(), first, self.processes.cpu())
        for at, sent in self._progress():
            if began is before and (taken := self.taken()) > first:
                began = _Look(at, taken, self.processes.cpu())
            if sent >= last:
                ended = _Look(at, sent, self.processes.cpu())
                break
        if began.mails >= last:  # all of it went between two looks
            began = before
        seconds, mails = ended.at - began.at, ended.mails - began.mails
        costs = {role: (ended.cpu[role] - began.cpu[role]) * 1000 / mails for role in ended.cpu}
        ours = sum(cost for role, cost in costs.items() if role != "sink")
        return {"rate": mails / seconds, "cpu_all": ours} | {f"cpu_{role}": cost for role, cost in costs.items()}

    def _progress(self) -> Iterator[tuple[float, int]]:
        """The time and the mails on record, of each look. Raises ChildFailed if nothing moves for long."""
        deadline, most = time.monotonic() + _STALL_SECONDS, -1
        while True:
            asked = time.monotonic()
            sent = self.sent()
            now = time.monotonic()
            yield now, sent
            if sent > most:
                deadline, most = now + _STALL_SECONDS, sent
            elif now > deadline:
                raise ChildFailed(f"{sent} mails are sent, and for {_STALL_SECONDS} s none more")
            time.sleep(max(_POLL_SECONDS, _POLL_SHARE * (now - asked)))


@contextmanager
def delivering(bench: Bench, entry: Entry, sink: Sink, progress: str | None = None) -> Iterator[Delivery]:
    """Start the contender's workers. `progress` counts what is sent, if it is not to be all of its table."""
    query = progress or entry.contender.progress
    roles = bench.servers.pids | {"sink": sink.pid}
    had = sink.mails()
    with psycopg.connect(bench.servers.url(entry.database), autocommit=True) as connection:

        def taken() -> int:
            return sink.mails() - had

        def sent() -> int:
            if query is None:
                return taken()
            (count,) = connection.execute(query).fetchone() or (0,)
            return int(count)

        with (
            entry.working() as process,
            watching("contender", {"contender": process.pid} | roles, [connection.info.backend_pid]) as processes,
        ):
            yield Delivery(processes, taken, sent)


def drain(bench: Bench, name: str, count: int, size: int, **surroundings: str) -> dict[str, float]:
    """Put mails on record, then deliver them all."""
    with bench.sink() as sink, bench.entry(name, sink, **surroundings) as entry:
        return drain_entry(bench, entry, sink, count, size)


def drain_entry(
    bench: Bench, entry: Entry, sink: Sink, count: int, size: int, *, progress: str | None = None
) -> dict[str, float]:
    """The same with a database and a sink that are there. `surplus`: what the sink got too many, or too few."""
    entry.run("fill", count, size)
    bench.servers.checkpoint()
    had = sink.mails()
    with delivering(bench, entry, sink, progress) as delivery:
        figures = delivery.wait(count)
        peak = max(delivery.processes.peaks().values(), default=0)
    return {"mails": count, **figures, "surplus": sink.mails() - had - count, "peak_mb": peak / 1e6}
