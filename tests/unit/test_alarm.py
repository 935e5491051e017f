"""The alarm: once, at the earliest time."""

import threading
import time
from typing import Any

import pytest


class Bell:
    def __init__(self) -> None:
        self.rung: list[float] = []
        self._started = time.monotonic()
        self._ringing = threading.Condition()

    def __call__(self) -> None:
        with self._ringing:
            self.rung.append(time.monotonic() - self._started)
            self._ringing.notify_all()

    def wait_for(self, count: int) -> None:
        with self._ringing:
            assert self._ringing.wait_for(lambda: len(self.rung) >= count, 20)


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def alarm(bell: Bell, monkeypatch: pytest.MonkeyPatch) -> Any:
    from workers.alarm import Alarm  # noqa: PLC0415 - importing `workers` reads settings: not from a .env

    monkeypatch.setattr("workers.alarm.LEAST_SECONDS", 0.2)
    return Alarm(bell)


def test_it_rings_once_at_the_earliest_time(alarm: Any, bell: Bell) -> None:
    for seconds in (600, 0.5, 700, 0.9):
        alarm.set(seconds)
    bell.wait_for(1)
    time.sleep(0.8)
    assert len(bell.rung) == 1
    assert bell.rung[0] >= 0.5


def test_and_can_be_set_again(alarm: Any, bell: Bell) -> None:
    for count in (1, 2):
        alarm.set(0)
        bell.wait_for(count)
    assert bell.rung[0] >= 0.2
    assert bell.rung[1] >= 0.4


def test_it_can_be_stopped(alarm: Any, bell: Bell) -> None:
    alarm.set(0.3)
    alarm.stop()
    alarm.stop()
    time.sleep(0.6)
    assert bell.rung == []
