"""Rules and dashboard speak of metrics that there are."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from prometheus_client import CollectorRegistry

from app.gauges import Gauges
from outbox import signals
from outbox.settings import Settings
from outbox.signals import Settled
from outbox.states import DeadReason, Outcome, Priority, Stage, Status
from workers import counting

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "deploy/prometheus/alerts.yml"
DASHBOARD = ROOT / "deploy/grafana/outbox.json"
DOCUMENT = ROOT / "docs/operations.md"

_NAME = re.compile(r"\boutbox_[a-z_]+\b")


def settled(outcome: Outcome | None, **further: Any) -> Settled:
    mail = Settled(
        id=1, recipient="ada@example.com", category=None, request_id=None, priority=Priority.HIGH, status=Status.SENT,
        dead_reason=None, why=None, seconds_in_queue=0.3, outcome=outcome, number=1, relay="mx:25", stage=Stage.DOT,
        code=250, reply="ok", marks=[(Stage.DOT, 1e9), (None, 1e9 + 1)],
    )  # fmt: skip
    return mail._replace(**further)


@pytest.fixture
def exported(sqlite_url: str) -> dict[str, set[str]]:
    """The name of each sample that can come, and its labels."""
    registry = CollectorRegistry()
    counts = counting.Counts(registry)
    counts.listen()
    for outcome in Outcome:
        signals.announce(signals.sent, None, mail=settled(outcome, dead_reason=DeadReason.REJECTED))
    signals.announce(signals.drained, None, rows={Priority.LOW: 3}, seconds=0.1)
    signals.announce(signals.lease_lost, None, why="gone")
    signals.announce(signals.reaped, None, rows=2)
    engine = sa.create_engine(sqlite_url)
    registry.register(Gauges(engine, Settings.load(smtp_host="mx", database_url=sqlite_url)))
    found: dict[str, set[str]] = {"outbox_beat_tick_seconds": set(), "outbox_troubles": {"kind"}}
    for family in registry.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                found.setdefault(sample.name, set()).update(sample.labels)
    engine.dispose()
    return found


def expressions() -> Iterator[str]:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_rules_and_dashboard_ask_for_what_there_is(exported: dict[str, set[str]]) -> None:
    asked = {name for expression in expressions() for name in _NAME.findall(expression)}
    assert asked <= exported.keys()
    for expression in expressions():
        for name, selectors in re.findall(r"(outbox_[a-z_]+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*(?:=~|!=|=)", selectors)) <= exported[name] | {"le"}, expression


def test_all_of_them_are_in_the_documentation_and_no_others(exported: dict[str, set[str]]) -> None:
    chapter = DOCUMENT.read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(outbox_[a-z_]+)`", chapter, re.MULTILINE))
    assert listed == {re.sub(r"_(bucket|count|sum)$", "", name) for name in exported}


def test_promtool_agrees() -> None:
    """Where there is one: Debian's package `prometheus` has it. CI need not fetch 100 MB for it."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool")
    for command in (["check", "rules", RULES.name], ["test", "rules", "alerts_test.yml"]):
        subprocess.run([promtool, *command], cwd=RULES.parent, check=True, capture_output=True)
