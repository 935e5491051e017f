"""Signs of life, and who watches when nobody else does."""

import logging
import os
import socket
from pathlib import Path

import pytest
import sqlalchemy as sa

from outbox import heartbeats
from outbox.database import create_engine, reading
from outbox.heartbeats import EVERY_SECONDS, SILENT_AFTER, WORKER
from workers.pulse import HANGS_AFTER, WATCH_LATE_SECONDS, Process, Pulse


class Seen:
    """A pulse, and what it does. Time goes on as the test says."""

    def __init__(self, url: str, file: Path | None = None, *, told: bool = True) -> None:
        self.engine = create_engine(url)
        self.turned_ago = 0.0
        self.watched: list[float] = []
        self.alerts: list[str] = []
        self.told = told
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        process = Process(WORKER, self.name, lambda: self.turned_ago, lambda: {"active": 3})
        self.pulse = Pulse(self.engine, process, file, self._watch, self._alert)

    def _watch(self, late: float) -> None:
        self.watched.append(late)

    def _alert(self, sentence: str, *, over: bool = False) -> bool:
        self.alerts.append(f"{'Over' if over else 'Trouble'}: {sentence}")
        return self.told

    def signs(self) -> list[heartbeats.Sign]:
        with reading(self.engine) as connection:
            return list(heartbeats.signs(connection))


def test_it_says_that_the_process_lives_as_long_as_its_main_loop_turns(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "var" / "heartbeat"
    seen = Seen(database_url, file)
    seen.turned_ago = HANGS_AFTER + 1
    seen.pulse.beat()
    seen.pulse.beat()
    assert (seen.signs(), file.exists()) == ([], False)
    assert caplog.text.count("the main loop has not turned for 121 s") == 1
    seen.turned_ago = 1
    seen.pulse.beat()
    (sign,) = seen.signs()
    assert (sign.name, sign.detail["active"]) == (seen.name, 3)
    assert sign.detail["up_seconds"] < 60
    assert file.exists()
    seen.pulse.stop()
    assert (seen.signs(), file.exists()) == ([], False)
    seen.engine.dispose()


def test_it_watches_when_the_process_has_been_there_for_a_while(sqlite_url: str) -> None:
    seen = Seen(sqlite_url)
    seen.pulse.beat()
    assert seen.watched == []
    seen.pulse._began -= SILENT_AFTER
    seen.pulse.beat()
    assert seen.watched == [WATCH_LATE_SECONDS]
    seen.engine.dispose()


def test_a_database_that_is_away_is_told_of_once_and_disturbs_nothing(
    sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "workers.pulse")
    file = tmp_path / "heartbeat"
    seen = Seen(sqlite_url, file, told=False)
    with seen.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE email_heartbeats RENAME TO away"))
    seen.pulse.beat()
    assert file.exists(), "restarting the worker would not mend the database"
    assert seen.alerts == []
    seen.pulse.beat()
    seen.told = True
    seen.pulse.beat()  # nobody took it, so it is told again
    seen.pulse.beat()
    who = f"worker {seen.name}"
    assert seen.alerts == [f"Trouble: {who}: the database does not answer: no such table: email_heartbeats"] * 2
    with seen.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO email_heartbeats"))
    seen.pulse.beat()
    seen.pulse.beat()
    assert seen.alerts[2:] == [f"Over: {who}: the database answers again, and takes what it is told"]
    assert len(seen.signs()) == 1
    assert len(caplog.records) == 2
    seen.engine.dispose()


def test_a_file_that_cannot_be_written_is_said_once(
    sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen(sqlite_url, tmp_path)
    (tmp_path / "file").write_text("")
    seen.pulse._file = tmp_path / "file" / "heartbeat"
    seen.pulse.beat()
    seen.pulse.beat()
    assert caplog.text.count("cannot be written") == 1
    assert len(seen.signs()) == 1
    seen.engine.dispose()


def test_who_starts_takes_the_place_of_the_dead_of_its_host(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen(sqlite_url)
    dead, alive, elsewhere = f"{socket.gethostname()}:4194305", f"{socket.gethostname()}:1", "other:4194305"
    with seen.engine.begin() as connection:
        for name in (dead, alive, elsewhere):
            heartbeats.give(connection, WORKER, name)
    seen.pulse.beat()
    assert {sign.name for sign in seen.signs()} == {seen.name, alive, elsewhere}
    assert f"worker {dead} died without a word" in caplog.text
    seen.engine.dispose()


def test_the_thread_goes_on_whatever_happens(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heartbeats, "EVERY_SECONDS", EVERY_SECONDS / 3000)
    seen = Seen(sqlite_url)
    wrong = iter([KeyError("a fault")])

    def detail() -> dict[str, object]:
        raise next(wrong)

    seen.pulse._process = seen.pulse._process._replace(detail=detail)
    seen.pulse.start()
    assert "heartbeat: failed, and goes on" in caplog.text
    seen.pulse._process = seen.pulse._process._replace(detail=dict)
    for _ in range(1000):
        if seen.signs():
            break
    assert seen.signs()
    seen.pulse.stop()
    seen.pulse._thread.join(5)
    seen.engine.dispose()
