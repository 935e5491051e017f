"""A relay says 250 and the database is away: nothing is forgotten, nothing is sent twice, whoever dies next."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from outbox import ledger as ledger_module
from outbox.claims import Begin, Release
from outbox.database import create_engine
from outbox.errors import LeaseLost, NotRecorded
from outbox.journal import Journal
from outbox.ledger import Ledger
from outbox.models import QueuedEmail
from outbox.reaper import reap
from outbox.settings import Settings
from outbox.settlement import Attempt, Settlement, settle, settle_late
from outbox.states import DeadReason, Outcome, Stage, Status
from tests import rows
from tests.rows import from_now
from tests.smtp_script import Event
from tests.smtp_server import SmtpServer
from tests.tcp_proxy import Proxy, proxy_to

RELAY = "relay:25"


@pytest.fixture
def journal() -> Journal:
    """Where the settings have it, in the test's own folder."""
    return Journal(Settings.load().outbox_journal)


@pytest.fixture
def distant_url(direct: sa.Engine, proxy: Proxy) -> str:
    return direct.url.set(port=proxy.port).render_as_string(hide_password=False)


@pytest.fixture
def distant(distant_url: str, proxy: Proxy) -> Iterator[sa.Engine]:
    """The database through the proxy."""
    engine = create_engine(distant_url)
    yield engine
    proxy.cut()
    engine.dispose()


def sent(id_: int, token: str = "own", number: int = 1) -> Settlement:
    attempt = Attempt(id_, number, 0.1, Outcome.SENT, Stage.DOT, 250, "2.0.0 ok", RELAY, "worker-2")
    return Settlement(id_, token, Status.SENT, counted=True, last_code=250, attempt=attempt)


def sending(engine: sa.Engine, count: int = 1, **columns: Any) -> list[int]:
    return rows.leased(engine, Status.SENDING, "own", count, **columns)


def lapsed(engine: sa.Engine, count: int = 1, **columns: Any) -> list[int]:
    return sending(engine, count, lease_expires_at=from_now(-1), **columns)


def change(engine: sa.Engine, id_: int, **columns: Any) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(QueuedEmail).where(QueuedEmail.id == id_).values(**columns))


def no_ledger_runs() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name == "outbox-ledger"]


def uncertain(connection: sa.Connection, id_: int) -> None:
    rows.add_attempt(connection, id_, 1, Outcome.UNCERTAIN)


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestLate:
    """The reaper was faster."""

    @pytest.mark.parametrize("policy", ["retry", "hold"])
    def test_a_row_that_nobody_has_claimed_since_is_sent(
        self, engine: sa.Engine, journal: Journal, policy: str
    ) -> None:
        (id_,) = lapsed(engine, on_uncertain=policy)
        assert reap(engine, Settings.load()) == 1
        assert rows.statuses(engine, [id_]) == ["pending" if policy == "retry" else "uncertain"]
        journal.append([sent(id_)])
        assert journal.replay(engine) == 1
        row = rows.row(engine, id_)
        assert (row.status, row.attempts, row.claims, row.relay) == ("sent", 1, 1, None)
        assert (row.last_code, row.last_error) == (250, None)
        assert from_now(-30) < row.sent_at <= from_now(1)
        assert row.finalized_at == row.sent_at
        (line,) = rows.attempts(engine)
        assert (line.number, line.outcome, line.stage, line.code, line.reply) == (1, "sent", "dot", 250, "2.0.0 ok")

    def test_nor_when_it_was_claimed_and_handed_back_untried(self, engine: sa.Engine, journal: Journal) -> None:
        (id_,) = lapsed(engine)
        reap(engine, Settings.load())
        change(engine, id_, waiting_for="the rate of example.com")
        journal.append([sent(id_)])
        assert journal.replay(engine) == 1
        row = rows.row(engine, id_)
        assert (row.status, row.waiting_for) == ("sent", None)

    @pytest.mark.parametrize("status", [Status.CLAIMED, Status.SENDING])
    def test_a_row_in_other_hands_stays_there(
        self, engine: sa.Engine, journal: Journal, status: Status, caplog: pytest.LogCaptureFixture
    ) -> None:
        (id_,) = rows.leased(engine, status, "theirs", claims=2)
        with engine.begin() as connection:
            uncertain(connection, id_)
        before = rows.row(engine, id_), rows.attempts(engine)
        journal.append([sent(id_)])
        assert journal.replay(engine) == 0
        assert (rows.row(engine, id_), rows.attempts(engine)) == before
        assert f"mail {id_} (sent) is in other hands" in caplog.text
        assert not journal.exists

    def test_a_row_that_was_tried_again_keeps_what_came_of_it(self, engine: sa.Engine, journal: Journal) -> None:
        (id_,) = rows.add(engine, claims=2, attempts=2)
        with engine.begin() as connection:
            uncertain(connection, id_)
            rows.add_attempt(connection, id_, 2, Outcome.DEFERRED)
        journal.append([sent(id_)])
        assert journal.replay(engine) == 0
        assert rows.statuses(engine, [id_]) == ["pending"]
        assert [line.outcome for line in rows.attempts(engine)] == ["uncertain", "deferred"]

    def test_a_person_who_asked_for_it_again_is_spared_the_second_copy(
        self, engine: sa.Engine, journal: Journal
    ) -> None:
        (id_,) = lapsed(engine, on_uncertain="hold")
        reap(engine, Settings.load())
        change(engine, id_, status=Status.PENDING, attempts=0, relay=None, next_attempt_at=from_now(-1))
        journal.append([sent(id_)])
        assert journal.replay(engine) == 1
        assert rows.statuses(engine, [id_]) == ["sent"]

    def test_a_person_who_buried_it_is_not_overruled(self, engine: sa.Engine, journal: Journal) -> None:
        (id_,) = lapsed(engine, on_uncertain="hold")
        reap(engine, Settings.load())
        change(engine, id_, status=Status.DEAD, dead_reason=DeadReason.REJECTED, finalized_at=from_now(0))
        journal.append([sent(id_)])
        assert journal.replay(engine) == 0
        assert rows.statuses(engine, [id_]) == ["dead"]

    @pytest.mark.parametrize("attempt", [None, Outcome.DEFERRED, "another relay"])
    def test_a_line_of_another_database_convinces_nobody(
        self, engine: sa.Engine, journal: Journal, attempt: Outcome | str | None
    ) -> None:
        """Same id, same number; but nobody called this conversation uncertain."""
        (id_,) = rows.add(engine, claims=1)
        if attempt is not None:
            with engine.begin() as connection:
                rows.add_attempt(
                    connection, id_, 1, Outcome.UNCERTAIN if attempt == "another relay" else Outcome(attempt)
                )
        line = sent(id_)
        if attempt == "another relay":
            assert line.attempt is not None
            line = line._replace(attempt=line.attempt._replace(relay="other:25"))
        journal.append([line])
        assert journal.replay(engine) == 0
        assert rows.statuses(engine, [id_]) == ["pending"]

    def test_a_line_that_was_recorded_after_all_is_a_line_without_effect(
        self, engine: sa.Engine, journal: Journal
    ) -> None:
        (id_,) = sending(engine)
        journal.append([sent(id_)])
        with engine.begin() as connection:
            settle(connection, [sent(id_)])
        before = rows.row(engine, id_), rows.attempts(engine)
        assert journal.replay(engine) == 1, "on record it is"
        assert (rows.row(engine, id_), rows.attempts(engine)) == before

    def test_only_a_sent_mail_can_be_late(self, engine: sa.Engine, journal: Journal) -> None:
        (id_,) = lapsed(engine)
        reap(engine, Settings.load())
        deferred = sent(id_)._replace(status=Status.PENDING)
        with engine.begin() as connection:
            assert settle_late(connection, [deferred]) == set()
        before = rows.row(engine, id_)
        journal.append([deferred])
        assert journal.replay(engine) == 0
        assert rows.row(engine, id_) == before

    def test_many_at_once(self, engine: sa.Engine) -> None:
        ids = lapsed(engine, 20)
        reap(engine, Settings.load())
        with engine.begin() as connection:
            assert settle_late(connection, [sent(id_) for id_ in ids]) == set(ids)
        assert set(rows.statuses(engine, ids)) == {"sent"}
        assert [line.outcome for line in rows.attempts(engine)] == ["sent"] * 20

    def test_a_worker_that_was_stopped_for_longer_than_its_lease_says_what_it_knows(
        self, engine: sa.Engine, journal: Journal
    ) -> None:
        (id_,) = lapsed(engine)
        reap(engine, Settings.load())
        with closing(Ledger(engine, 30, journal)) as ledger:
            assert ledger.settle(sent(id_))
        assert rows.statuses(engine, [id_]) == ["sent"]
        assert not journal.exists


class TestReplay:
    def test_what_the_database_refuses_is_put_aside(
        self, engine: sa.Engine, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        one, spoilt, impossible, two = sending(engine, 4)
        with engine.begin() as connection:
            rows.add_attempt(connection, spoilt, 1, Outcome.DEFERRED)
        no_reason = Settlement(impossible, "own", Status.DEAD)
        journal.append([sent(one), sent(spoilt), no_reason, sent(two)])
        assert journal.replay(engine) == 2
        assert rows.statuses(engine, [one, spoilt, impossible, two]) == ["sent", "sending", "sending", "sent"]
        aside = journal.path.with_name(f"{journal.path.name}.rejected").read_text().splitlines()
        assert len(aside) == 2
        assert f'"id": {spoilt}, ' in aside[0]
        assert not journal.exists
        assert caplog.text.count("put aside") == 2

    def test_without_its_tables_a_database_refuses_nothing(self, direct: sa.Engine, journal: Journal) -> None:
        """It is the wrong one, or not migrated: the lines wait."""
        journal.append([sent(1)])
        with direct.begin() as connection:
            connection.execute(sa.text("ALTER TABLE email_queue RENAME TO elsewhere"))
        with pytest.raises(sa.exc.ProgrammingError):
            journal.replay(direct)
        assert journal.exists

    def test_nothing_is_reaped_as_long_as_it_cannot_be_replayed(
        self, direct: sa.Engine, distant: sa.Engine, proxy: Proxy, journal: Journal
    ) -> None:
        known, unknown = lapsed(direct, 2)
        journal.append([sent(known)])
        content = journal.path.read_bytes()
        proxy.refuse()
        with pytest.raises(sa.exc.OperationalError):
            reap(distant, Settings.load())
        assert journal.path.read_bytes() == content
        assert rows.statuses(direct, [known, unknown]) == ["sending", "sending"]
        proxy.restore()
        assert reap(distant, Settings.load()) == 1
        assert rows.statuses(direct, [known, unknown]) == ["sent", "pending"]
        assert not journal.exists

    def test_two_processes_append_and_replay_at_once(self, engine: sa.Engine, journal: Journal) -> None:
        """Each line reaches the database, once; none is in the way of another."""
        ids = sending(engine, 80)
        url = engine.url.render_as_string(hide_password=False)
        processes = [
            subprocess.Popen([sys.executable, "-c", _APPEND_AND_REPLAY, url, *map(str, ids[start::2])])
            for start in (0, 1)
        ]
        assert [process.wait(60) for process in processes] == [0, 0]
        assert set(rows.statuses(engine, ids)) == {"sent"}
        assert len(rows.attempts(engine)) == 80
        assert not journal.exists
        assert not journal.path.with_name(f"{journal.path.name}.rejected").exists()


_APPEND_AND_REPLAY = """
import sys
from outbox.database import create_engine
from outbox.journal import Journal
from outbox.settings import Settings
from outbox.settlement import Attempt, Settlement
from outbox.states import Outcome, Stage, Status

engine, journal = create_engine(sys.argv[1]), Journal(Settings.load().outbox_journal)
for number, id_ in enumerate(map(int, sys.argv[2:])):
    attempt = Attempt(id_, 1, 0.1, Outcome.SENT, Stage.DOT, 250, "ok", "relay:25", "worker-2")
    assert journal.append([Settlement(id_, "own", Status.SENT, counted=True, attempt=attempt)])
    if number % 3 == 2:
        journal.replay(engine)
journal.replay(engine)
"""


class TestLedger:
    @pytest.fixture
    def pool(self) -> Iterator[ThreadPoolExecutor]:
        """Conversations."""
        with ThreadPoolExecutor(8) as pool:
            yield pool

    def test_answers_are_journaled_at_once_and_once(
        self, direct: sa.Engine, distant: sa.Engine, proxy: Proxy, journal: Journal, pool: ThreadPoolExecutor
    ) -> None:
        ids, (buried, handed, begun) = sending(direct, 5), rows.leased(direct, Status.CLAIMED, "chunk", 3)
        with closing(Ledger(distant, 30, journal)) as ledger:
            ledger.settle(sent(0))
            proxy.refuse()
            settled = [pool.submit(ledger.settle, sent(id_)) for id_ in ids]
            no_answer = Settlement(buried, "chunk", Status.DEAD, dead_reason=DeadReason.EXPIRED)
            others: list[Future[Any]] = [
                pool.submit(ledger.settle, no_answer),
                pool.submit(ledger.release, [Release(handed, "chunk")]),
            ]
            with suppress(LeaseLost):
                ledger.begin(Begin(begun, "chunk", "other"))()
            wait_until(lambda: journal.exists and len(journal.path.read_bytes().splitlines()) == 5)
            time.sleep(1.5)  # some tries
            assert len(journal.path.read_bytes().splitlines()) == 5
            assert not any(future.done() for future in [*settled, *others])
            proxy.restore()
            assert all(future.result(30) for future in settled)
            for future in others:
                future.result(30)
        assert rows.statuses(direct, [*ids, buried, handed]) == ["sent"] * 5 + ["dead", "pending"]
        before = [rows.row(direct, id_) for id_ in ids], rows.attempts(direct)
        assert journal.replay(direct) == 5
        assert ([rows.row(direct, id_) for id_ in ids], rows.attempts(direct)) == before

    def test_a_replay_by_another_process_is_no_surprise(
        self, direct: sa.Engine, distant: sa.Engine, proxy: Proxy, journal: Journal, pool: ThreadPoolExecutor
    ) -> None:
        (id_,) = sending(direct)
        with closing(Ledger(distant, 30, journal)) as ledger:
            proxy.refuse()
            settled = pool.submit(ledger.settle, sent(id_))
            wait_until(lambda: journal.exists)
            assert journal.replay(direct) == 1
            proxy.restore()
            assert settled.result(30), "it is on record"
        assert len(rows.attempts(direct)) == 1

    @pytest.mark.parametrize("trouble", ["refuse", "hang"])
    def test_when_the_lease_is_over_the_journal_has_it(
        self, direct: sa.Engine, distant: sa.Engine, proxy: Proxy, journal: Journal, trouble: str
    ) -> None:
        (id_,) = sending(direct)
        ledger = Ledger(distant, 1, journal)
        ledger.settle(sent(0))
        getattr(proxy, trouble)()
        with pytest.raises(NotRecorded, match=f"mail {id_}: .* the journal has it, {journal.path}"):
            ledger.settle(sent(id_))
        proxy.restore()
        ledger.close()
        wait_until(no_ledger_runs)
        assert journal.replay(direct) == 1
        assert rows.statuses(direct, [id_]) == ["sent"]

    def test_a_database_that_hangs_is_noticed_long_before_the_lease_is_over(
        self, *, direct: sa.Engine, distant: sa.Engine, proxy: Proxy, journal: Journal, pool: ThreadPoolExecutor,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(ledger_module, "SLOW", 0.5)
        (id_,) = sending(direct)
        with closing(Ledger(distant, 60, journal)) as ledger:
            ledger.settle(sent(0))
            proxy.hang()
            settled = pool.submit(ledger.settle, sent(id_))
            wait_until(lambda: journal.exists, 10)
            assert not settled.done()
            proxy.restore()
            assert settled.result(30)
        assert len(journal.path.read_bytes().splitlines()) == 1

    def test_where_there_is_no_journal_everything_else_is_as_before(
        self, *, direct: sa.Engine, distant: sa.Engine, proxy: Proxy, pool: ThreadPoolExecutor, tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        one, two = sending(direct, 2)
        (tmp_path / "file").touch()
        journal = Journal(tmp_path / "file" / "journal.jsonl")
        with closing(Ledger(distant, 30, journal)) as ledger:
            proxy.refuse()
            settled = pool.submit(ledger.settle, sent(one))
            time.sleep(1)
            proxy.restore()
            assert settled.result(30)
        with closing(Ledger(distant, 0.5, journal)) as ledger:
            proxy.refuse()
            with pytest.raises(NotRecorded, match="the reaper will find the row"):
                ledger.settle(sent(two))
        critical = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
        assert len(critical) == 2
        assert f"mail {one} (sent)" in critical[0]

    @pytest.mark.parametrize("trouble", ["refuse", "hang"])
    def test_in_a_hurry_nobody_waits_for_the_lease(
        self, *, direct: sa.Engine, distant: sa.Engine, proxy: Proxy, journal: Journal, pool: ThreadPoolExecutor,
        trouble: str, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(ledger_module, "LAST_PATIENCE", 1.5)
        early, late = sending(direct, 2)
        (handed,) = rows.leased(direct, Status.CLAIMED, "chunk")
        ledger = Ledger(distant, 600, journal)
        ledger.settle(sent(0))
        getattr(proxy, trouble)()
        first = pool.submit(ledger.settle, sent(early))
        released = pool.submit(ledger.release, [Release(handed, "chunk")])
        time.sleep(1.2)
        started = time.monotonic()
        ledger.hurry()
        time.sleep(0.3)
        assert not first.done(), "it may still come back"
        waiting: list[Future[Any]] = [first, released]
        for future in waiting:
            with pytest.raises(NotRecorded):
                future.result(30)
        with pytest.raises(NotRecorded):
            ledger.settle(sent(late))
        ledger.close()
        assert time.monotonic() - started < 1.5 + 2 + 2 + 2
        proxy.restore()
        wait_until(no_ledger_runs)
        assert journal.replay(direct) == 2
        assert rows.statuses(direct, [early, late]) == ["sent", "sent"]

    def test_in_a_hurry_a_database_that_is_back_in_time_gets_its_lines(
        self, direct: sa.Engine, distant: sa.Engine, proxy: Proxy, journal: Journal, pool: ThreadPoolExecutor
    ) -> None:
        (id_,) = sending(direct)
        ledger = Ledger(distant, 600, journal)
        proxy.refuse()
        settled = pool.submit(ledger.settle, sent(id_))
        wait_until(lambda: journal.exists)
        ledger.hurry()
        time.sleep(1)
        proxy.restore()
        assert settled.result(30)
        ledger.close()
        assert rows.statuses(direct, [id_]) == ["sent"]

    def test_ctrl_c_leaves_at_once_and_leaves_a_line(
        self, direct: sa.Engine, distant: sa.Engine, proxy: Proxy, journal: Journal, request: pytest.FixtureRequest
    ) -> None:
        """The database hangs, and nobody waits for the ledger's thread, which is a daemon."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
        (id_,) = sending(direct)
        ledger = Ledger(distant, 600, journal)
        ledger.settle(sent(0))
        proxy.hang()
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            ledger.settle(sent(id_))
        assert f'"id": {id_}, ' in journal.path.read_text()
        proxy.restore()
        ledger.close()


class Outage:
    """A database that goes away when it is told to, and what to write into `DATABASE_URL` to be in its hands."""

    def __init__(
        self, url: str, go: Callable[[], object], end: Callable[[], object], *, is_refusal: bool = False
    ) -> None:
        self.url, self.go, self.end, self.is_refusal = url, go, end, is_refusal


@pytest.fixture(params=["sqlite is locked", "postgresql refuses", "postgresql hangs"])
def outage(request: pytest.FixtureRequest) -> Iterator[Outage]:
    database, _, how = request.param.partition(" ")
    url: str = request.getfixturevalue(f"{database}_url")
    if database == "sqlite":
        with closing(sqlite3.connect(sa.make_url(url).database or "", check_same_thread=False)) as other:
            other.isolation_level = None
            yield Outage(url, partial(other.execute, "BEGIN IMMEDIATE"), other.rollback)
        return
    parsed = sa.make_url(url)
    assert parsed.port is not None
    with proxy_to(parsed.port) as proxy:
        distant = parsed.set(port=proxy.port).render_as_string(hide_password=False)
        is_refusal = how == "refuses"

        def end() -> None:
            proxy.cut()  # what hung on its way is lost: it would be done, late
            proxy.restore()

        yield Outage(distant, proxy.refuse if is_refusal else proxy.hang, end, is_refusal=is_refusal)


_IMPATIENT = "from outbox import ledger; from outbox.cli import main; ledger.LAST_PATIENCE = 1; main()"


class Drain:
    """`outbox drain` with one mail in hand: its dot has arrived, the database has gone, the relay says 250."""

    def __init__(self, outage: Outage) -> None:
        self.outage = outage
        # It waits for as long as it really does in one of the outages; in the others, less will do.
        self.command = ["-m", "outbox"] if outage.is_refusal else ["-c", _IMPATIENT]
        self.engine = create_engine(outage.url)
        (self.id,) = rows.add(self.engine)
        self.engine.dispose()
        self.relay = SmtpServer(self._script)
        self.process: subprocess.Popen[str] | None = None

    def _script(self, event: Event) -> None:
        if event.verb == "DOT":
            self.outage.go()

    def start(self) -> subprocess.Popen[str]:
        settings = {"DATABASE_URL": self.outage.url, "SMTP_HOST": self.relay.host, "SMTP_PORT": str(self.relay.port)}
        return subprocess.Popen(
            [sys.executable, *self.command, "drain"],
            env=os.environ | settings,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def end_outage_and_lease(self) -> None:
        self.outage.end()
        change(self.engine, self.id, lease_expires_at=from_now(-1))

    def drain_again(self) -> None:
        again = self.start()
        said, _ = again.communicate(timeout=60)
        assert again.returncode == 0, said


@pytest.fixture
def drain(outage: Outage, journal: Journal) -> Iterator[Drain]:
    drain = Drain(outage)
    with drain.relay:
        process = drain.process = drain.start()
        try:
            wait_until(lambda: journal.exists)
            yield drain
        finally:
            process.kill()
            print(process.communicate()[0])  # noqa: T201 - pytest shows it
            drain.engine.dispose()


class TestProcess:
    """Whatever the worker dies of, the next one on this host knows that the mail was sent."""

    def test_killed_during_the_outage(self, drain: Drain, journal: Journal) -> None:
        assert drain.process is not None
        drain.process.kill()
        drain.process.wait()
        drain.end_outage_and_lease()
        assert rows.statuses(drain.engine, [drain.id]) == ["sending"], "or this proves nothing"
        drain.drain_again()
        row = rows.row(drain.engine, drain.id)
        assert (row.status, row.attempts) == ("sent", 1)
        assert [(line.outcome, line.code) for line in rows.attempts(drain.engine)] == [("sent", 250)]
        assert len(drain.relay.mails) == 1
        assert not journal.exists

    def test_stopped_during_the_outage(self, drain: Drain) -> None:
        """The lease is 15 minutes; a supervisor waits for some 10 to 90 seconds before it kills."""
        assert drain.process is not None
        started = time.monotonic()
        drain.process.terminate()
        drain.process.wait(60)
        assert time.monotonic() - started < 9 + 4  # for a busy machine
        drain.end_outage_and_lease()
        drain.drain_again()
        assert rows.statuses(drain.engine, [drain.id]) == ["sent"]
        assert len(drain.relay.mails) == 1

    def test_alive_when_it_is_over(self, drain: Drain, journal: Journal) -> None:
        assert drain.process is not None
        drain.outage.end()
        assert drain.process.wait(60) == 0
        assert rows.statuses(drain.engine, [drain.id]) == ["sent"]
        drain.drain_again()
        assert not journal.exists
        assert len(drain.relay.mails) == len(rows.attempts(drain.engine)) == 1
