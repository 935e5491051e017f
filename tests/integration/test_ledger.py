"""The process's writer, with the database slow, away, cut off, read-only, and lying about its commits."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from outbox import ledger as ledger_module
from outbox.claims import Begin, Release
from outbox.database import LIVENESS, create_engine
from outbox.errors import LeaseLost, NotRecorded
from outbox.journal import Journal
from outbox.ledger import Ledger
from outbox.settlement import Attempt, Settlement
from outbox.states import DeadReason, Outcome, Stage, Status
from tests import rows
from tests.rows import LEASE
from tests.tcp_proxy import Proxy

_TURN = b"_pg3_"
"""What psycopg calls a prepared statement. The ledger's is prepared when it is first used."""


def open_ledger(engine: sa.Engine, lease: float) -> Ledger:
    return Ledger(engine, lease, Journal(Path("journal.jsonl")))


@pytest.fixture
def ledger(engine: sa.Engine) -> Iterator[Ledger]:
    with closing(open_ledger(engine, 30)) as ledger:
        yield ledger


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Conversations."""
    with ThreadPoolExecutor(24) as pool:
        yield pool


@pytest.fixture
def distant(direct: sa.Engine, proxy: Proxy) -> Iterator[sa.Engine]:
    """The database through the proxy."""
    engine = create_engine(direct.url.set(port=proxy.port).render_as_string(hide_password=False))
    yield engine
    proxy.cut()
    engine.dispose()


class Gate:
    """Stops the ledger before a commit, so that what comes in the meantime makes the next batch."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        self.commits = 0

    def __call__(self, _: sa.Connection) -> None:
        if threading.current_thread().name == "outbox-ledger":
            self.commits += 1
            self.reached.set()
            assert self.open.wait(60)


@contextmanager
def held(engine: sa.Engine, ledger: Ledger) -> Iterator[Gate]:
    """The ledger, busy with somebody else's line until the gate is opened, at the latest by the end."""
    gate = Gate()
    sa.event.listen(engine, "commit", gate)
    wait = ledger.begin(Begin(0, "nobody's", "own"))
    assert gate.reached.wait(30)
    try:
        yield gate
    finally:
        gate.open.set()
        sa.event.remove(engine, "commit", gate)
        with suppress(LeaseLost):
            wait()


def sending(engine: sa.Engine, count: int = 1) -> list[int]:
    return rows.leased(engine, Status.SENDING, "own", count)


def claimed(engine: sa.Engine, count: int = 1) -> list[int]:
    return rows.leased(engine, Status.CLAIMED, "chunk", count)


def sent(id_: int, token: str = "own") -> Settlement:
    attempt = Attempt(id_, 1, 0.1, Outcome.SENT, Stage.DOT, 250, "2.0.0 ok", "relay:25", "worker-1")
    return Settlement(id_, token, Status.SENT, counted=True, last_code=250, attempt=attempt)


def impossible(id_: int) -> Settlement:
    """Dead without a reason: the database refuses it."""
    return Settlement(id_, "own", Status.DEAD)


def submit(pool: ThreadPoolExecutor, ledger: Ledger, *lines: Settlement) -> list[Future[bool]]:
    """Settle them at the same time, and return when all stand in the queue."""
    futures = [pool.submit(ledger.settle, line) for line in lines]
    wait_until(lambda: ledger._waiting.qsize() >= len(lines))
    return futures


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "outbox-ledger"]


class TestGroupCommit:
    def test_an_answer_means_that_it_is_durable(
        self, engine: sa.Engine, ledger: Ledger, pool: ThreadPoolExecutor
    ) -> None:
        conversations, mails = 16, 3
        ids = claimed(engine, conversations * mails)

        def converse(number: int) -> None:
            for id_ in ids[number::conversations]:
                own = f"own{id_}"
                ledger.begin(Begin(id_, "chunk", own))()
                seen = rows.row(engine, id_)
                assert (seen.status, seen.claim_token) == ("sending", own)
                assert ledger.settle(sent(id_, own))
                assert rows.row(engine, id_).status == "sent"
                assert len(rows.attempts(engine, id_)) == 1

        for future in [pool.submit(converse, number) for number in range(conversations)]:
            future.result(60)
        assert len(rows.attempts(engine)) == len(ids)

    def test_what_waits_is_committed_together(
        self, engine: sa.Engine, ledger: Ledger, pool: ThreadPoolExecutor
    ) -> None:
        begun, ended = claimed(engine, 100), sending(engine, 8)
        with held(engine, ledger) as gate:
            waits = [ledger.begin(Begin(id_, "chunk", f"own{id_}")) for id_ in begun]
            settled = [pool.submit(ledger.settle, sent(id_)) for id_ in ended]
            wait_until(lambda: ledger._waiting.qsize() == 108)
            gate.open.set()
            for wait in waits:
                wait()
            assert all(future.result(30) for future in settled)
            assert gate.commits == 2

    def test_no_batch_is_endless(self, engine: sa.Engine, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ledger_module, "LONGEST_BATCH", 10)
        ids = claimed(engine, 35)
        with held(engine, ledger) as gate:
            waits = [ledger.begin(Begin(id_, "chunk", "own")) for id_ in ids]
            gate.open.set()
            for wait in waits:
                wait()
            assert gate.commits == 1 + 4


class TestOurs:
    def test_a_row_in_other_hands_is_taken(self, engine: sa.Engine, ledger: Ledger) -> None:
        (id_,) = rows.leased(engine, Status.CLAIMED, "theirs")
        with pytest.raises(LeaseLost, match=f"mail {id_}: somebody else") as lost:
            ledger.begin(Begin(id_, "chunk", "own"))()
        assert lost.value.taken
        assert not ledger.settle(sent(id_))
        ledger.release([Release(id_, "chunk")])
        assert rows.row(engine, id_).claim_token == "theirs"

    def test_one_of_two_conversations_begins(self, engine: sa.Engine, ledger: Ledger) -> None:
        """The broker delivered a chunk twice, to the same process: the begins stand in one batch."""
        ids = claimed(engine, 20)
        with held(engine, ledger) as gate:
            both = [[ledger.begin(Begin(id_, "chunk", f"{name}{id_}")) for name in ("one", "two")] for id_ in ids]
            gate.open.set()
            for id_, (first, second) in zip(ids, both, strict=True):
                first()
                with pytest.raises(LeaseLost) as lost:
                    second()
                assert lost.value.taken
                assert rows.row(engine, id_).claim_token == f"one{id_}"

    def test_one_of_two_conversations_settles(
        self, engine: sa.Engine, ledger: Ledger, pool: ThreadPoolExecutor
    ) -> None:
        (id_,) = sending(engine)
        with held(engine, ledger) as gate:
            theirs, ours = submit(pool, ledger, sent(id_, "foreign"), sent(id_))
            gate.open.set()
            assert not theirs.result(30)
            assert ours.result(30)
        assert len(rows.attempts(engine)) == 1

    def test_begun_settled_and_released_in_one_batch(self, engine: sa.Engine, ledger: Ledger) -> None:
        """Lines for one row work in their order."""
        (id_,) = claimed(engine)
        with held(engine, ledger):
            ledger.begin(Begin(id_, "chunk", "own"))
            ledger._enter(Release(id_, "chunk"))
            ledger._enter(Release(id_, "own"))
        ledger.close()
        row = rows.row(engine, id_)
        assert (row.status, row.claims) == ("pending", 0)

    def test_a_begin_that_came_too_late_is_released(
        self, engine: sa.Engine, ledger: Ledger, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger_module, "BEGIN_PATIENCE", 0.1)
        (id_,) = claimed(engine)
        with held(engine, ledger) as gate:
            with pytest.raises(LeaseLost, match=r"no answer from the database in 0\.1 s") as lost:
                ledger.begin(Begin(id_, "chunk", "own"))()
            assert not lost.value.taken
            released = pool.submit(ledger.release, [Release(id_, "chunk"), Release(id_, "own")])
            gate.open.set()
            released.result(30)
        row = rows.row(engine, id_)
        assert (row.status, row.claims) == ("pending", 0)


class TestRefusedLines:
    def test_a_refused_line_fails_alone(self, engine: sa.Engine, ledger: Ledger, pool: ThreadPoolExecutor) -> None:
        good, (bad,), (begun,) = sending(engine, 10), sending(engine), claimed(engine)
        lines = [*map(sent, good[:5]), impossible(bad), *map(sent, good[5:])]
        with held(engine, ledger) as gate:
            futures = submit(pool, ledger, *lines)
            wait = ledger.begin(Begin(begun, "chunk", "own"))
            gate.open.set()
            wait()
            with pytest.raises(NotRecorded, match=f"mail {bad}: its settlement is not recorded, .* reaper"):
                futures.pop(5).result(30)
            assert all(future.result(30) for future in futures)
        assert rows.statuses(engine, [*good, bad, begun]) == ["sent"] * 10 + ["sending"] * 2
        assert len(rows.attempts(engine)) == 10

    def test_so_does_one_that_cannot_be_written_as_json(self, engine: sa.Engine, ledger: Ledger) -> None:
        one, two = sending(engine, 2)
        with pytest.raises(NotRecorded, match="not JSON serializable"):
            ledger.settle(sent(one)._replace(last_error=b"bytes"))  # type: ignore[arg-type]
        assert ledger.settle(sent(two))

    def test_nul_is_refused_where_text_cannot_hold_it(self, direct: sa.Engine, pool: ThreadPoolExecutor) -> None:
        one, two = sending(direct, 2)
        with closing(open_ledger(direct, 30)) as ledger, held(direct, ledger) as gate:
            bad, good = submit(pool, ledger, sent(one)._replace(last_error="a\0b"), sent(two))
            gate.open.set()
            with pytest.raises(NotRecorded):
                bad.result(30)
            assert good.result(30)

    def test_a_refused_begin_is_a_lost_lease(self, engine: sa.Engine, ledger: Ledger) -> None:
        (id_,) = claimed(engine)
        with pytest.raises(LeaseLost, match="the database failed") as lost:
            ledger.begin(Begin(id_, "chunk", b"own"))()  # type: ignore[arg-type]
        assert not lost.value.taken


class TestDatabaseAway:
    def test_begins_fail_at_once_and_ends_are_kept(
        self, direct: sa.Engine, distant: sa.Engine, proxy: Proxy, pool: ThreadPoolExecutor
    ) -> None:
        ended, (begun, later), (handed,) = sending(direct, 5), claimed(direct, 2), claimed(direct)
        with closing(open_ledger(distant, 30)) as ledger:
            ledger.settle(sent(0))  # the connection is there
            proxy.refuse()
            settled = [pool.submit(ledger.settle, sent(id_)) for id_ in ended]
            released = pool.submit(ledger.release, [Release(handed, "chunk")])
            for _ in range(3):
                started = time.monotonic()
                with pytest.raises(LeaseLost, match="the database failed") as lost:
                    ledger.begin(Begin(begun, "chunk", "own"))()
                assert not lost.value.taken
                assert time.monotonic() - started < 5
                time.sleep(0.2)
            assert not released.done()
            assert not any(future.done() for future in settled)
            assert rows.statuses(direct, ended) == ["sending"] * 5

            proxy.restore()
            assert all(future.result(30) for future in settled)
            released.result(30)
            ledger.begin(Begin(later, "chunk", "own"))()
        assert rows.statuses(direct, [*ended, begun, later, handed]) == [
            *["sent"] * 5, "claimed", "sending", "pending",
        ]  # fmt: skip
        assert len(rows.attempts(direct)) == 5

    def test_a_refused_line_among_those_that_waited(
        self, direct: sa.Engine, distant: sa.Engine, proxy: Proxy, pool: ThreadPoolExecutor
    ) -> None:
        good, (bad,) = sending(direct, 3), sending(direct)
        proxy.refuse()
        with closing(open_ledger(distant, 30)) as ledger:
            futures = [pool.submit(ledger.settle, line) for line in (*map(sent, good), impossible(bad))]
            time.sleep(0.5)
            assert not any(future.done() for future in futures)
            proxy.restore()
            with pytest.raises(NotRecorded):
                futures.pop().result(30)
            assert all(future.result(30) for future in futures)
        assert rows.statuses(direct, [*good, bad]) == ["sent", "sent", "sent", "sending"]

    def test_a_backend_that_was_terminated(self, direct: sa.Engine) -> None:
        ids, (one, two) = sending(direct, 2), claimed(direct, 2)
        with closing(open_ledger(direct, 30)) as ledger:
            assert ledger.settle(sent(ids[0]))
            terminate_others(direct)
            with pytest.raises(LeaseLost) as lost:
                ledger.begin(Begin(one, "chunk", "own"))()
            assert not lost.value.taken
            ledger.begin(Begin(two, "chunk", "own"))()
            terminate_others(direct)
            assert ledger.settle(sent(ids[1]))
        assert rows.statuses(direct, [*ids, one, two]) == ["sent", "sent", "claimed", "sending"]

    def test_a_settle_whose_commit_was_not_answered(
        self, direct: sa.Engine, distant: sa.Engine, proxy: Proxy, pool: ThreadPoolExecutor
    ) -> None:
        ids = sending(direct, 3)
        with closing(open_ledger(distant, 30)) as ledger:
            ledger.settle(sent(0))
            proxy.lose_answer_to(_TURN)
            futures = [pool.submit(ledger.settle, sent(id_)) for id_ in ids]
            assert proxy.lost.wait(30)
            assert all(future.result(30) for future in futures)
        assert rows.statuses(direct, ids) == ["sent"] * 3
        assert len(rows.attempts(direct)) == 3
        assert {rows.row(direct, id_).attempts for id_ in ids} == {1}

    def test_a_begin_whose_commit_was_not_answered(self, direct: sa.Engine, distant: sa.Engine, proxy: Proxy) -> None:
        (id_,) = claimed(direct)
        with closing(open_ledger(distant, 30)) as ledger:
            ledger.settle(sent(0))
            proxy.lose_answer_to(_TURN)
            with pytest.raises(LeaseLost) as lost:
                ledger.begin(Begin(id_, "chunk", "own"))()
            assert not lost.value.taken
            assert rows.row(direct, id_).status == "sending"  # what nobody told us
            ledger.release([Release(id_, "chunk"), Release(id_, "own")])
        row = rows.row(direct, id_)
        assert (row.status, row.claims) == ("pending", 0)

    def test_a_primary_that_became_a_standby(self, direct: sa.Engine, pool: ThreadPoolExecutor) -> None:
        (id_,) = sending(direct)
        read_only(direct, "on")
        with closing(open_ledger(direct, 30)) as ledger:
            settled = pool.submit(ledger.settle, sent(id_))
            time.sleep(0.5)
            assert not settled.done()
            read_only(direct, "off")
            assert settled.result(30)
        assert rows.statuses(direct, [id_]) == ["sent"]

    def test_another_writer_keeps_sqlite_for_itself(self, sqlite_url: str, pool: ThreadPoolExecutor) -> None:
        engine = create_engine(sqlite_url, connect_args={"timeout": 0.1})
        (ended,), (begun,) = sending(engine), claimed(engine)
        with closing(open_ledger(engine, 30)) as ledger:
            with engine.begin():
                settled = pool.submit(ledger.settle, sent(ended))
                with pytest.raises(LeaseLost, match="locked") as lost:
                    ledger.begin(Begin(begun, "chunk", "own"))()
                assert not lost.value.taken
                assert not settled.done()
            assert settled.result(30)
        assert rows.statuses(engine, [ended, begun]) == ["sent", "claimed"]
        engine.dispose()

    @pytest.mark.parametrize("trouble", ["refuse", "hang"])
    def test_it_insists_until_the_lease_is_over(
        self, direct: sa.Engine, distant: sa.Engine, proxy: Proxy, trouble: str
    ) -> None:
        (id_,) = sending(direct)
        ledger = open_ledger(distant, 1)
        ledger.settle(sent(0))
        getattr(proxy, trouble)()
        started = time.monotonic()
        with pytest.raises(NotRecorded, match="reaper"):
            ledger.settle(sent(id_))
        assert 0.9 < time.monotonic() - started < 5
        proxy.restore()
        ledger.close()
        assert threads() == []
        # Whether the database heard of it when it came back or not: the record is whole.
        assert len(rows.attempts(direct)) == (rows.statuses(direct, [id_]) == ["sent"])

    def test_close_does_not_wait_for_ever(self, direct: sa.Engine, distant: sa.Engine, proxy: Proxy) -> None:
        (id_,) = claimed(direct)
        ledger = open_ledger(distant, 0.5)
        ledger.settle(sent(0))
        proxy.hang()
        ledger.begin(Begin(id_, "chunk", "own"))
        started = time.monotonic()
        ledger.close()
        assert time.monotonic() - started < 5
        proxy.restore()
        wait_until(lambda: not threads())


def test_a_server_that_vanished_is_noticed(postgresql_url: str) -> None:
    """That libpq does what it is told cannot be seen on loopback, where every packet arrives; that it is told, can."""
    engine = create_engine(f"{postgresql_url}?connect_timeout=3")
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        told = driver.info.get_parameters()
    engine.dispose()
    assert {name: told[name] for name in LIVENESS} == {name: str(value) for name, value in LIVENESS.items()} | {
        "connect_timeout": "3"
    }


class TestTheEnd:
    def test_close_commits_what_waits(self, engine: sa.Engine) -> None:
        ids = claimed(engine, 50)
        ledger = open_ledger(engine, LEASE)
        waits = [ledger.begin(Begin(id_, "chunk", "own")) for id_ in ids]
        ledger.close()
        assert threads() == []
        assert rows.statuses(engine, ids) == ["sending"] * 50
        for wait in waits:
            wait()

    def test_without_a_line_there_is_no_thread(self, engine: sa.Engine) -> None:
        ledger = open_ledger(engine, LEASE)
        assert threads() == []
        ledger.close()
        ledger.close()

    def test_a_line_after_the_end_is_committed(self, engine: sa.Engine) -> None:
        one, two = sending(engine, 2)
        ledger = open_ledger(engine, LEASE)
        for id_ in (one, two):
            assert ledger.settle(sent(id_))
            ledger.close()
            assert threads() == []

    def test_lines_that_enter_while_it_closes_are_answered(self, engine: sa.Engine, pool: ThreadPoolExecutor) -> None:
        """In each round, four conversations and two closers race."""
        ids = claimed(engine, 80)
        for start in range(0, 80, 4):
            ledger = open_ledger(engine, LEASE)
            waits = [pool.submit(ledger.begin, Begin(id_, "chunk", "own")) for id_ in ids[start : start + 4]]
            ends = [pool.submit(ledger.close) for _ in range(2)]
            for wait in waits:
                wait.result(20)()
            for end in ends:
                end.result(20)
        wait_until(lambda: not threads())
        assert rows.statuses(engine, ids) == ["sending"] * 80

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_nobody_waits_for_a_thread_that_died(self, engine: sa.Engine, pool: ThreadPoolExecutor) -> None:
        first, *others = sending(engine, 4)
        ledger = open_ledger(engine, LEASE)
        with held(engine, ledger) as gate:
            futures = submit(pool, ledger, *map(sent, others))
            sa.event.listen(engine, "begin", die)
            gate.open.set()
            for future in futures:
                with pytest.raises(NotRecorded, match="thread ended: SystemExit"):
                    future.result(30)
            sa.event.remove(engine, "begin", die)
        assert ledger.settle(sent(first))
        ledger.close()
        assert rows.statuses(engine, [first, *others]) == ["sent", *["sending"] * 3]

    def test_ctrl_c_does_not_lose_the_line(
        self, engine: sa.Engine, ledger: Ledger, request: pytest.FixtureRequest
    ) -> None:
        # A shell starts what runs in its background with SIGINT ignored, this process perhaps, too.
        request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        (id_,) = sending(engine)
        with held(engine, ledger):
            interrupt = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
            interrupt.start()
            with pytest.raises(KeyboardInterrupt):
                ledger.settle(sent(id_))
        ledger.close()
        assert rows.statuses(engine, [id_]) == ["sent"]
        assert threads() == []


def test_a_mail_that_died_in_composing_has_no_attempt(engine: sa.Engine, ledger: Ledger) -> None:
    (id_,) = claimed(engine)
    assert ledger.settle(Settlement(id_, "chunk", Status.DEAD, dead_reason=DeadReason.INVALID, last_error="what?"))
    assert rows.row(engine, id_).dead_reason == "invalid"
    assert rows.attempts(engine) == []


def die(_: sa.Connection) -> None:
    raise SystemExit


def terminate_others(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )


def read_only(engine: sa.Engine, state: str) -> None:
    """For the connections that are made from now on; there are no others."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET default_transaction_read_only = off")
        connection.exec_driver_sql(f"ALTER DATABASE {engine.url.database} SET default_transaction_read_only = {state}")
    engine.dispose()
