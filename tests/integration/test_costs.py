"""What a mail costs, in counts: statements, pages, bytes. Seconds are for `benchmarks/`, where they can be compared."""

import json
import re
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet

from outbox import chunk, claims, turn
from outbox.attachments import Attachment
from outbox.claims import Release
from outbox.database import PostgreSQL
from outbox.delivery import Courier
from outbox.drain import drain, next_look
from outbox.states import Priority, Status
from tests import rows
from tests.delivering import claim, deliver, queue, settings_for
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
    # For all of the forty: drain, claim, load (each tells how to look rows up), relays, suppressions, fence, release.
    assert len(others) <= 19, others


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
            threads = [threading.Thread(target=courier.deliver, args=claimed) for claimed in chunks]
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
@pytest.mark.parametrize("sensitive", [False, True])
def test_a_mail_is_looked_up_however_few_there_are(engine: sa.Engine, sensitive: bool) -> None:
    """PostgreSQL keeps the plan, and reads a small table as a whole: a burst must not meet a worker with that plan."""
    mails = 40
    with SmtpServer() as server:
        settings = settings_for(server, outbox_chunk=10, outbox_encryption_keys=Fernet.generate_key().decode())
        for number in range(mails):
            queue(engine, settings, to=f"{number}@example.com", sensitive=sensitive)
        assert deliver(engine, settings) == {Status.SENT: mails}
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW enable_seqscan")) == "on"  # the ledger's ended with its connection
    assert _scans(engine) == {}


def _scans(engine: sa.Engine) -> dict[str, int]:
    """Of tables that grow, as a whole, when they do not get more any more."""
    growing = "'email_queue', 'email_contents', 'email_attempts', 'email_attachments'"
    query = f"SELECT relname, seq_scan FROM pg_stat_user_tables WHERE seq_scan > 0 AND relname IN ({growing})"
    seen = None
    while True:
        engine.dispose()  # what a process of PostgreSQL has counted is told at its end
        with engine.connect() as connection:
            now = {table.relname: table.seq_scan for table in connection.execute(sa.text(query))}
        if now == seen:
            return now
        seen = now
        time.sleep(0.5)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_first_that_is_due_is_found_without_the_others(engine: sa.Engine) -> None:
    """In a burst that PostgreSQL has not counted yet: it is asked at the end of each chunk."""
    _burst(engine, 20)
    with engine.connect() as connection:
        plan = _explain(connection, claims._first_due(PostgreSQL))
    read = [int(count) for count in re.findall(r"actual time=\S+ rows=(\d+)", plan)]
    assert 1 in read
    assert max(read) <= len(Priority)


COUNTED = {"nothing": (), "VACUUM": ("VACUUM",), "ANALYZE": ("VACUUM", "ANALYZE")}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("by", COUNTED)
def test_a_chunk_is_loaded_without_the_burst_around_it(engine: sa.Engine, by: str) -> None:
    """However PostgreSQL has counted it: autovacuum does it with VACUUM first, and knows of no column's values then."""
    mails = 10
    _burst(engine, 20_000)
    ids, token = claim(engine, mails)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for command in COUNTED[by]:
            connection.exec_driver_sql(command)
        plan = _explain(connection, chunk._rows(PostgreSQL), ids=json.dumps(ids), token=token)
    assert f"rows={mails} loops=1" in plan
    assert _pages(plan) < 10 * mails, plan


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_is_in_flight_is_counted_without_what_was(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entries of rows that have left it are read once, and passed over from then on."""
    settings = settings_for(SmtpServer(port=1))
    _burst(engine, 500)
    while (mine := claim(engine))[0]:
        with engine.begin() as connection:
            claims.release(connection, [Release(id_, mine[1], delay=60) for id_ in mine[0]])
    queue(engine, settings)
    plans: list[str] = []

    def explained(connection: sa.Connection) -> dict[Priority, int]:
        plans.append(_explain(connection, claims._in_flight(PostgreSQL)))
        return dict.fromkeys(Priority, 0)

    monkeypatch.setattr(claims, "in_flight", explained)
    for _ in range(2):
        assert next_look(engine, settings) == 0
    assert _pages(plans[1]) < 5 < _pages(plans[0]), plans


def _burst(engine: sa.Engine, mails: int) -> None:
    rows.add(engine)
    with engine.begin() as connection:
        rows.repeat(connection, "email_contents", mails, message_id="'<' || n || '@example.com>'")
        rows.repeat(connection, "email_queue", mails, content_id="n")


def _explain(connection: sa.Connection, statement: str, **parameters: object) -> str:
    return "\n".join(connection.scalars(sa.text(f"EXPLAIN (ANALYZE, BUFFERS) {statement}"), parameters))


def _pages(plan: str) -> int:
    """That the statement has read, from memory or not."""
    buffers = re.search(r"Buffers: (.*)", plan)
    assert buffers, plan
    return sum(int(pages) for pages in re.findall(r"(?:hit|read)=(\d+)", buffers[1]))
