"""The application: its pages, its sessions, and how long it waits for a broker that is away."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import sqlalchemy as sa
from flask import Flask
from kombu.exceptions import OperationalError
from redis import Redis

from app import create_app
from app.nudge import KEY
from app.queues import QUEUES
from app.settings import AppSettings
from outbox.database import SQLITE_BUSY_SECONDS
from outbox.delivery import Courier
from outbox.models import QueuedEmail
from outbox.service import EmailService
from outbox.states import DeadReason, Priority, Status
from tests import rows
from tests.rows import from_now


@pytest.fixture
def app(database_url: str, redis_url: str) -> Iterator[Flask]:
    settings = AppSettings.load(
        database_url=database_url,
        redis_url=redis_url,
        smtp_from_email="shop@example.com",
        flower_url="http://127.0.0.1:5555",
    )
    app = create_app(settings)
    yield app
    app.extensions["engine"].dispose()


def test_the_landing_page_counts_and_names_nobody(app: Flask) -> None:
    with app.extensions["sessions"].begin() as session:
        for number in range(3):
            EmailService(session, app.extensions["settings"]).queue_email(f"u{number}@secret.example", "Hi", text="Hi")
    answer = app.test_client().get("/")
    assert answer.status_code == 200
    assert _counts(answer.text)["due"] == 3
    assert "http://127.0.0.1:5555" in answer.text
    assert "Inbox" not in answer.text
    assert "secret.example" not in answer.text


def test_the_landing_page_counts_what_waits_and_what_the_day_brought(app: Flask) -> None:
    engine = app.extensions["engine"]
    rows.add(engine, 1)
    rows.add(engine, 2, next_attempt_at=from_now(3600), priority=Priority.HIGH)
    rows.leased(engine, Status.CLAIMED, "one", 3)
    rows.leased(engine, Status.SENDING, "two", 4)
    for hours, count in ((-1, 5), (-25, 100)):
        rows.add(engine, count, status=Status.SENT, sent_at=from_now(hours * 3600), finalized_at=from_now(hours * 3600))
        rows.add(engine, count + 3, status=Status.CANCELLED, finalized_at=from_now(hours * 3600))
    rows.add(engine, 6, status=Status.UNCERTAIN)
    rows.add(engine, 7, status=Status.DEAD, dead_reason=DeadReason.REJECTED, finalized_at=from_now(-90 * 86400))
    rows.add(engine, 2, status=Status.DEAD, dead_reason=DeadReason.EXPIRED, finalized_at=from_now(-60))
    text = app.test_client().get("/").text
    assert _counts(text) == {
        "due": 1, "scheduled": 2, "claimed": 3, "sending": 4, "sent": 5, "uncertain": 6, "dead": 9, "cancelled": 8,
    }  # fmt: skip
    assert "sent, last 24 hours</th>" in text
    assert "cancelled, last 24 hours</th>" in text


def test_the_landing_page_does_not_wait_for_a_writer(app: Flask) -> None:
    engine = app.extensions["engine"]
    rows.add(engine)
    with engine.begin() as connection:  # with SQLite, it has the write lock
        connection.execute(sa.update(QueuedEmail).values(category="held"))
        started = time.monotonic()
        assert _counts(app.test_client().get("/").text)["due"] == 1
        assert time.monotonic() - started < SQLITE_BUSY_SECONDS / 3


def _counts(page: str) -> dict[str, int]:
    """What the table says."""
    found = re.findall(r'<th scope="row"[^>]*>(\w+)[^<]*</th>.*?<td class="number">([\d,]+)</td>', page, re.DOTALL)
    return {name: int(count.replace(",", "")) for name, count in found}


def test_the_landing_page_says_that_there_are_no_tables(app: Flask) -> None:
    with app.extensions["engine"].begin() as connection:
        connection.execute(sa.text("ALTER TABLE email_queue RENAME TO elsewhere"))
    answer = app.test_client().get("/")
    assert answer.status_code == 503
    assert "cannot be read" in answer.text


def test_healthz_asks_nobody() -> None:
    app = create_app(AppSettings.load(database_url="postgresql://127.0.0.1:1/none", redis_url="redis://127.0.0.1:1/0"))
    assert app.test_client().get("/healthz").json == {"status": "ok"}


def test_a_commit_nudges_and_a_rollback_does_not(app: Flask, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        with app.extensions["sessions"]() as session:
            EmailService(session, app.extensions["settings"]).queue_email("ada@example.com", "Hi", text="Hi")
            session.flush()
            session.rollback()
        assert not client.exists(KEY)
        assert client.llen("celery") == 0

        for _ in range(3):
            with app.extensions["sessions"].begin() as session:
                EmailService(session, app.extensions["settings"]).queue_email("ada@example.com", "Hi", text="Hi")
        assert client.exists(KEY)
        assert client.llen("celery") == 1


def test_a_stopping_worker_hands_the_drain_on(app: Flask, redis_url: str) -> None:
    from workers.outbox_tasks import drain  # noqa: PLC0415 - importing `workers` reads settings: not from a .env

    courier = app.extensions["courier"] = Courier(app.extensions["engine"], app.extensions["settings"], "worker-1")
    courier.stop()
    with app.extensions["sessions"].begin() as session:
        EmailService(session, app.extensions["settings"]).queue_email("ada@example.com", "Hi", text="Hi")
    with Redis.from_url(redis_url) as client:
        assert client.lpop("celery")  # the commit's, which came to us
        with app.app_context():
            drain.run()
        assert client.llen("celery") == 1  # for another worker
        assert client.exists(KEY)
    courier.close()
    with app.extensions["sessions"]() as session:
        assert session.scalars(sa.select(QueuedEmail.status)).all() == ["pending"]


def test_celery_is_configured_for_mail(app: Flask) -> None:
    conf = app.extensions["celery"].conf
    assert conf.task_acks_late
    assert conf.worker_prefetch_multiplier == 1
    assert conf.accept_content == ["json"]
    assert conf.worker_pool == "threads"
    assert tuple(queue.name for queue in conf.task_queues) == QUEUES


@pytest.mark.parametrize("kind", ["refused", "black hole", "silent"])
@pytest.mark.parametrize("options", [{"ignore_result": True}, {}], ids=["without result", "with result"])
def test_publishing_without_a_broker_fails_fast(kind: str, options: dict[str, bool]) -> None:
    with ExitStack() as stack:
        app = create_app(AppSettings.load(redis_url=f"redis://127.0.0.1:{_dead_port(kind, stack)}/0"))
        send = app.extensions["celery"].send_task
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises((OperationalError, RuntimeError)):
                send("outbox.drain", **options)
            assert time.monotonic() - started < 2  # 0.4 on a quiet machine, 1.2 were seen on a busy one


def test_without_redis_queueing_is_as_quick_and_the_mail_is_there(database_url: str) -> None:
    with ExitStack() as stack:
        app = create_app(
            AppSettings.load(
                database_url=database_url,
                redis_url=f"redis://127.0.0.1:{_dead_port('black hole', stack)}/0",
                smtp_from_email="shop@example.com",
            )
        )
        started = time.monotonic()
        for _ in range(20):
            with app.extensions["sessions"].begin() as session:
                EmailService(session, app.extensions["settings"]).queue_email("ada@example.com", "Hi", text="Hi")
        assert time.monotonic() - started < 1
        with app.extensions["sessions"]() as session:
            assert session.scalar(sa.select(sa.func.count()).select_from(QueuedEmail)) == 20
        app.extensions["engine"].dispose()


def _dead_port(kind: str, stack: ExitStack) -> int:
    server = stack.enter_context(socket.socket())
    server.bind(("127.0.0.1", 0))
    port: int = server.getsockname()[1]
    if kind == "silent":
        server.listen(20)  # the kernel takes the connections, nobody reads them
    elif kind == "black hole":
        server.listen(0)
        for _ in range(2):  # its queue is full: further connections are dropped without a word
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
    return port  # bound and not listening: refused
