"""The file: what is written is there, whole or put aside, whoever dies and whoever else writes."""

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from outbox import journal as journal_module
from outbox.database import create_engine
from outbox.journal import Journal
from outbox.settlement import Attempt, Settlement
from outbox.states import DeadReason, Outcome, Stage, Status
from tests import rows


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "var" / "deep" / "journal.jsonl")


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[sa.Engine]:
    engine = create_engine(sqlite_url)
    yield engine
    engine.dispose()


def sent(id_: int, token: str = "own") -> Settlement:
    attempt = Attempt(id_, 1, 0.25, Outcome.SENT, Stage.DOT, 250, "2.0.0 Grüße\r\n\0", "relay:25", "worker-1")
    return Settlement(id_, token, Status.SENT, counted=True, last_code=250, attempt=attempt)


DEAD = Settlement(
    7, "own", Status.DEAD, counted=True, delay=1.5, dead_reason=DeadReason.INVALID, last_code=550, last_error="5.1.1\n",
    relay="relay:25", suppress=True,
)  # fmt: skip


@pytest.mark.parametrize("settlement", [sent(1), DEAD])
def test_a_line_reads_as_it_was_written(settlement: Settlement) -> None:
    line = journal_module._line(settlement)
    assert line.count(b"\n") == 1
    assert line.isascii()
    read = journal_module._settlement(line)
    assert read == settlement
    assert [type(value) for value in read] == [type(value) for value in settlement]
    assert [type(value) for value in read.attempt or ()] == [type(value) for value in settlement.attempt or ()]


def test_it_makes_its_folder_and_exists_when_something_is_in_it(journal: Journal, engine: sa.Engine) -> None:
    assert not journal.exists
    assert journal.append([sent(1), DEAD])
    assert journal.exists
    assert len(journal.path.read_text().splitlines()) == 2
    journal.replay(engine)
    assert not journal.exists


def test_without_a_file_there_is_nothing_to_replay(journal: Journal, engine: sa.Engine) -> None:
    assert journal.replay(engine) == 0
    assert not journal.path.exists()


def test_the_path_stays_where_it_was_when_the_process_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(Path("var/journal.jsonl"))
    monkeypatch.chdir("/")
    assert journal.append([sent(1)])
    assert (tmp_path / "var/journal.jsonl").exists()


def test_file_and_folders_are_on_the_disk_when_append_returns(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append(f"{path.name}:{path.stat().st_size > 0}")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    journal.append([sent(1)])
    assert synced == ["journal.jsonl:True", "deep:True", "var:True"]
    synced.clear()
    journal.append([sent(2)])
    assert synced == ["journal.jsonl:True"]


@pytest.mark.parametrize("torn", [b'{"id": 5, "tok', b"\0\0\0\0", b"[1]", b'{"id": 1}', b"\xff\xfe", b"null"])
def test_a_torn_line_is_put_aside_and_holds_up_no_other(
    journal: Journal, engine: sa.Engine, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = rows.leased(engine, Status.SENDING, "own", 2)
    journal.append([sent(one)])
    with journal.path.open("ab") as file:
        file.write(torn)  # no line end: its writer was killed
    journal.append([sent(two)])
    assert journal.replay(engine) == 2
    assert rows.statuses(engine, [one, two]) == ["sent", "sent"]
    assert not journal.exists
    assert journal.path.with_name("journal.jsonl.rejected").read_bytes() == torn + b"\n"
    assert "put aside" in caplog.text


def test_a_line_that_lacks_but_its_end_is_whole(journal: Journal, engine: sa.Engine) -> None:
    (id_,) = rows.leased(engine, Status.SENDING, "own")
    journal.append([sent(id_)])
    os.truncate(journal.path, journal.path.stat().st_size - 1)
    assert journal.replay(engine) == 1
    assert rows.statuses(engine, [id_]) == ["sent"]


@pytest.mark.parametrize("obstacle", ["a file for a folder", "a folder for a file"])
def test_where_nothing_can_be_written_it_says_so_and_names_the_mails(
    tmp_path: Path, obstacle: str, engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "there").touch()
    journal = Journal(tmp_path if obstacle == "a folder for a file" else tmp_path / "there" / "journal.jsonl")
    assert not journal.append([sent(4711), sent(4712)])
    (record,) = caplog.records
    assert record.levelname == "CRITICAL"
    assert "mail 4711 (sent), 4712 (sent)" in record.getMessage()
    assert journal.replay(engine) == 0  # and stops nobody


def test_a_journal_that_is_not_ours_to_read_stops_nobody(
    journal: Journal, engine: sa.Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root ran `outbox drain` here. (The tests may be root, too: to whom no file is closed.)"""
    journal.append([sent(1)])

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert journal.replay(engine) == 0
    assert journal.exists
    assert "cannot be replayed" in caplog.text


_MANY = """
import sys
from pathlib import Path
from outbox.journal import Journal
from outbox.settlement import Settlement
from outbox.states import Status
journal = Journal(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    assert journal.append([Settlement(number, "x" * (number % 3000), Status.SENT)])
"""


def test_two_processes_write_whole_lines(journal: Journal) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", _MANY, str(journal.path), str(start), str(start + 60)])
        for start in (0, 1000)
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == [*range(60), *range(1000, 1060)]
    assert all(len(line["token"]) == line["id"] % 3000 for line in lines)


def test_what_is_written_during_a_replay_is_replayed_too(journal: Journal, engine: sa.Engine) -> None:
    """And the writer does not wait for the database: the replay does not hold the lock meanwhile."""
    early, late = rows.leased(engine, Status.SENDING, "own", 2)
    journal.append([sent(early)])
    written = threading.Event()

    def write(_: sa.Connection) -> None:
        if not written.is_set():
            thread = threading.Thread(target=journal.append, args=([sent(late)],))
            thread.start()
            thread.join(30)
            assert not thread.is_alive()
            written.set()

    sa.event.listen(engine, "commit", write)
    assert journal.replay(engine) == 2
    assert written.is_set()
    assert rows.statuses(engine, [early, late]) == ["sent", "sent"]
    assert not journal.exists


def test_a_replay_that_was_overtaken_does_not_empty_what_is_new(journal: Journal, engine: sa.Engine) -> None:
    """Another process replays, empties and writes on while this one is at the database."""
    ids = rows.leased(engine, Status.SENDING, "own", 3)
    journal.append([sent(ids[0]), sent(ids[1])])
    overtaken = False

    def overtake(_: sa.Connection) -> None:
        nonlocal overtaken
        if not overtaken:
            overtaken = True
            os.truncate(journal.path, 0)
            journal.append([sent(ids[2])])

    sa.event.listen(engine, "commit", overtake)
    assert journal.replay(engine) == 3
    assert rows.statuses(engine, ids) == ["sent"] * 3
    assert not journal.exists
