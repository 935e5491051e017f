"""What tasks came to, counted by their workers and added up."""

from collections import Counter
from types import SimpleNamespace

import pytest

from app.task_statistics import quantile, statistics
from outbox.heartbeats import WORKER, Sign
from workers.tally import Tally


def test_workers_add_up() -> None:
    now = 0.0
    first, second = Tally(lambda: 1000.0, lambda: now), Tally(lambda: 2000.0, lambda: now)
    for tally, seconds, state in (
        (first, 0.1, "SUCCESS"),
        (first, 0.1, "SUCCESS"),
        (second, 0.1, "RETRY"),
        (second, 9.0, "FAILURE"),
        (second, 5.0, "REJECTED"),
    ):
        tally.began("id")
        now += seconds
        tally.ended("id", SimpleNamespace(name="workers.report"), state)
    signs = [Sign(str(n), WORKER, 1, {"tasks": tally.counts()}) for n, tally in enumerate((first, second))]
    found = statistics([*signs, Sign("old", WORKER, 1, {})])
    line = found.pop("workers.report")
    assert found == {}
    assert (line["succeeded"], line["failed"], line["retried"]) == (2, 1, 1)
    assert line["seconds_p50"] == pytest.approx(0.1, rel=0.1)
    assert line["seconds_p95"] == pytest.approx(9, rel=0.1)
    assert line["last_at"] == "1970-01-01T00:33:20+00:00"


def test_what_is_kept_is_bounded() -> None:
    tally = Tally()
    for number in range(500):
        tally.ended(str(number), SimpleNamespace(name=f"task{number}"), "SUCCESS")
    assert len(tally.counts()) == 200
    assert tally.counts()["task0"]["took"] == {"-38": 1}, "no task takes less than a millisecond"


def test_a_quantile_of_nothing_is_nothing() -> None:
    assert quantile(Counter(), 0.5) == 0
