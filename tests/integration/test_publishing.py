"""Events reach the webhook: all, in order, signed, at least once, and in nobody's way."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import sqlalchemy as sa
import urllib3
from click.testing import CliRunner

from outbox import events, publishing, settlement
from outbox.cli import main
from outbox.database import Statement, UtcDateTime, Words, create_engine
from outbox.errors import SettingsError
from outbox.models import EmailAttempt, EmailCursor
from outbox.publishing import Published, publish
from outbox.settings import Settings
from outbox.settlement import Attempt, Settlement
from outbox.states import DeadReason, Outcome, Stage, Status
from tests import rows

KEY = b"k" * 32
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


class Receiver:
    """A program that takes events: what it was told, and what it answers."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.answer: Callable[[], int] = lambda: 204
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.answer()
                if status == 204:
                    receiver.take(dict(self.headers), body)
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Be quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,)).start()

    @property
    def url(self) -> str:
        return f"http://token@127.0.0.1:{self._server.server_port}/hook"

    def take(self, headers: dict[str, str], body: bytes) -> None:
        """As a receiver should: by the standard's own words, and no library of ours."""
        headers = {name.lower(): value for name, value in headers.items()}
        signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
        assert (
            headers["webhook-signature"] == f"v1,{base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()}"
        )
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
        message = json.loads(body)
        assert (list(message), message["type"]) == (["type", "timestamp", "data"], "email.events")
        self.ids.append(headers["webhook-id"])
        self.messages.append(message)

    @property
    def told(self) -> list[dict[str, Any]]:
        return [event for message in self.messages for event in message["data"]["events"]]

    @property
    def types(self) -> list[tuple[str, int]]:
        return [(event["type"].removeprefix("email."), event["email_id"]) for event in self.told]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def settings(receiver: Receiver) -> Settings:
    return Settings.load(outbox_event_webhook=receiver.url, outbox_event_secret=SECRET)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over is old enough."""
    monkeypatch.setattr(events, "_HORIZON", Statement(_without_margin, at=UtcDateTime))
    horizon = events.horizon

    def a_moment_later(engine: sa.Engine) -> datetime:
        time.sleep(0.002)  # SQLite's grain is a millisecond
        return horizon(engine)

    monkeypatch.setattr(events, "horizon", a_moment_later)


def _without_margin(sql: Words) -> str:
    return events._horizon(sql).replace("-5.0", "0.0")


def begin(engine: sa.Engine, settings: Settings) -> None:
    """The first look is where the telling begins."""
    assert publish(engine, settings) == Published(0)


def settle(connection: sa.Connection, id_: int, status: Status, outcome: Outcome, **more: Any) -> None:
    attempt = Attempt(id_, 1, 0.1, outcome, Stage.DOT, 250, f"said {outcome}", "mx:25", "worker-1")
    assert settlement.settle(connection, [Settlement(id_, f"t{id_}", status, attempt=attempt, **more)]) == {id_}


def lease(engine: sa.Engine, count: int) -> list[int]:
    ids = rows.add(engine, count)
    with engine.begin() as connection:
        for id_ in ids:
            connection.execute(
                sa.text(
                    "UPDATE email_queue SET status = 'sending', claim_token = :token, claimed_by = 'w', claims = 1,"
                    " lease_expires_at = next_attempt_at, relay = 'mx:25' WHERE id = :id"
                ),
                {"id": id_, "token": f"t{id_}"},
            )
    return ids


def send(engine: sa.Engine, count: int = 1) -> list[int]:
    ids = lease(engine, count)
    with engine.begin() as connection:
        for id_ in ids:
            settle(connection, id_, Status.SENT, Outcome.SENT)
    return ids


def rested(engine: sa.Engine) -> None:
    """The pause after a failure is over."""
    with engine.begin() as connection:
        state = connection.scalar(sa.select(EmailCursor.position))
        assert state is not None
        assert state["retry_at"] is not None
        connection.execute(sa.update(EmailCursor).values(position=state | {"retry_at": None}))


def test_what_became_of_mails_is_told_in_order(engine: sa.Engine, receiver: Receiver, settings: Settings) -> None:
    send(engine)
    begin(engine, settings)
    sent, later, dead, unclear, refused = lease(engine, 5)
    for id_, status, outcome, more in (
        (sent, Status.SENT, Outcome.SENT, {}),
        (later, Status.PENDING, Outcome.DEFERRED, {}),
        (dead, Status.DEAD, Outcome.DEFERRED, {"dead_reason": DeadReason.EXHAUSTED, "last_error": "dot: no"}),
        (unclear, Status.UNCERTAIN, Outcome.UNCERTAIN, {}),
        (refused, Status.DEAD, Outcome.REJECTED, {"dead_reason": DeadReason.REJECTED}),
    ):
        with engine.begin() as connection:
            settle(connection, id_, status, outcome, **more)
        time.sleep(0.003)
    assert publish(engine, settings) == Published(5)
    assert receiver.types == [
        ("sent", sent), ("deferred", later), ("dead", dead), ("uncertain", unclear), ("dead", refused),
    ]  # fmt: skip
    assert len({event["id"] for event in receiver.told}) == 5
    first, second, third, *_ = receiver.told
    assert first.items() >= {"recipient": "ann@example.com", "reply": "said sent", "priority": "normal"}.items()
    assert "dead_reason" not in second
    assert (third["dead_reason"], third["error"], third["relay"]) == ("exhausted", "dot: no", "mx:25")
    assert datetime.fromisoformat(first["timestamp"]).tzinfo is not None
    assert publish(engine, settings) == Published(0)


def test_what_tells_nothing_is_passed_over_once(engine: sa.Engine, receiver: Receiver, settings: Settings) -> None:
    begin(engine, settings)
    position = events.beginning(rows.from_now(-60))
    for status, outcome, more in (
        (Status.DEAD, Outcome.REJECTED, {"dead_reason": DeadReason.REJECTED}),
        (Status.PENDING, Outcome.DEFERRED, {}),
        (Status.SENT, Outcome.SENT, {}),
        (Status.DEAD, Outcome.REJECTED, {"dead_reason": DeadReason.REJECTED}),
    ):
        (id_,) = lease(engine, 1)
        with engine.begin() as connection:
            settle(connection, id_, status, outcome, **more)
        time.sleep(0.003)
    assert publish(engine, settings) == Published(4)
    assert publish(engine, settings) == Published(0)
    with engine.connect() as connection:
        state = connection.scalar(sa.select(EmailCursor.position))
        last = connection.scalar(sa.select(sa.func.max(EmailAttempt.finished_at)))
    assert state is not None
    assert last is not None
    assert {name: datetime.fromisoformat(reached) > last for name, (reached, *_) in state["events"].items()} == {
        "attempts": True,
        "ends": True,
    }
    one_by_one = []
    while True:
        found, position = events.read(engine, position, limit=1)
        if not found:
            break
        one_by_one += [event.id for event in found]
    assert one_by_one == [event["id"] for event in receiver.told]


def test_an_outage_loses_nothing(engine: sa.Engine, receiver: Receiver, settings: Settings) -> None:
    begin(engine, settings)
    ids = send(engine, 250)
    for status in (500, 404, 302):
        receiver.answer = lambda status=status: status  # type: ignore[misc]
        assert publish(engine, settings) == Published(0, f"the event webhook at 127.0.0.1 answered {status}")
        resting = publish(engine, settings)
        assert (resting.tried, "; tried again at" in (resting.problem or "")) == (False, True)
        rested(engine)
    assert publishing.standing(engine).failures == 3
    ids += send(engine, 3)
    receiver.answer = lambda: 204
    assert publish(engine, settings) == Published(253)
    assert [id_ for _, id_ in receiver.types] == ids
    assert [len(message["data"]["events"]) for message in receiver.messages] == [100, 100, 53]
    standing = publishing.standing(engine)
    assert (standing.failures, standing.problem, standing.waiting_since) == (0, None, None)


def test_one_that_says_nothing_is_left_alone(
    engine: sa.Engine, receiver: Receiver, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_TIMEOUT", urllib3.Timeout(connect=1, read=0.2))
    begin(engine, settings)
    send(engine)
    ended = threading.Event()
    receiver.answer = lambda: 204 if ended.wait(5) else 500
    began = time.monotonic()
    problem = publish(engine, settings).problem
    assert time.monotonic() - began < 3
    ended.set()
    assert problem == "the event webhook at 127.0.0.1 cannot be reached: ReadTimeoutError"
    nobody = Settings.load(outbox_event_webhook="http://127.0.0.1:1/", outbox_event_secret=SECRET)
    rested(engine)
    assert publish(engine, nobody).problem == "the event webhook at 127.0.0.1 cannot be reached: Connection refused"
    rested(engine)
    receiver.answer = lambda: 410
    assert publish(engine, settings).problem == "the event webhook at 127.0.0.1 answered 410"
    retry_at = publishing.standing(engine).retry_at
    assert retry_at is not None
    assert retry_at > rows.from_now(500)


def test_who_dies_before_the_cursor_moves_tells_the_same_again(
    engine: sa.Engine, receiver: Receiver, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(engine, settings)
    send(engine, 2)
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_store", _die)
        with pytest.raises(ZeroDivisionError):
            publish(engine, settings)
    assert publish(engine, settings) == Published(0, "another publisher is at it", tried=False), "the lease of the dead"
    with engine.begin() as connection:
        state = connection.scalar(sa.select(EmailCursor.position))
        assert state is not None
        past = rows.from_now(-1).isoformat()
        connection.execute(sa.update(EmailCursor).values(position=state | {"leased_until": past}))
    assert publish(engine, settings) == Published(2)
    assert receiver.ids[0] == receiver.ids[1]
    assert receiver.messages[0] == receiver.messages[1]


def _die(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError


def test_two_publishers(engine: sa.Engine, receiver: Receiver, settings: Settings) -> None:
    begin(engine, settings)
    send(engine, 150)
    asked, go_on = threading.Event(), threading.Event()

    def slow() -> int:
        asked.set()
        go_on.wait(10)
        return 204

    receiver.answer = slow
    found: list[Published] = []
    first = threading.Thread(target=lambda: found.append(publish(engine, settings)))
    first.start()
    assert asked.wait(10)
    assert publish(engine, settings) == Published(0, "another publisher is at it", tried=False)
    send(engine)  # and nobody who sends waits for it
    go_on.set()
    first.join()
    assert found == [Published(151)]
    assert len(receiver.told) == len({event["id"] for event in receiver.told}) == 151


def test_what_is_committed_late_is_told(postgresql_url: str, receiver: Receiver, settings: Settings) -> None:
    engine = create_engine(postgresql_url)
    begin(engine, settings)
    late, *others = lease(engine, 3)
    with engine.connect() as slow:
        settle(slow, late, Status.SENT, Outcome.SENT)
        time.sleep(0.01)
        with engine.begin() as connection:
            settle(connection, others[0], Status.SENT, Outcome.SENT)
        assert publish(engine, settings) == Published(0)
        slow.commit()
    assert publish(engine, settings) == Published(2)
    with engine.connect() as reader:  # it may still write
        reader.execute(sa.text("SELECT 1"))
        time.sleep(0.01)
        with engine.begin() as connection:
            settle(connection, others[1], Status.SENT, Outcome.SENT)
        assert publish(engine, settings) == Published(0)
    assert publish(engine, settings) == Published(1)
    assert [id_ for _, id_ in receiver.types] == [late, *others]
    engine.dispose()


def test_a_clock_that_was_set_back_repeats_rather_than_loses(
    engine: sa.Engine, receiver: Receiver, settings: Settings
) -> None:
    begin(engine, settings)
    (ahead,) = send(engine)
    publish(engine, settings)
    with engine.begin() as connection:
        state = connection.scalar(sa.select(EmailCursor.position))
        assert state is not None
        future = events.beginning(rows.from_now(3600))
        connection.execute(sa.update(EmailCursor).values(position=state | {"events": future}))
    publish(engine, settings)
    (now,) = send(engine)
    publish(engine, settings)
    assert [id_ for _, id_ in receiver.types] == [ahead, now]


def test_a_publisher_with_another_clock_leaves_the_receiver_alone_no_longer(
    engine: sa.Engine, receiver: Receiver, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(hours=1)

    begin(engine, settings)
    send(engine)
    receiver.answer = lambda: 500
    with monkeypatch.context() as clock:
        clock.setattr(publishing, "datetime", Ahead)
        publish(engine, settings)
    retry_at = publishing.standing(engine).retry_at
    assert retry_at is not None
    assert retry_at < rows.from_now(60)


def test_the_verb(engine: sa.Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", engine.url.render_as_string(hide_password=False))
    nobody = CliRunner().invoke(main, ["events", "--publish"])
    assert (nobody.exit_code, "OUTBOX_EVENT_WEBHOOK is empty" in nobody.stderr) == (2, True)
    monkeypatch.setenv("OUTBOX_EVENT_WEBHOOK", receiver.url)
    monkeypatch.setenv("OUTBOX_EVENT_SECRET", SECRET)
    assert CliRunner().invoke(main, ["events"]).stderr == "No events have been published from this database.\n"
    CliRunner().invoke(main, ["events", "--publish"])
    send(engine)
    receiver.answer = lambda: 500
    failed = CliRunner().invoke(main, ["events", "--publish"])
    assert (failed.exit_code, failed.stderr) == (1, "Error: the event webhook at 127.0.0.1 answered 500\n")
    shown = CliRunner().invoke(main, ["events"]).stdout
    assert "Waiting since" in shown
    assert "answered 500" in shown
    rested(engine)
    receiver.answer = lambda: 204
    assert json.loads(CliRunner().invoke(main, ["events", "--publish", "--json"]).stdout)["published"] == 1


@pytest.mark.parametrize(
    "values",
    [
        {"outbox_event_webhook": "https://x.example/"},
        {"outbox_event_webhook": "x.example", "outbox_event_secret": SECRET},
        {"outbox_event_webhook": "https://x.example/", "outbox_event_secret": "whsec_c2hvcnQ="},
        {"outbox_event_webhook": "https://x.example/", "outbox_event_secret": SECRET.removeprefix("whsec_")},
    ],
)
def test_settings_that_cannot_work(values: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="OUTBOX_EVENT_"):
        Settings.load(**values)
