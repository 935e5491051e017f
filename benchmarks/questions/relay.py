"""How many mails a second go to a relay that is 50 ms away, over sixteen connections."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.measuring import drain_entry
from benchmarks.sinks import own_sink

DELAY = 0.05
CONNECTIONS = 16

TWO_ROUND_TRIPS = CONNECTIONS / (2 * DELAY)
"""Mails a second of connections that stay: the envelope in one round trip, the mail in another."""

_CONTENDERS = ("ours", "post_office_tuned", "tutorial", "procrastinate")
_BYTES = 2000


def ask(bench: Bench) -> None:
    """1,500 of ours; 600 of those that take several times as long."""
    ours, theirs = (150, 60) if bench.quick else (1500, 600)
    asked = _CONTENDERS[:2] if bench.quick else _CONTENDERS
    runs = {("50 ms", name): partial(_drain, bench, name, ours if name == "ours" else theirs) for name in asked}
    bench.take_turns("relay", runs)


def _drain(bench: Bench, name: str, count: int) -> dict[str, float]:
    with own_sink(bench.folder, delay=DELAY) as sink, bench.entry(name, sink, CONNECTIONS=str(CONNECTIONS)) as entry:
        figures = drain_entry(bench, entry, sink, count, _BYTES)
        return figures | {"of_two_round_trips": figures["rate"] / TWO_ROUND_TRIPS}
