"""What a burst costs in memory, and what it costs to wait for one."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from benchmarks.bench import Bench
from benchmarks.contenders.commands import WARM_UP
from benchmarks.measuring import Delivery, delivering

_BYTES = 2000
_SETTLE_SECONDS = 3
"""After `ready`, until nothing of the start is left to do."""


def ask(bench: Bench) -> None:
    """100,000 mails that come at once, beside 10,000; then ten minutes of nothing."""
    burst, idle = (3000, 5) if bench.quick else (100_000, 600)
    runs = {("burst", "ours"): partial(_burst, bench, burst)}
    if not bench.quick:
        runs["usual", "ours"] = partial(_burst, bench, 10_000)
    bench.take_turns("memory", runs)
    bench.measure("memory", "idle", "ours", 1, partial(_idle, bench, idle))


def _burst(bench: Bench, count: int) -> dict[str, float]:
    """Mails that are committed at once, while the workers have nothing to do."""
    with bench.sink() as sink, bench.entry("ours", sink) as entry, delivering(bench, entry, sink) as delivery:
        before = _settled(delivery)
        with ThreadPoolExecutor() as beside:
            # Its mails are on their way before it has ended.
            enqueueing = beside.submit(entry.run, "enqueue", count, _BYTES, "bulk")
            figures = delivery.wait(count + WARM_UP, WARM_UP)
            enqueueing.result()
        peaks = delivery.processes.peaks()
    grown = max(before, key=lambda pid: peaks[pid] - before[pid])
    return {
        "mails": count,
        **figures,
        "surplus": sink.mails() - count - WARM_UP,
        "idle_mb": before[grown] / 1e6,
        "peak_mb": peaks[grown] / 1e6,
        "growth_mb": (peaks[grown] - before[grown]) / 1e6,
    }


def _settled(delivery: Delivery) -> dict[int, int]:
    time.sleep(_SETTLE_SECONDS)
    return delivery.processes.resident("contender")


def _idle(bench: Bench, seconds: float) -> dict[str, float]:
    with bench.sink() as sink, bench.entry("ours", sink) as entry, delivering(bench, entry, sink) as delivery:
        _settled(delivery)
        before = delivery.processes.cpu()
        time.sleep(seconds)
        after = delivery.processes.cpu()
    return {"seconds": seconds} | {
        f"share_{role}": (after[role] - before[role]) / seconds for role in ("contender", "postgresql", "redis")
    }
