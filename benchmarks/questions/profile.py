"""Where a worker's time goes: a look each millisecond at whichever of its threads runs Python, by py-spy."""

import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

from benchmarks import environment
from benchmarks.bench import Bench
from benchmarks.children import ChildFailed
from benchmarks.measuring import delivering

_BYTES = 2000
_LOOKS_A_SECOND = 1000

_PARTS = {
    "talking to the relay": ("outbox/conversation", "outbox/relay.", "outbox/outcomes", "smtplib", "outbox/stages"),
    "the ledger: begins and settles": ("outbox/ledger", "outbox/writer", "outbox/turn", "outbox/recording"),
    "composing": ("outbox/message", "outbox/dkim"),
    "loading a chunk's mails": ("outbox/chunk",),
    "the log": ("outbox/mail_log", "outbox/logs", "app/logs", "app/masking"),
    "metrics": ("outbox/signals", "workers/counting"),
    "gate: suppressed, paused, too fast": ("outbox/gate", "outbox/suppressions", "outbox/rates", "outbox/fence"),
    "choosing the relay": ("outbox/relays", "outbox/breaker"),
    "claiming and publishing": ("outbox/claims", "outbox/drain"),
    "between them": ("outbox/delivery",),
    "Celery": ("celery/", "kombu/", "workers/"),
}
"""Part -> how its files begin. A look is of the innermost frame that is of a part: a library's time is its caller's."""

_OTHER = "other"


def ask(bench: Bench) -> None:
    """One of the worker processes that drain 20,000 mails. py-spy stops it for each look, so no rate is kept."""
    looks: Counter[str] = Counter()

    def look() -> dict[str, float]:
        looks.update(_drain_and_look(bench))
        return {"looks": looks.total()}

    bench.measure("profile", "all", "ours", 1, look)
    for part, number in looks.most_common():
        bench.measure("profile", part, "ours", 1, partial(_share, number, looks.total()))


def _share(number: int, whole: int) -> dict[str, float]:
    return {"share_python": number / whole}


def _drain_and_look(bench: Bench) -> Counter[str]:
    count, seconds = (1000, 1) if bench.quick else (20_000, 8)
    with bench.sink() as sink, bench.entry("ours", sink) as entry:
        entry.run("fill", count, _BYTES)
        with delivering(bench, entry, sink) as delivery:
            before = delivery.processes.cpu_of("contender")
            delivery.wait(count // 10)
            after = delivery.processes.cpu_of("contender")
            busiest = max(after, key=lambda pid: after[pid] - before.get(pid, 0.0))
            return _looks(busiest, entry.folder / "stacks", seconds)


def _looks(pid: int, stacks: Path, seconds: int) -> Counter[str]:
    """Part -> looks at which the thread that held the interpreter's lock was in it."""
    command = [str(environment.PYTHON.with_name("py-spy")), "record", "--gil", "--nonblocking", "--format", "raw"]
    options = ["--rate", str(_LOOKS_A_SECOND), "--duration", str(seconds), "--output", str(stacks), "--pid", str(pid)]
    ran = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise ChildFailed(f"py-spy, which needs leave to trace a process: {ran.stderr.strip()}")
    looks: Counter[str] = Counter()
    for line in stacks.read_text().splitlines():
        frames, _, number = line.rpartition(" ")
        looks[_part(frames.split(";"))] += int(number)
    return looks


def _part(frames: list[str]) -> str:
    for frame in reversed(frames):
        file = frame.rpartition("(")[2]
        for part, beginnings in _PARTS.items():
            if any(beginning in file for beginning in beginnings):
                return part
    return _OTHER
