"""What a mail costs, in counts: statements and bytes. Seconds are for `benchmarks/`, where they can be compared."""

import re
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from outbox import claims, turn
from outbox.attachments import Attachment
from outbox.database import PostgreSQL
from outbox.delivery import Courier
from outbox.drain import drain
from outbox.states import Priority, Status
from tests.delivering import deliver, queue, settings_for
from tests.smtp_server import SmtpProcess, SmtpServer

MB = 1024 * 1024

MOST_COPIES = 3
"""Of a file, in its encoded form: in lines and joined while it is encoded; then kept, and in the message. A part
of one is the file itself."""


@contextmanager
def counted(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The first words of every statement, the ledger's own among them."""
    seen: list[str] = []
    take = turn.take

    def counting(*arguments: object) -> object:
        seen.append("TURN")
        return take(*arguments)  # type: ignore[arg-type]

    def note(*arguments: object) -> None:
        seen.append(" ".join(str(arguments[2]).split()[:3]))

    monkeypatch.setattr(turn, "take", counting)
    sa.event.listen(engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_statements_of_a_chunk(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of a claim and of a chunk's look-up; a begin, and a settle with its attempt, in a statement of both."""
    mails = 40
    with SmtpServer() as server:
        settings = settings_for(server, outbox_chunk=mails)
        for number in range(mails):
            queue(engine, settings, to=f"{number}@example.com")
        with counted(engine, monkeypatch) as seen:
            assert deliver(engine, settings) == {Status.SENT: mails}
    turns = seen.count("TURN")
    # Alone, a conversation's turn has the settle of one mail and the begin of the next; rarely they come one by one.
    assert mails < turns <= 1.5 * mails
    others = [words for words in seen if words != "TURN"]
    assert len(others) <= 16, others  # for all of the forty: drain, claim, load, relays, suppressions, fence, release


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_conversations_share_statements(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    mails, conversations = 160, 16
    chunks: list[tuple[list[int], str]] = []
    with SmtpServer() as server:
        settings = settings_for(server, outbox_chunk=mails // conversations)
        for number in range(mails):
            queue(engine, settings, to=f"{number}@example.com")
        drain(engine, settings, "worker-1", lambda _, ids, token: chunks.append((ids, token)))
        with counted(engine, monkeypatch) as seen, closing(Courier(engine, settings, "worker-1")) as courier:
            threads = [threading.Thread(target=courier.deliver, args=chunk) for chunk in chunks]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(server.mails) == mails
    assert seen.count("TURN") <= mails / 2


def test_bytes_of_an_attachment(engine: sa.Engine, tmp_path: Path) -> None:
    """Three mails with the same file: fetched and encoded once, and beside that no more than one message at a time."""
    size = 8 * MB
    file = Attachment("report.pdf", bytes(range(256)) * (size // 256), "application/pdf")
    with SmtpProcess(tmp_path / "accepted.jsonl") as relay:
        settings = settings_for(SmtpServer(port=relay.port))
        for number in range(3):
            queue(engine, settings, to=f"{number}@example.com", attachments=[file])
        tracemalloc.start()
        try:
            assert deliver(engine, settings) == {Status.SENT: 3}
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    encoded = size * 78 // 57
    assert peak < MOST_COPIES * encoded


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_turn_looks_its_rows_up_however_few_there_are(engine: sa.Engine) -> None:
    """PostgreSQL keeps the plan, and reads a small table as a whole: a burst must not meet a worker with that plan."""
    mails = 40
    with SmtpServer() as server:
        settings = settings_for(server, outbox_chunk=10)
        for number in range(mails):
            queue(engine, settings, to=f"{number}@example.com")
        assert deliver(engine, settings) == {Status.SENT: mails}
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW enable_seqscan")) == "on"  # the ledger's, given back
    engine.dispose()  # what a process of PostgreSQL has counted is told at its end
    assert _scans(engine) < mails


def _scans(engine: sa.Engine) -> int:
    """Of the queue as a whole, when they do not get more any more."""
    seen = -1
    while True:
        with engine.connect() as connection:
            query = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'email_queue'"
            now = int(connection.scalar(sa.text(query)))
        engine.dispose()
        if now == seen:
            return now
        seen = now
        time.sleep(0.5)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_first_that_is_due_is_found_without_the_others(engine: sa.Engine) -> None:
    """In a burst that PostgreSQL has not counted yet: it is asked at the end of each chunk."""
    with SmtpServer() as server:
        settings = settings_for(server)
        for number in range(20):
            queue(engine, settings, to=f"{number}@example.com")
    with engine.connect() as connection:
        plan = connection.scalars(sa.text(f"EXPLAIN (ANALYZE) {claims._first_due(PostgreSQL)}")).all()
    read = [int(rows) for line in plan for rows in re.findall(r"actual time=\S+ rows=(\d+)", line)]
    assert 1 in read
    assert max(read) <= len(Priority)
