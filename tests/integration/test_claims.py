"""Every statement that moves a row, against those who would move it at the same time."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from outbox import claims, settlement
from outbox.claims import Begin, Release
from outbox.database import create_engine
from outbox.models import EmailSuppression, QueuedEmail
from outbox.retry import Verdict
from outbox.settlement import Attempt, Settlement
from outbox.states import DeadReason, Outcome, Priority, Stage, Status
from tests import rows
from tests.rows import LEASE, from_now

ALL = dict.fromkeys(Priority, 100)


@pytest.fixture
def postgresql_engine(postgresql_url: str) -> Iterator[sa.Engine]:
    """For what only row locks can do."""
    engine = create_engine(postgresql_url)
    yield engine
    engine.dispose()


def claim(engine: sa.Engine, quotas: dict[Priority, int] = ALL) -> claims.Claim:
    with engine.begin() as connection:
        return claims.claim(connection, quotas, "worker-1", LEASE)


def claimed_one(engine: sa.Engine) -> tuple[int, str]:
    (id_,) = rows.add(engine)
    return id_, claim(engine).token


def attempt(id_: int, number: int = 1, **fields: Any) -> Attempt:
    line = Attempt(id_, number, 0.25, Outcome.SENT, Stage.DOT, 250, "2.0.0 ok", "relay:25", "worker-1")
    return line._replace(**fields)


def sent(id_: int, token: str, **fields: Any) -> Settlement:
    return Settlement(id_, token, Status.SENT, counted=True, last_code=250, attempt=attempt(id_))._replace(**fields)


def settle(engine: sa.Engine, *settlements: Settlement) -> set[int]:
    with engine.begin() as connection:
        return settlement.settle(connection, settlements)


def begin(engine: sa.Engine, *begins: Begin) -> set[int]:
    with engine.begin() as connection:
        return claims.begin(connection, begins, LEASE)


def release(engine: sa.Engine, *releases: Release) -> set[int]:
    with engine.begin() as connection:
        return claims.release(connection, releases)


class TestClaim:
    def test_the_longest_due_goes_first(self, engine: sa.Engine) -> None:
        late, soon, first, second = (rows.add(engine, next_attempt_at=from_now(-age))[0] for age in (1, 20, 300, 300))
        assert claim(engine).ids[Priority.NORMAL] == [*sorted([first, second]), soon, late]

    def test_only_as_many_as_the_quota_and_those_that_are_due_longest(self, engine: sa.Engine) -> None:
        young = rows.add(engine, 3, next_attempt_at=from_now(-1))
        old = rows.add(engine, 3, next_attempt_at=from_now(-100))
        assert claim(engine, ALL | {Priority.NORMAL: 4}).ids[Priority.NORMAL] == [*old, young[0]]
        assert rows.statuses(engine, young) == ["claimed", "pending", "pending"]

    def test_each_lane_has_a_quota_of_its_own(self, engine: sa.Engine) -> None:
        for lane in Priority:
            rows.add(engine, 5, priority=lane)
        quotas = {Priority.HIGH: 2, Priority.NORMAL: 0, Priority.LOW: 9}
        taken = claim(engine, quotas)
        assert {lane: len(ids) for lane, ids in taken.ids.items()} == {
            Priority.HIGH: 2,
            Priority.NORMAL: 0,
            Priority.LOW: 5,
        }

    def test_only_what_is_pending_and_due(self, engine: sa.Engine) -> None:
        rows.add(engine, next_attempt_at=from_now(30))
        rows.add(engine, status=Status.CANCELLED, finalized_at=from_now(-1))
        rows.add(engine, status=Status.UNCERTAIN)
        rows.leased(engine, Status.CLAIMED, "t")
        rows.leased(engine, Status.SENDING, "t", lease_expires_at=from_now(-1))
        with engine.begin() as connection:
            assert claims.due_lanes(connection) == set()
        assert not any(claim(engine).ids.values())

    def test_what_it_writes(self, engine: sa.Engine) -> None:
        (id_,) = rows.add(engine, claims=3, attempts=2)
        before = rows.row(engine, id_)
        token = claim(engine).token
        row = rows.row(engine, id_)
        assert (row.status, row.claim_token, row.claimed_by) == ("claimed", token, "worker-1")
        assert (row.claims, row.attempts, row.next_attempt_at) == (4, 2, before.next_attempt_at)
        assert 0 <= (row.lease_expires_at - from_now(LEASE)).total_seconds() + 5 < 6

    def test_lanes_and_rows_in_flight_are_counted(self, engine: sa.Engine) -> None:
        rows.add(engine, 2, priority=Priority.LOW)
        rows.leased(engine, Status.CLAIMED, "t", 3, priority=Priority.HIGH)
        rows.leased(engine, Status.SENDING, "t", 1, priority=Priority.HIGH)
        with engine.begin() as connection:
            assert claims.due_lanes(connection) == {Priority.LOW}
            assert claims.in_flight(connection) == {Priority.HIGH: 4, Priority.NORMAL: 0, Priority.LOW: 0}

    def test_many_at_once_share_no_row_and_leave_none(self, engine: sa.Engine) -> None:
        """Threads, each with a connection, that start each round together."""
        workers, rounds = 4, 12
        expected = {id_ for lane in Priority for id_ in rows.add(engine, 100, priority=lane)}
        together = threading.Barrier(workers)

        def take() -> list[int]:
            taken: list[int] = []
            for _ in range(rounds):
                together.wait(30)
                got = claim(engine, dict.fromkeys(Priority, 3))
                taken += [id_ for ids in got.ids.values() for id_ in ids]
            return taken

        with ThreadPoolExecutor(workers) as pool:
            lists = [future.result(60) for future in [pool.submit(take) for _ in range(workers)]]
        taken = Counter(id_ for ids in lists for id_ in ids)
        assert max(taken.values()) == 1
        rest = claim(engine, dict.fromkeys(Priority, 1000))
        assert set(taken) | {id_ for ids in rest.ids.values() for id_ in ids} == expected

    def test_a_row_that_another_claim_holds_is_skipped(self, postgresql_engine: sa.Engine) -> None:
        engine = postgresql_engine
        rows.add(engine, 4)
        with engine.begin() as other:
            first = claims.claim(other, ALL | {Priority.NORMAL: 2}, "other", LEASE)
            second = claim(engine)
        assert len(first.ids[Priority.NORMAL]) == len(second.ids[Priority.NORMAL]) == 2
        assert not set(first.ids[Priority.NORMAL]) & set(second.ids[Priority.NORMAL])

    def test_a_row_whose_attempt_is_being_written_is_not_skipped(self, postgresql_engine: sa.Engine) -> None:
        """Its foreign key holds a lock on the row, which FOR UPDATE would take for somebody's claim."""
        engine = postgresql_engine
        (id_,) = rows.add(engine)
        with engine.begin() as other:
            rows.add_attempt(other, id_, 9, Outcome.DEFERRED)
            assert claim(engine).ids[Priority.NORMAL] == [id_]


class TestBegin:
    def test_the_token_is_exchanged(self, engine: sa.Engine) -> None:
        id_, token = claimed_one(engine)
        assert begin(engine, Begin(id_, token, "own")) == {id_}
        row = rows.row(engine, id_)
        assert (row.status, row.claim_token, row.claims) == ("sending", "own", 1)

    def test_the_lease_starts_anew(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(engine, Status.CLAIMED, "t", lease_expires_at=from_now(5))
        begin(engine, Begin(id_, "t", "own"))
        assert rows.row(engine, id_).lease_expires_at > from_now(LEASE - 60)

    def test_a_second_delivery_of_the_same_chunk_finds_nothing(self, engine: sa.Engine) -> None:
        id_, token = claimed_one(engine)
        begin(engine, Begin(id_, token, "first"))
        assert begin(engine, Begin(id_, token, "second")) == set()
        assert rows.row(engine, id_).claim_token == "first"
        assert release(engine, Release(id_, token)) == set()
        assert settle(engine, sent(id_, token)) == set()

    def test_what_is_composed_is_begun_once_more_to_be_sent(self, engine: sa.Engine) -> None:
        """It takes the token of the first begin; then neither that one nor the chunk's is good for anything."""
        id_, token = claimed_one(engine)
        assert begin(engine, Begin(id_, token, "composing")) == {id_}
        assert begin(engine, Begin(id_, token, "another", "relay:25")) == set()
        assert rows.row(engine, id_).relay is None
        assert begin(engine, Begin(id_, "composing", "own", "relay:25")) == {id_}
        row = rows.row(engine, id_)
        assert (row.status, row.claim_token, row.relay, row.claims) == ("sending", "own", "relay:25", 1)
        for stale in (token, "composing"):
            assert begin(engine, Begin(id_, stale, "another", "other:25")) == set()
            assert release(engine, Release(id_, stale)) == set()
            assert settle(engine, sent(id_, stale)) == set()
        assert rows.row(engine, id_) == row

    def test_ours_among_foreign_stale_and_missing(self, engine: sa.Engine) -> None:
        (ours,) = rows.leased(engine, Status.CLAIMED, "t")
        (foreign,) = rows.leased(engine, Status.CLAIMED, "theirs")
        (pending,) = rows.add(engine)
        lines = [Begin(id_, "t", f"own{id_}") for id_ in (foreign, pending, ours, 999_999)]
        assert begin(engine, *lines) == {ours}
        assert rows.row(engine, foreign).claim_token == "theirs"
        assert rows.row(engine, pending).status == "pending"

    def test_tokens_of_two_rows_are_not_mixed_up(self, engine: sa.Engine) -> None:
        """Each id stands in the batch, and each token, too: but not together."""
        (one,) = rows.leased(engine, Status.CLAIMED, "t1")
        (two,) = rows.leased(engine, Status.CLAIMED, "t2")
        assert begin(engine, Begin(one, "t2", "a"), Begin(two, "t1", "b")) == set()
        assert settle(engine, sent(one, "t2"), sent(two, "t1")) == set()
        assert release(engine, Release(one, "t2"), Release(two, "t1")) == set()
        assert rows.statuses(engine, [one, two]) == ["claimed", "claimed"]


class TestRelay:
    """Which relay may have the mail: known while it is sent, and kept for as long as that is not certain."""

    @pytest.mark.parametrize("outcome", Outcome)
    def test_only_doubt_keeps_it(self, engine: sa.Engine, outcome: Outcome) -> None:
        (id_,) = rows.leased(engine, Status.SENDING, "own", relay="relay:25")
        verdict = Verdict(Status.SENT if outcome is Outcome.SENT else Status.PENDING)
        settle(engine, Settlement.of("own", verdict, attempt(id_, outcome=outcome)))
        assert rows.row(engine, id_).relay == ("relay:25" if outcome is Outcome.UNCERTAIN else None)

    @pytest.mark.parametrize("outcome", [Outcome.DEFERRED, Outcome.RELAY_DOWN, Outcome.THROTTLED])
    def test_an_earlier_doubt_stays(self, engine: sa.Engine, outcome: Outcome) -> None:
        """What the relay says of the second copy does not tell whether it took the first."""
        (id_,) = rows.leased(engine, Status.SENDING, "own", relay="relay:25")
        line = attempt(id_, outcome=outcome)
        settle(engine, Settlement.of("own", Verdict(Status.PENDING), line, relay="relay:25"))
        assert rows.row(engine, id_).relay == "relay:25"

    def test_a_claim_that_is_not_begun_leaves_it(self, engine: sa.Engine) -> None:
        (id_,) = rows.add(engine, relay="relay:25")
        token = claim(engine).token
        assert rows.row(engine, id_).relay == "relay:25"
        release(engine, Release(id_, token))
        assert rows.row(engine, id_).relay == "relay:25"

    def test_a_doubt_outlives_the_worker_that_composes_the_mail_again(self, engine: sa.Engine) -> None:
        (id_,) = rows.add(engine, relay="relay:25")
        begin(engine, Begin(id_, claim(engine).token, "composing"))
        assert rows.row(engine, id_).relay == "relay:25"

    @pytest.mark.parametrize("before", [None, "relay:25"])
    def test_a_release_takes_back_what_begin_wrote(self, engine: sa.Engine, before: str | None) -> None:
        (id_,) = rows.add(engine, relay=before)
        begin(engine, Begin(id_, claim(engine).token, "own", "relay:25"))
        release(engine, Release(id_, "own", relay=before))
        assert rows.row(engine, id_).relay == before


class TestSuppress:
    """5.1.x: the recipient does not exist, and this is remembered with the verdict, or not at all."""

    @staticmethod
    def gone(id_: int, token: str = "own") -> Settlement:
        verdict = Verdict(Status.DEAD, dead_reason=DeadReason.REJECTED)
        reply = attempt(id_, outcome=Outcome.REJECTED, stage=Stage.RCPT, code=550, reply="5.1.1 no such user")
        return Settlement.of(token, verdict, reply, suppress=True)

    @staticmethod
    def suppressions(engine: sa.Engine) -> list[sa.Row[Any]]:
        with engine.connect() as connection:
            return list(connection.execute(sa.select(EmailSuppression.__table__)).all())

    def test_the_recipient_with_the_reason_and_the_relay(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(engine, Status.SENDING, "own", recipient="Ann@Example.com")
        (kept,) = rows.leased(engine, Status.SENDING, "own", recipient="bob@example.com")
        rejected = self.gone(kept)._replace(suppress=False)
        assert settle(engine, self.gone(id_), rejected) == {id_, kept}
        (row,) = self.suppressions(engine)
        assert (row.target, row.source, row.until) == ("ann@example.com", "relay:25", None)
        assert row.reason == "rcpt: 5.1.1 no such user"

    def test_not_on_the_word_of_one_who_does_not_own_the_row(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(engine, Status.SENDING, "own")
        assert settle(engine, self.gone(id_, "stale")) == set()
        assert self.suppressions(engine) == []

    def test_what_a_person_said_before_stands(self, engine: sa.Engine) -> None:
        with engine.begin() as connection:
            values = {"target": "ann@example.com", "reason": "asked for it", "source": "Eve"}
            connection.execute(sa.insert(EmailSuppression).values(values))
        one, two = rows.leased(engine, Status.SENDING, "own", 2)
        assert settle(engine, self.gone(one), self.gone(two)) == {one, two}
        assert [row.reason for row in self.suppressions(engine)] == ["asked for it"]

    def test_two_mails_to_it_at_once_with_two_replies(self, engine: sa.Engine) -> None:
        one, two = (
            rows.leased(engine, Status.SENDING, "own", recipient=r)[0] for r in ("Ann@x.example", "ann@x.example")
        )
        other = self.gone(two)._replace(last_error="rcpt: 5.1.1 no such user (id 2)")
        assert settle(engine, self.gone(one), other) == {one, two}
        assert [row.target for row in self.suppressions(engine)] == ["ann@x.example"]


class TestSettle:
    def test_sent(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(engine, Status.SENDING, "own")
        assert settle(engine, sent(id_, "own")) == {id_}
        row = rows.row(engine, id_)
        assert (row.status, row.attempts, row.last_code, row.claim_token) == ("sent", 1, 250, None)
        assert row.sent_at == row.finalized_at
        (line,) = rows.attempts(engine)
        assert (line.email_id, line.number, line.outcome, line.stage) == (id_, 1, "sent", "dot")
        assert (line.finished_at - line.started_at).total_seconds() == pytest.approx(0.25, abs=0.002)

    def test_deferred(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(engine, Status.SENDING, "own", attempts=1)
        later = Settlement(id_, "own", Status.PENDING, counted=True, delay=120, last_code=451, last_error="rcpt: later")
        settle(engine, later)
        row = rows.row(engine, id_)
        assert (row.status, row.attempts, row.last_error) == ("pending", 2, "rcpt: later")
        assert row.next_attempt_at > from_now(110)
        assert row.finalized_at is None

    def test_dead_and_uncertain(self, engine: sa.Engine) -> None:
        dead, uncertain = rows.leased(engine, Status.SENDING, "own", 2)
        before = rows.row(engine, uncertain).next_attempt_at
        settle(
            engine,
            Settlement(dead, "own", Status.DEAD, dead_reason=DeadReason.REJECTED),
            Settlement(uncertain, "own", Status.UNCERTAIN, delay=77),
        )
        assert (rows.row(engine, dead).dead_reason, rows.row(engine, dead).sent_at) == ("rejected", None)
        assert rows.row(engine, dead).finalized_at is not None
        assert (rows.row(engine, uncertain).status, rows.row(engine, uncertain).finalized_at) == ("uncertain", None)
        assert rows.row(engine, uncertain).next_attempt_at == before

    def test_ours_among_foreign_stale_and_final(self, engine: sa.Engine) -> None:
        (ours,) = rows.leased(engine, Status.SENDING, "own")
        (foreign,) = rows.leased(engine, Status.SENDING, "theirs")
        (pending,) = rows.add(engine)
        lines = [sent(id_, "own") for id_ in (foreign, ours, pending, 999_999)]
        assert settle(engine, *lines) == {ours}
        assert [line.email_id for line in rows.attempts(engine)] == [ours]
        assert rows.statuses(engine, [foreign, pending]) == ["sending", "pending"]

    def test_again_after_a_commit_whose_answer_was_lost(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(engine, Status.SENDING, "own")
        settle(engine, sent(id_, "own"))
        before = rows.row(engine, id_)
        assert settle(engine, sent(id_, "own")) == set()
        assert rows.row(engine, id_) == before
        assert len(rows.attempts(engine)) == 1

    def test_again_after_somebody_else_claimed_it(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(engine, Status.SENDING, "own")
        settle(engine, Settlement(id_, "own", Status.PENDING))
        token = claim(engine).token
        assert settle(engine, sent(id_, "own")) == set()
        assert rows.row(engine, id_).claim_token == token

    @pytest.mark.parametrize("delay", [0, 1e-05, 1e-300, 0.25, 60, 3600.5, 1e9])
    def test_any_delay_is_a_time(self, engine: sa.Engine, delay: float) -> None:
        (id_,) = rows.leased(engine, Status.SENDING, "own")
        settle(engine, Settlement(id_, "own", Status.PENDING, delay=delay, attempt=attempt(id_, seconds=delay)))
        then = rows.row(engine, id_).next_attempt_at
        assert isinstance(then, datetime)
        assert (then - from_now(delay)).total_seconds() == pytest.approx(0, abs=2)
        (line,) = rows.attempts(engine)
        assert (line.finished_at - line.started_at).total_seconds() == pytest.approx(delay, abs=0.002)

    @pytest.mark.parametrize("delay", [1e300, float("nan"), float("inf")])
    def test_a_delay_that_is_no_time_is_refused(self, engine: sa.Engine, delay: float) -> None:
        """Rather than written as NULL, or as a time that sorts before all others."""
        (id_,) = rows.leased(engine, Status.SENDING, "own")
        with pytest.raises(sa.exc.DBAPIError):
            settle(engine, Settlement(id_, "own", Status.PENDING, delay=delay))
        assert rows.row(engine, id_).status == "sending"

    def test_long_and_strange_replies(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(engine, Status.SENDING, "own")
        reply = "'; DROP TABLE email_queue; -- \\ \" \t\x01\x7f $1 %s :lines \u2028 \U0001f4a5 ü" + "x" * 1_000_000
        settle(engine, sent(id_, "own", last_error=reply, attempt=attempt(id_, reply=reply)))
        assert rows.row(engine, id_).last_error == reply
        assert rows.attempts(engine)[0].reply == reply

    def test_what_a_row_must_not_say_is_refused(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(engine, Status.SENDING, "own")
        for bad in (
            Settlement(id_, "own", Status.DEAD),  # without a reason
            Settlement(id_, "own", Status.SENT, dead_reason=DeadReason.EXPIRED),
            Settlement(id_, "own", Status.CLAIMED),  # without an owner
            sent(id_, "own", attempt=attempt(id_, stage="lunch")),
        ):
            with pytest.raises(sa.exc.DBAPIError):
                settle(engine, bad)
            assert rows.row(engine, id_).status == "sending"
            assert rows.attempts(engine) == []


class TestRelease:
    @pytest.mark.parametrize("begun", [False, True])
    def test_it_is_as_if_it_had_not_been_claimed(self, engine: sa.Engine, begun: bool) -> None:
        (id_,) = rows.add(engine, claims=2, attempts=1, last_error="rcpt: later", last_code=450)
        before = rows.row(engine, id_)
        token = claim(engine).token
        if begun:
            begin(engine, Begin(id_, token, "own"))
        assert release(engine, Release(id_, "own" if begun else token)) == {id_}
        assert rows.row(engine, id_) == before

    def test_it_is_due_at_once_in_its_old_place(self, engine: sa.Engine) -> None:
        (first,) = rows.add(engine, next_attempt_at=from_now(-100))
        token = claim(engine).token
        (second,) = rows.add(engine, next_attempt_at=from_now(-50))
        release(engine, Release(first, token))
        assert claim(engine).ids[Priority.NORMAL] == [first, second]

    def test_with_a_delay_it_waits(self, engine: sa.Engine) -> None:
        id_, token = claimed_one(engine)
        release(engine, Release(id_, token, delay=60))
        row = rows.row(engine, id_)
        assert (row.claims, row.status, row.waiting_for) == (0, "pending", None)
        assert row.next_attempt_at > from_now(50)

    def test_what_it_waits_for_is_known_until_the_next_claim(self, engine: sa.Engine) -> None:
        id_, token = claimed_one(engine)
        release(engine, Release(id_, token, delay=0.001, waiting_for="the rate of example.com"))
        assert rows.row(engine, id_).waiting_for == "the rate of example.com"
        time.sleep(0.01)
        assert claim(engine).ids[Priority.NORMAL] == [id_]
        assert rows.row(engine, id_).waiting_for is None

    def test_ours_among_foreign_and_stale(self, engine: sa.Engine) -> None:
        (ours,) = rows.leased(engine, Status.CLAIMED, "t")
        (foreign,) = rows.leased(engine, Status.SENDING, "theirs")
        (pending,) = rows.add(engine)
        assert release(engine, *(Release(id_, "t") for id_ in (foreign, pending, ours))) == {ours}
        assert rows.row(engine, foreign).claims == 1
        assert rows.row(engine, pending).claims == 0

    def test_twice_counts_once(self, engine: sa.Engine) -> None:
        id_, token = claimed_one(engine)
        release(engine, Release(id_, token))
        assert release(engine, Release(id_, token)) == set()
        assert rows.row(engine, id_).claims == 0


class TestReap:
    def test_only_leases_that_ran_out(self, engine: sa.Engine) -> None:
        (lapsed,) = rows.leased(engine, Status.CLAIMED, "t", lease_expires_at=from_now(-5))
        (alive,) = rows.leased(engine, Status.CLAIMED, "t", lease_expires_at=from_now(30))
        (sending,) = rows.leased(engine, Status.SENDING, "t", lease_expires_at=from_now(-5))
        with engine.begin() as connection:
            assert claims.return_unbegun(connection, 100) == [lapsed]
            (found,) = claims.find_lapsed_sendings(connection, 100)
        assert found.id == sending
        assert found.overdue == pytest.approx(5, abs=2)
        assert rows.statuses(engine, [lapsed, alive, sending]) == ["pending", "claimed", "sending"]
        assert rows.row(engine, lapsed).claims == 1

    def test_no_more_than_the_limit(self, engine: sa.Engine) -> None:
        rows.leased(engine, Status.CLAIMED, "t", 5, lease_expires_at=from_now(-5))
        rows.leased(engine, Status.SENDING, "t", 5, lease_expires_at=from_now(-5))
        with engine.begin() as connection:
            assert len(claims.return_unbegun(connection, 3)) == 3
            assert len(claims.find_lapsed_sendings(connection, 3)) == 3

    def test_how_a_lapsed_row_stands(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(
            engine,
            Status.SENDING,
            "t",
            claims=3,
            lease_expires_at=from_now(-5),
            created_at=from_now(-500),
            scheduled_at=from_now(-100),
            expires_at=from_now(50),
        )
        with engine.begin() as connection:
            rows.add_attempt(connection, id_, 1, Outcome.UNCERTAIN)
            rows.add_attempt(connection, id_, 2, Outcome.DEFERRED)
            (found,) = claims.find_lapsed_sendings(connection, 10)
        assert found.resends == 1
        assert found.age == pytest.approx(100, abs=2)
        assert found.expires_in == pytest.approx(50, abs=2)

    def test_rows_that_are_being_settled_are_skipped(self, postgresql_engine: sa.Engine) -> None:
        """A settle that comes late but in time enough is not waited for, and not overtaken."""
        engine = postgresql_engine
        (claimed,) = rows.leased(engine, Status.CLAIMED, "t", lease_expires_at=from_now(-5))
        (sending,) = rows.leased(engine, Status.SENDING, "t", lease_expires_at=from_now(-5))
        with engine.begin() as settling:
            claims.begin(settling, [Begin(claimed, "t", "own")], LEASE)
            settlement.settle(settling, [sent(sending, "t")])
            with engine.begin() as reaping:
                assert claims.return_unbegun(reaping, 100) == []
                assert claims.find_lapsed_sendings(reaping, 100) == []

    def test_a_settle_after_the_reaper_changes_nothing(self, engine: sa.Engine) -> None:
        (id_,) = rows.leased(engine, Status.CLAIMED, "t", lease_expires_at=from_now(-5))
        with engine.begin() as connection:
            claims.return_unbegun(connection, 100)
        assert begin(engine, Begin(id_, "t", "own")) == set()
        assert release(engine, Release(id_, "t")) == set()
        assert rows.row(engine, id_).claims == 1


def test_the_factory_makes_rows_that_the_models_know(engine: sa.Engine) -> None:
    rows.add(engine)
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(QueuedEmail)).scalar() == 1
