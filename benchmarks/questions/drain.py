"""How many mails a second go out of a full queue, and what that costs; first, what the relays themselves can take."""

import subprocess
import time
from functools import partial

from benchmarks.bench import Bench
from benchmarks.contenders.ready_bytes import compose
from benchmarks.environment import clean
from benchmarks.mails import recipient, sender
from benchmarks.measuring import drain
from benchmarks.pipelining import Pipelined
from benchmarks.processes import watching
from benchmarks.registry import CONTENDERS
from benchmarks.sinks import Sink, own_sink

_SIZES = {"2 KB": 2000, "20 KB": 20_000}
_SMALL = (
    "ours",
    "post_office_tuned",
    "post_office",
    "django_mailer",
    "procrastinate",
    "tutorial",
    "ready_bytes",
    "pipelined",
)
_LARGE = ("ours", "post_office_tuned")
_QUICK = ("ours", "post_office_tuned", "tutorial", "ready_bytes")
"""Those that a bar is about."""


def ask(bench: Bench) -> None:
    """20,000 of 2 KB, or 5,000 where that would take minutes; 10,000 of 20 KB."""
    _ask_sinks(bench)
    small, slow = (1000, 100) if bench.quick else (20_000, 5000)
    asked = _QUICK if bench.quick else _SMALL
    counts = {("2 KB", name): slow if CONTENDERS[name].is_slow else small for name in asked}
    if not bench.quick:
        counts |= {("20 KB", name): 10_000 for name in _LARGE}
    runs = {(case, name): partial(drain, bench, name, count, _SIZES[case]) for (case, name), count in counts.items()}
    bench.take_turns("drain", runs)


def _ask_sinks(bench: Bench) -> None:
    """What the relays take from a client that costs little: they are not what is measured."""
    count = 1000 if bench.quick else 20_000
    with own_sink(bench.folder) as own, bench.sink() as least:
        for sink in {own.name: own, least.name: least}.values():
            bench.measure("sink", "2 KB", sink.name, 1, partial(_feed, bench, sink, count))


def _feed(bench: Bench, sink: Sink, count: int) -> dict[str, float]:
    send = _by_postfix if bench.postfix else _by_ourselves
    with watching("sink", {"sink": sink.pid}) as processes:
        began, cpu = time.monotonic(), processes.cpu()["sink"]
        send(bench, sink, count)
        seconds = time.monotonic() - began
        cpu = processes.cpu()["sink"] - cpu
    return {"rate": count / seconds, "cpu_sink": cpu * 1000 / count, "surplus": sink.mails() - count}


def _by_postfix(bench: Bench, sink: Sink, count: int) -> None:
    assert bench.postfix is not None
    two_connections = ["-s", "2", "-d"]
    mail = ["-m", str(count), "-l", "2900", "-f", sender, "-t", recipient(0)]
    subprocess.run(
        [bench.postfix.source, *two_connections, *mail, f"127.0.0.1:{sink.port}"],
        env=clean() | bench.postfix.environment,
        check=True,
    )


def _by_ourselves(bench: Bench, sink: Sink, count: int) -> None:
    del bench
    message = compose(0, _SIZES["2 KB"])
    with Pipelined("127.0.0.1", sink.port) as connection:
        for number in range(count):
            connection.send(recipient(number), message)
