"""Due rows -> published chunks, and leases that ran out -> back."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from outbox import claims, reaper
from outbox.claims import Begin
from outbox.database import SQLITE_BUSY_SECONDS
from outbox.drain import Publish, drain, next_look
from outbox.models import EmailEnvironment, EmailRelay, QueuedEmail
from outbox.reaper import reap
from outbox.settings import Settings
from outbox.states import Outcome, Priority, Status
from tests import rows
from tests.rows import LEASE, from_now


class Publisher:
    """Keeps what is published; fails at the lanes in `broken`."""

    def __init__(self, *broken: Priority) -> None:
        self.chunks: list[tuple[Priority, list[int], str]] = []
        self.broken = broken

    def __call__(self, priority: Priority, ids: list[int], token: str) -> None:
        if priority in self.broken:
            raise ConnectionError(f"no broker for {priority.label}")
        self.chunks.append((priority, ids, token))

    @property
    def ids(self) -> list[int]:
        return [id_ for _, ids, _ in self.chunks for id_ in ids]


def settings(**values: Any) -> Settings:
    return Settings(outbox_lease_seconds=LEASE, **values)


@contextmanager
def statements(engine: sa.Engine) -> Iterator[list[str]]:
    """What is sent to the database, without BEGIN and COMMIT."""
    sent: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            sent.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    yield sent
    sa.event.remove(engine, "before_cursor_execute", note)


class TestDrain:
    def test_chunks_by_lane_oldest_first(self, engine: sa.Engine) -> None:
        young = rows.add(engine, 3, next_attempt_at=from_now(-10))
        old = rows.add(engine, 2, next_attempt_at=from_now(-90))
        high = rows.add(engine, 1, priority=Priority.HIGH)
        publish = Publisher()
        assert drain(engine, settings(outbox_chunk=2), "worker-1", publish) == 6
        assert [(lane, ids) for lane, ids, _ in publish.chunks] == [
            (Priority.HIGH, high),
            (Priority.NORMAL, old),
            (Priority.NORMAL, young[:2]),
            (Priority.NORMAL, young[2:]),
        ]
        for _, ids, token in publish.chunks:
            assert {(row.status, row.claim_token) for row in (rows.row(engine, id_) for id_ in ids)} == {
                ("claimed", token)
            }

    def test_every_lane_is_bounded_by_what_is_in_flight(self, engine: sa.Engine) -> None:
        for lane in Priority:
            rows.add(engine, 10, priority=lane)
        rows.leased(engine, Status.SENDING, "t", 3, priority=Priority.LOW)
        rows.leased(engine, Status.CLAIMED, "t", 9, priority=Priority.HIGH)
        publish = Publisher()
        assert drain(engine, settings(outbox_chunk=2, outbox_in_flight=5), "worker-1", publish) == 0 + 5 + 2
        with engine.begin() as connection:
            assert claims.in_flight(connection) == {Priority.HIGH: 9, Priority.NORMAL: 5, Priority.LOW: 5}
        assert drain(engine, settings(outbox_chunk=2, outbox_in_flight=5), "worker-1", publish) == 0

    @pytest.mark.parametrize("count", [1, 4, 5, 6, 8])
    def test_to_the_last_row(self, engine: sa.Engine, count: int) -> None:
        ids = rows.add(engine, count)
        publish = Publisher()
        assert drain(engine, settings(outbox_chunk=4), "worker-1", publish) == count
        assert publish.ids == ids

    def test_nothing_due_is_one_statement(self, engine: sa.Engine) -> None:
        rows.add(engine, next_attempt_at=from_now(60))
        with statements(engine) as sent:
            assert drain(engine, settings(), "worker-1", Publisher()) == 0
        assert len(sent) == 1

    def test_what_is_published_is_committed(self, engine: sa.Engine) -> None:
        """A worker may be quicker than we are."""
        rows.add(engine, 3)

        def deliver(_: Priority, ids: list[int], token: str) -> None:
            with engine.begin() as connection:
                assert len(claims.begin(connection, [Begin(id_, token, "own") for id_ in ids], LEASE)) == 3

        drain(engine, settings(), "worker-1", deliver)

    def test_two_at_once_share_no_row(self, engine: sa.Engine) -> None:
        ids = [id_ for lane in Priority for id_ in rows.add(engine, 40, priority=lane)]
        publishers = [Publisher() for _ in range(3)]
        together = threading.Barrier(3)

        def run(publish: Publish) -> int:
            together.wait(30)
            return drain(engine, settings(outbox_chunk=7), "worker-1", publish)

        with ThreadPoolExecutor(3) as pool:
            counts = [future.result(60) for future in [pool.submit(run, publish) for publish in publishers]]
        assert sum(counts) == len(ids)
        assert sorted(id_ for publish in publishers for id_ in publish.ids) == sorted(ids)


def test_nothing_due_is_found_without_waiting_for_a_writer(engine: sa.Engine) -> None:
    rows.add(engine, next_attempt_at=from_now(3600))
    with engine.begin() as connection:  # with SQLite, it has the write lock
        connection.execute(sa.update(QueuedEmail).values(category="held"))
        started = time.monotonic()
        assert drain(engine, settings(), "worker-1", Publisher()) == 0
        assert 3590 < (next_look(engine, settings()) or 0) < 3600
        assert time.monotonic() - started < SQLITE_BUSY_SECONDS / 3


class TestPublishingFails:
    @pytest.mark.parametrize("broken", Priority)
    def test_what_was_not_published_goes_back_at_once(self, engine: sa.Engine, broken: Priority) -> None:
        ids = {lane: rows.add(engine, 3, priority=lane) for lane in Priority}
        publish = Publisher(broken)
        before = {id_: rows.row(engine, id_) for lane in ids for id_ in ids[lane]}
        with pytest.raises(ConnectionError, match=f"no broker for {broken.label}"):
            drain(engine, settings(outbox_chunk=2), "worker-1", publish)
        for lane in Priority:
            expected = "claimed" if lane < broken else "pending"
            assert rows.statuses(engine, ids[lane]) == [expected, expected, "pending"]
        for id_, row in before.items():
            if id_ not in publish.ids:
                assert rows.row(engine, id_) == row  # as if it had never been claimed, in its old place

        later = Publisher()
        drain(engine, settings(), "worker-1", later)
        assert sorted(publish.ids + later.ids) == sorted(before)

    def test_it_was_published_after_all(self, engine: sa.Engine) -> None:
        """The broker took it and did not say so; the worker is at the first of two mails."""
        first, second = rows.add(engine, 2)

        def deliver(_: Priority, ids: list[int], token: str) -> None:
            with engine.begin() as connection:
                claims.begin(connection, [Begin(ids[0], token, "own")], LEASE)
            raise TimeoutError

        with pytest.raises(TimeoutError):
            drain(engine, settings(), "worker-1", deliver)
        assert rows.statuses(engine, [first, second]) == ["sending", "pending"]
        assert rows.row(engine, first).claim_token == "own"

    def test_ctrl_c(self, engine: sa.Engine) -> None:
        ids = rows.add(engine, 3)

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            drain(engine, settings(), "worker-1", interrupt)
        assert rows.statuses(engine, ids) == ["pending"] * 3


@pytest.mark.parametrize(
    ("due", "busy", "expected"),
    [
        ({}, {}, False),
        ({}, {Priority.HIGH: 1}, False),
        ({Priority.LOW: 1}, {}, True),
        ({Priority.LOW: 1}, {Priority.LOW: 5}, True),
        ({Priority.LOW: 1}, {Priority.LOW: 6}, False),
        ({Priority.LOW: 1}, {Priority.LOW: 6, Priority.HIGH: 1}, False),  # the lane that runs low has nothing due
        ({Priority.LOW: 1, Priority.HIGH: 1}, {Priority.LOW: 6, Priority.HIGH: 6}, False),
        ({Priority.LOW: 1, Priority.HIGH: 1}, {Priority.LOW: 6, Priority.HIGH: 2}, True),
    ],
)
def test_the_next_look_is_at_once_where_a_lane_runs_low(
    engine: sa.Engine, due: dict[Priority, int], busy: dict[Priority, int], expected: bool
) -> None:
    for lane, count in due.items():
        rows.add(engine, count, priority=lane)
    for lane, count in busy.items():
        rows.leased(engine, Status.SENDING, "t", count, priority=lane)
    assert next_look(engine, settings(outbox_in_flight=10)) == (0 if expected else None)


class TestNextLook:
    def test_is_when_the_first_mail_is_due(self, engine: sa.Engine) -> None:
        rows.add(engine, next_attempt_at=from_now(40), priority=Priority.LOW)
        rows.add(engine, next_attempt_at=from_now(20))
        assert next_look(engine, settings()) == pytest.approx(20, abs=5)

    def test_or_when_a_relay_may_be_tried(self, engine: sa.Engine) -> None:
        rows.add(engine)
        self.relay(engine, state="open", paused_until=from_now(30))
        assert next_look(engine, settings()) == pytest.approx(30, abs=5)

    def test_is_not_known_while_a_person_holds_the_only_relay(self, engine: sa.Engine) -> None:
        rows.add(engine)
        self.relay(engine, state="paused")
        assert next_look(engine, settings()) is None

    def test_nor_in_a_database_that_is_not_ours(self, engine: sa.Engine) -> None:
        rows.add(engine)
        with engine.begin() as connection:
            connection.execute(sa.insert(EmailEnvironment).values(id=1, name="another"))
        assert next_look(engine, settings()) is None

    @staticmethod
    def relay(engine: sa.Engine, **columns: Any) -> None:
        (endpoint,) = settings().endpoints
        with engine.begin() as connection:
            connection.execute(sa.insert(EmailRelay).values(name=endpoint.name, latched=False, failures=1, **columns))


class TestReap:
    def test_what_was_only_claimed_goes_back(self, engine: sa.Engine) -> None:
        (lapsed,) = rows.leased(engine, Status.CLAIMED, "t", lease_expires_at=from_now(-1))
        (alive,) = rows.leased(engine, Status.CLAIMED, "t")
        assert reap(engine, settings()) == 1
        assert rows.statuses(engine, [lapsed, alive]) == ["pending", "claimed"]
        assert rows.attempts(engine) == []
        assert reap(engine, settings()) == 0

    def test_what_was_being_sent_is_uncertain_and_sent_again(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(
            engine, Status.SENDING, "t", lease_expires_at=from_now(-5), claims=4, attempts=1, relay="relay.example:2525"
        )
        assert reap(engine, settings()) == 1
        row = rows.row(engine, id_)
        assert (row.status, row.attempts, row.claims) == ("pending", 2, 4)
        assert row.relay == "relay.example:2525", "no other may have it"
        assert row.last_error == "dot: worker-1 vanished while it was sending"
        assert from_now(120 * 0.8 - 5) < row.next_attempt_at < from_now(120 * 1.2)
        (line,) = rows.attempts(engine)
        assert (line.number, line.outcome, line.stage, line.worker) == (4, "uncertain", "dot", "worker-1")
        assert (line.relay, line.reply) == ("relay.example:2525", "worker-1 vanished while it was sending")
        assert (line.finished_at - line.started_at).total_seconds() == pytest.approx(LEASE + 5, abs=2)

    def test_or_held_for_a_person(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(engine, Status.SENDING, "t", lease_expires_at=from_now(-5), on_uncertain="hold")
        assert reap(engine, settings()) == 1
        assert rows.statuses(engine, [id_]) == ["uncertain"]
        assert [line.outcome for line in rows.attempts(engine)] == ["uncertain"]

    def test_after_two_resends_it_is_held_whatever_was_said(self, engine: sa.Engine) -> None:
        (id_,) = rows.add(engine)
        for expected in ("pending", "pending", "uncertain"):
            make_due(engine, id_)
            with engine.begin() as connection:
                claim = claims.claim(connection, dict.fromkeys(Priority, 1), "worker-1", LEASE)
                claims.begin(connection, [Begin(id_, claim.token, "own", "relay:25")], LEASE)
            lapse(engine)
            assert reap(engine, settings()) == 1
            assert rows.statuses(engine, [id_]) == [expected]
        assert [(line.number, line.outcome) for line in rows.attempts(engine)] == [
            (number, Outcome.UNCERTAIN) for number in (1, 2, 3)
        ]

    def test_more_than_a_batch(self, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reaper, "REAP_BATCH", 10)
        claimed = rows.leased(engine, Status.CLAIMED, "t", 10, lease_expires_at=from_now(-1))
        sending = rows.leased(engine, Status.SENDING, "t", 25, lease_expires_at=from_now(-1))
        assert reap(engine, settings()) == 35
        assert set(rows.statuses(engine, claimed + sending)) == {"pending"}
        assert len(rows.attempts(engine)) == 25

    def test_two_at_once(self, engine: sa.Engine) -> None:
        rows.leased(engine, Status.CLAIMED, "t", 30, lease_expires_at=from_now(-1))
        rows.leased(engine, Status.SENDING, "t", 30, lease_expires_at=from_now(-1))
        together = threading.Barrier(2)

        def run() -> int:
            together.wait(30)
            return reap(engine, settings())

        with ThreadPoolExecutor(2) as pool:
            counts = [future.result(60) for future in [pool.submit(run) for _ in range(2)]]
        assert sum(counts) == 60
        assert len(rows.attempts(engine)) == 30

    @pytest.mark.parametrize("batch", [1, 3, 500])
    def test_a_row_that_cannot_be_settled_holds_back_no_other(
        self, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, batch: int
    ) -> None:
        """Their attempts are there already: a person has been at the tables."""
        monkeypatch.setattr(reaper, "REAP_BATCH", batch)
        (claimed,) = rows.leased(engine, Status.CLAIMED, "t", lease_expires_at=from_now(-1))
        sending = rows.leased(engine, Status.SENDING, "t", 9, lease_expires_at=from_now(-1))
        spoilt = {*sending[:4], sending[6]}
        with engine.begin() as connection:
            for id_ in spoilt:
                rows.add_attempt(connection, id_, 1, Outcome.DEFERRED)
        assert reap(engine, settings()) == 1 + 4
        assert rows.statuses(engine, [claimed]) == ["pending"]
        assert {id_ for id_ in sending if rows.row(engine, id_).status == "sending"} == spoilt
        for id_ in spoilt:
            assert f"reap: mail {id_} cannot be settled" in caplog.text

    def test_a_mail_that_was_only_being_composed_is_certainly_unsent(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(
            engine, Status.SENDING, "t", lease_expires_at=from_now(-5), relay=None, on_uncertain="hold"
        )
        assert reap(engine, settings()) == 1
        row = rows.row(engine, id_)
        assert (row.status, row.attempts, row.relay) == ("pending", 1, None)
        assert row.last_error == "compose: worker-1 vanished while it was composing this mail"
        assert from_now(60 * 0.8 - 5) < row.next_attempt_at < from_now(60 * 1.2)
        (line,) = rows.attempts(engine)
        assert (line.number, line.outcome, line.stage, line.relay) == (1, "deferred", "compose", "")

    def test_a_doubt_that_a_person_has_lifted_does_not_come_back(self, engine: sa.Engine) -> None:
        """Uncertain, requeued: any relay may have it. Then its worker died composing it."""
        (id_,) = rows.leased(engine, Status.SENDING, "t", lease_expires_at=from_now(-5), relay=None, claims=2)
        with engine.begin() as connection:
            rows.add_attempt(connection, id_, 1, Outcome.UNCERTAIN)
        assert reap(engine, settings()) == 1
        assert rows.row(engine, id_).relay is None

    def test_what_kills_three_workers_does_not_get_a_fourth(self, engine: sa.Engine) -> None:
        """The first dies of a mail that is only claimed; the next two while they compose this mail alone."""
        poison, innocent = rows.add(engine, 2)
        for expected in ("pending", "pending", "dead"):
            make_due(engine, poison)
            make_due(engine, innocent)
            with engine.begin() as connection:
                claim = claims.claim(connection, dict.fromkeys(Priority, 2), "worker-1", LEASE)
                if claims_of(connection, poison) > 1:
                    claims.begin(connection, [Begin(poison, claim.token, "own")], LEASE)
            lapse(engine)
            assert reap(engine, settings()) == 2
            assert rows.statuses(engine, [poison, innocent]) == [expected, "pending"]
        assert rows.row(engine, poison).dead_reason == "invalid"
        assert [(line.number, line.stage) for line in rows.attempts(engine)] == [(2, "compose"), (3, "compose")]

    def test_conversations_are_no_deaths(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(
            engine, Status.SENDING, "t", lease_expires_at=from_now(-5), relay=None, claims=4, max_attempts=9
        )
        with engine.begin() as connection:
            for number in (1, 2, 3):
                rows.add_attempt(connection, id_, number, Outcome.DEFERRED)
        assert reap(engine, settings()) == 1
        assert rows.statuses(engine, [id_]) == ["pending"]


def claims_of(connection: sa.Connection, id_: int) -> int:
    return connection.execute(sa.select(QueuedEmail.claims).where(QueuedEmail.id == id_)).scalar_one()


def make_due(engine: sa.Engine, id_: int) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(QueuedEmail).where(QueuedEmail.id == id_).values(next_attempt_at=from_now(-1)))


def lapse(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.update(QueuedEmail)
            .where(QueuedEmail.lease_expires_at.is_not(None))
            .values(lease_expires_at=from_now(-1))
        )
