"""How fast an application puts mail on record: each in a commit of its own, and many at once."""

from functools import partial

from benchmarks.bench import Bench

_BYTES = 2000

ONE, BULK = "one by one", "bulk"

_CONTENDERS = {
    ONE: ("ours", "post_office", "django_mailer", "procrastinate", "insert"),
    BULK: ("ours", "templated", "post_office", "django_mailer", "procrastinate", "executemany", "copy"),
}


def ask(bench: Bench) -> None:
    """2,000 one by one, 20,000 in bulk."""
    few, many = (200, 1000) if bench.quick else (2000, 20_000)
    orders = {ONE: (few, "one"), BULK: (many, "bulk")}
    runs = {
        (case, name): partial(_enqueue, bench, name, *orders[case])
        for case, names in _CONTENDERS.items()
        for name in names
    }
    bench.take_turns("enqueue", runs)


def _enqueue(bench: Bench, name: str, count: int, way: str) -> dict[str, float]:
    with bench.entry(name) as entry:
        bench.servers.checkpoint()
        seconds: float = entry.told("enqueue", count, _BYTES, "templated" if name == "templated" else way)["seconds"]
    return {"mails": count, "rate": count / seconds}
