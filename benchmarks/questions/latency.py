"""How long after its commit a mail is with the relay, of a system that has nothing else to do."""

import statistics
import time
from functools import partial

from benchmarks.bench import Bench
from benchmarks.children import ChildFailed
from benchmarks.measuring import delivering
from benchmarks.sinks import OwnSink, own_sink

_CONTENDERS = ("ours", "tutorial", "procrastinate")
_PAUSE = 0.15
_SETTLE_SECONDS = 2
"""After `ready`, until nothing of the start is left to do."""

_LAST_SECONDS = 60
"""In which the last mail arrives, or never will."""


def ask(bench: Bench) -> None:
    """200 mails, one each 0.15 s."""
    count = 10 if bench.quick else 200
    asked = _CONTENDERS[:1] if bench.quick else _CONTENDERS
    runs = {("2 KB", name): partial(_trickle, bench, name, count) for name in asked}
    bench.take_turns("latency", runs)


def _trickle(bench: Bench, name: str, count: int) -> dict[str, float]:
    with (
        own_sink(bench.folder) as sink,
        bench.entry(name, sink) as entry,
        delivering(bench, entry, sink),
    ):
        time.sleep(_SETTLE_SECONDS)
        committed: list[float] = entry.told("trickle", count, _PAUSE)["committed"]
        taken = _wait_for(sink, count)
    waits = sorted((taken[f"trickle-{number}@example.com"] - at) * 1000 for number, at in enumerate(committed))
    percentiles = statistics.quantiles(waits, n=100, method="inclusive")
    return {
        "mails": count,
        "p50_ms": percentiles[49],
        "p95_ms": percentiles[94],
        "p99_ms": percentiles[98],
        "max_ms": waits[-1],
    }


def _wait_for(sink: OwnSink, count: int) -> dict[str, float]:
    """Recipient -> when the relay first had the mail."""
    deadline = time.monotonic() + _LAST_SECONDS
    while len(times := sink.times()) < count:
        if time.monotonic() > deadline:
            raise ChildFailed(f"{len(times)} of {count} mails came")
        time.sleep(0.1)
    return {recipient: moments[0] for recipient, moments in times.items()}
