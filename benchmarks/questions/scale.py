"""Whether a long history slows it down, what further worker processes bring, and what a mail takes of the disk."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.history import fill_history
from benchmarks.measuring import delivering, drain, drain_entry
from benchmarks.questions.relay import DELAY
from benchmarks.sinks import own_sink

_BYTES = 2000
_PROCESSES = (1, 2, 4)

_WRITTEN_AHEAD = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
_IN_TABLES = """
    SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables
    WHERE relname IN ('email_contents', 'email_queue', 'email_attempts')"""

SHORT, LONG = 10_000, 5_000_000
_LONG_QUICK = 50_000


def ask(bench: Bench) -> None:
    """20,000 mails with a short history and a long one; by one, two and four processes, near and far; their bytes."""
    count = 1000 if bench.quick else 20_000
    _ask_history(bench, count, _LONG_QUICK if bench.quick else LONG)
    if bench.quick:
        return
    runs = {}
    for number in _PROCESSES:
        processes = f"{number} process{'es' if number > 1 else ''}"
        runs[processes, "ours"] = partial(drain, bench, "ours", count, _BYTES, PROCESSES=str(number))
        runs[f"{processes}, 50 ms", "ours"] = partial(_drain_far, bench, count // 5, number)
    bench.take_turns("scale", runs)
    bench.measure("disk", "2 KB", "ours", 1, partial(_on_disk, bench, count))


def _ask_history(bench: Bench, count: int, long: int) -> None:
    with bench.sink() as sink, bench.entry("ours", sink) as entry:
        fill_history(bench, entry.database, long)
        runs = {("long history", "ours"): partial(_drain_again, bench, entry.database, count)}
        if not bench.quick:
            runs["short history", "ours"] = partial(_drain_after, bench, count)
        bench.take_turns("scale", runs)


def _drain_after(bench: Bench, count: int) -> dict[str, float]:
    """In a new database, with little in it."""
    with bench.sink() as sink, bench.entry("ours", sink) as entry:
        fill_history(bench, entry.database, SHORT)
        return {"history": SHORT} | drain_entry(bench, entry, sink, count, _BYTES, progress=_newer_than(SHORT))


def _drain_again(bench: Bench, database: str, count: int) -> dict[str, float]:
    """In the one that was filled; what is drained here is a small part of it."""
    bench.servers.flush()
    newest = bench.servers.ask(database, "SELECT max(id) FROM email_queue")
    with bench.sink() as sink, bench.entered("ours", database, sink) as entry:
        return {"history": newest} | drain_entry(bench, entry, sink, count, _BYTES, progress=_newer_than(newest))


def _newer_than(id_: int) -> str:
    """To count all of five million rows ten times a second would be what is measured."""
    return f"SELECT count(*) FROM email_queue WHERE status = 'sent' AND id > {id_}"


def _drain_far(bench: Bench, count: int, processes: int) -> dict[str, float]:
    with own_sink(bench.folder, delay=DELAY) as sink, bench.entry("ours", sink, PROCESSES=str(processes)) as entry:
        return drain_entry(bench, entry, sink, count, _BYTES)


def _on_disk(bench: Bench, count: int) -> dict[str, float]:
    """Bytes a mail: written ahead while it is queued and while it is sent, and what stays in tables and indexes.

    Queued in one transaction; with the first images of pages that PostgreSQL writes ahead after a checkpoint.
    """
    with bench.sink() as sink, bench.entry("ours", sink) as entry:
        began = bench.servers.ask(entry.database, _WRITTEN_AHEAD)
        entry.run("fill", count, _BYTES)
        queued = bench.servers.ask(entry.database, _WRITTEN_AHEAD)
        with delivering(bench, entry, sink) as delivery:
            delivery.wait(count)
        sent = bench.servers.ask(entry.database, _WRITTEN_AHEAD)
        stays = bench.servers.ask(entry.database, _IN_TABLES)
    return {
        "mails": count,
        "wal_queued": (queued - began) / count,
        "wal_sent": (sent - queued) / count,
        "stays": stays / count,
    }
