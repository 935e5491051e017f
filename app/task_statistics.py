"""How the Celery tasks fare: what the workers that live say of themselves, added up.

Each counts since it started, and says so twice a minute (`workers/tally.py`): what ended with a worker is not in it.
For longer, there are the metrics; for what failed for good, `dead_tasks`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from outbox.heartbeats import Sign

STEP = 1.2
"""Of durations, each this much longer than the one before: a quantile is right within a tenth."""


def statistics(workers: Iterable[Sign]) -> dict[str, dict[str, Any]]:
    """By the task's name: how often it succeeded, failed and was retried, how long it took, and when it last ran."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for sign in workers:
        for name, line in sign.detail.get("tasks", {}).items():
            lines.setdefault(name, []).append(line)
    return {name: _sum(lines[name]) for name in sorted(lines)}


def _sum(lines: list[Mapping[str, Any]]) -> dict[str, Any]:
    took: Counter[int] = Counter()
    for line in lines:
        took.update({int(step): count for step, count in line["took"].items()})
    last = max(line["last_at"] for line in lines)
    return {
        **{state: sum(line[state] for line in lines) for state in ("succeeded", "failed", "retried")},
        "seconds_p50": quantile(took, 0.5),
        "seconds_p95": quantile(took, 0.95),
        "last_at": datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds"),
    }


def quantile(took: Mapping[int, int], share: float) -> float:
    """Seconds in which that share of all was done."""
    wanted, seen = share * sum(took.values()), 0
    for step in sorted(took):
        seen += took[step]
        if seen >= wanted:
            return float(f"{STEP**step:.2g}")
    return 0.0
