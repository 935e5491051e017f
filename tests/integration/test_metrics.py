"""`/metrics`: who may read it, what it says, and that it says so for all processes, the dead among them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError

from app import gauges
from app.settings import AppSettings
from outbox.errors import SettingsError
from outbox.states import Priority
from tests import rows, scenes
from tests.application import World

TOKEN = "scrape-me-0123456789"

WORKERS = """
import os, signal, sys, time
from pathlib import Path
from outbox import signals
from outbox.states import Outcome
from workers import counting
from tests.unit.test_deploy_metrics import settled

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for mails in sys.stdin:
    if not os.fork():
        assert counting.start(Path(sys.argv[1]))
        for _ in range(int(mails)):
            signals.announce(signals.sent, None, mail=settled(Outcome.SENT))
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
"""
"""A process for each line that it reads, which counts so many mails. What they import takes a second."""


def scrape(client: FlaskClient, token: str = TOKEN) -> dict[str, float]:
    """The samples, named as they are spelled."""
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.fixture
def client(sqlite_world: World, tmp_path: Path) -> FlaskClient:
    settings = sqlite_world.settings.model_copy(
        update=AppSettings.load(metrics_token=TOKEN, metrics_dir=tmp_path / "metrics").model_dump(
            include={"metrics_token", "metrics_dir"}
        )
    )
    sqlite_world.app.extensions["settings"] = settings
    return sqlite_world.client()


def test_who_may_read_it(sqlite_world: World, client: FlaskClient) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = client.get("/metrics", headers={"Accept": "text/plain"} | headers)
        assert (answer.status_code, answer.is_json) == (401, True)
        assert "outbox_" not in answer.text
    assert sqlite_world.client(sqlite_world.user()).get("/metrics").status_code == 403
    assert sqlite_world.client(sqlite_world.admin()).get("/metrics").status_code == 200
    assert scrape(client)["outbox_database_up"] == 1
    openmetrics = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/openmetrics-text; version=1.0.0"}
    assert client.get("/metrics", headers=openmetrics).text.endswith("# EOF\n")


def test_without_a_token_there_is_none_to_guess(sqlite_world: World) -> None:
    answer = sqlite_world.client().get("/metrics", headers={"Authorization": "Bearer "})
    assert answer.status_code == 401
    with pytest.raises(SettingsError, match="METRICS_TOKEN"):
        AppSettings.load(metrics_token="short")


def test_the_gauges_of_a_burning_queue(sqlite_world: World, client: FlaskClient) -> None:
    relay = sqlite_world.settings.endpoints[0].name
    scenes.burning(sqlite_world.engine, relay)
    rows.add(sqlite_world.engine, 3, priority=Priority.HIGH, next_attempt_at=rows.from_now(-9000))
    found = scrape(client)
    assert found["outbox_oldest_due_seconds priority=high"] == pytest.approx(9000, abs=60)
    assert found["outbox_mails priority=high state=due"] > 50
    assert sum(found[f"outbox_mails priority={lane.label} state=uncertain"] for lane in Priority) == 9
    assert sum(value for name, value in found.items() if name.startswith("outbox_dead_mails ")) == 63
    assert found[f"outbox_relay_state relay={relay} state=open"] == 1
    assert found[f"outbox_relay_state relay={relay} state=closed"] == 0
    assert found[f"outbox_relay_latched relay={relay}"] == 1
    assert found["outbox_workers state=silent"] == 1
    assert found["outbox_beat_tick_seconds"] == pytest.approx(700, abs=60)
    assert found["outbox_troubles kind=oldest"] == found["outbox_troubles kind=relay"] == 1
    assert not [name for name in found if "@" in name], "no addresses"


def test_a_database_that_is_away_is_told(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> Any:
        raise OperationalError("SELECT", {}, Exception("no connection"))

    monkeypatch.setattr(gauges, "reading", away)
    assert scrape(client) == {"outbox_database_up": 0}


@pytest.fixture
def count(tmp_path: Path) -> Iterator[Callable[[int], int]]:
    """Have another worker count so many mails, and live on. Returns its pid."""
    arguments = [sys.executable, "-c", WORKERS, str(tmp_path / "metrics")]
    workers = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert workers.stdin is not None
    assert workers.stdout is not None
    stdin, stdout = workers.stdin, workers.stdout

    def one_more(mails: int) -> int:
        stdin.write(f"{mails}\n")
        stdin.flush()
        return int(stdout.readline())

    with workers:
        yield one_more
        os.killpg(workers.pid, signal.SIGKILL)


def killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            time.sleep(0.01)


def test_what_all_workers_count_is_added_up_and_outlives_them(
    client: FlaskClient, tmp_path: Path, count: Callable[[int], int]
) -> None:
    sent, queued = "outbox_sent_total relay=mx:25", "outbox_queue_seconds_count priority=high"
    assert sent not in scrape(client), "no worker has counted yet"
    first, second = count(15), count(25)
    assert [scrape(client)[name] for name in (sent, queued)] == [40, 40]
    killed(first)
    assert scrape(client)[sent] == 40
    third = count(2)  # folds what the dead one left
    assert [scrape(client)[name] for name in (sent, queued)] == [42, 42]
    folder = tmp_path / "metrics"
    assert len(list(folder.glob("counter_*.db"))) == 3, "two that live, and one for all who are gone"
    killed(second)
    killed(third)
    count(0)
    assert [scrape(client)[name] for name in (sent, queued)] == [42, 42]
    assert len(list(folder.iterdir())) == 6, "two files and a lock, the two of the dead, and the folder's lock"


def test_a_worker_that_may_not_write_counts_nothing_and_works(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from workers import counting  # noqa: PLC0415 - reads settings

    (tmp_path / "file").write_text("")
    assert not counting.start(tmp_path / "file" / "metrics")
    assert "nothing is counted here" in caplog.text
