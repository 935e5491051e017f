"""The gauges count what is there, and read no history to do so."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox import stats
from outbox.models import EmailContent, QueuedEmail
from outbox.states import DeadReason, Priority, Status
from outbox.stats import Failed, Finished, InFlight, Waiting

LEASE = {"claim_token": "t", "claimed_by": "w", "lease_expires_at": datetime.now(UTC)}


def test_an_empty_queue_counts_as_zero(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        assert stats.waiting(connection) == dict.fromkeys(Priority, Waiting())
        assert stats.in_flight(connection) == dict.fromkeys(Priority, InFlight())
        assert stats.failed(connection) == dict.fromkeys(Priority, Failed())
        assert stats.finished(connection) == dict.fromkeys(Priority, Finished())


def test_waiting(engine: sa.Engine) -> None:
    now = datetime.now(UTC)
    _add(engine, Priority.HIGH, next_attempt_at=now - timedelta(seconds=90))
    _add(engine, Priority.HIGH, next_attempt_at=now - timedelta(seconds=30))
    _add(engine, Priority.HIGH, next_attempt_at=now + timedelta(hours=1))
    _add(engine, Priority.LOW, next_attempt_at=now + timedelta(days=1))
    _add(engine, Priority.LOW, Status.CLAIMED, **LEASE)
    with engine.begin() as connection:
        found = stats.waiting(connection)
    high = found[Priority.HIGH]
    assert (high.due, high.scheduled) == (2, 1)
    assert high.oldest_due_seconds == pytest.approx(90, abs=30)
    assert found[Priority.NORMAL] == Waiting()
    assert found[Priority.LOW] == Waiting(scheduled=1)


def test_in_flight(engine: sa.Engine) -> None:
    _add(engine, Priority.NORMAL, Status.CLAIMED, **LEASE)
    _add(engine, Priority.NORMAL, Status.CLAIMED, **LEASE)
    _add(engine, Priority.NORMAL, Status.SENDING, **LEASE)
    _add(engine, Priority.HIGH)
    with engine.begin() as connection:
        found = stats.in_flight(connection)
    assert found == dict.fromkeys(Priority, InFlight()) | {Priority.NORMAL: InFlight(claimed=2, sending=1)}


def test_failed_counts_from_all_time_and_by_reason(engine: sa.Engine) -> None:
    now = datetime.now(UTC)
    long_ago = now - timedelta(days=400)
    _add(engine, Priority.LOW, Status.DEAD, dead_reason=DeadReason.REJECTED, finalized_at=long_ago)
    _add(engine, Priority.LOW, Status.DEAD, dead_reason=DeadReason.REJECTED, finalized_at=now)
    _add(engine, Priority.LOW, Status.DEAD, dead_reason=DeadReason.EXPIRED, finalized_at=now)
    _add(engine, Priority.HIGH, Status.UNCERTAIN)
    _add(engine, Priority.HIGH, Status.SENT, sent_at=now, finalized_at=now)
    with engine.begin() as connection:
        found = stats.failed(connection)
    low = found[Priority.LOW]
    assert {reason: number for reason, number in low.dead.items() if number} == {"rejected": 2, "expired": 1}
    assert set(low.dead) == set(DeadReason)
    assert low.uncertain == 0
    assert found[Priority.HIGH] == Failed(uncertain=1)
    assert found[Priority.NORMAL] == Failed()


def test_finished_counts_an_hour_and_a_day(engine: sa.Engine) -> None:
    now = datetime.now(UTC)
    for minutes in (1, 59, 61, 23 * 60, 25 * 60):
        then = now - timedelta(minutes=minutes)
        _add(engine, Priority.NORMAL, Status.SENT, sent_at=then, finalized_at=then)
    _add(engine, Priority.NORMAL, Status.CANCELLED, finalized_at=now)
    _add(engine, Priority.NORMAL, Status.CANCELLED, finalized_at=now - timedelta(days=2))
    _add(engine, Priority.NORMAL, Status.DEAD, dead_reason=DeadReason.INVALID, finalized_at=now)
    with engine.begin() as connection:
        found = stats.finished(connection)
    expected = Finished(sent_hour=2, sent_day=4, cancelled_day=1)
    assert found == dict.fromkeys(Priority, Finished()) | {Priority.NORMAL: expected}


@pytest.mark.parametrize(
    ("gauge", "index"),
    [
        (stats.waiting, "ix_email_queue_due"),
        (stats.in_flight, "ix_email_queue_leased"),
        (stats.failed, "ix_email_queue_failed"),
        (stats.finished, "ix_email_queue_final"),
    ],
)
def test_each_gauge_reads_its_partial_index(
    engine: sa.Engine, gauge: Callable[[sa.Connection], Any], index: str
) -> None:
    plans: list[str] = []

    def explain(_: sa.Connection, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if statement.lstrip().startswith("SELECT priority"):
            word = "EXPLAIN" if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
            cursor.execute(f"{word} {statement}", parameters)
            plans.append(str(cursor.fetchall()))

    sa.event.listen(engine, "before_cursor_execute", explain)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # The tables are empty here; the question is whether the index can be used at all.
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        gauge(connection)
    assert [index in plan for plan in plans] == [True], plans


def _add(engine: sa.Engine, lane: Priority, status: Status = Status.PENDING, **columns: Any) -> None:
    content = EmailContent(
        message_id=f"<{secrets.token_hex()}@x.example>",
        date=datetime.now(UTC),
        sender="a@x.example",
        to_header="b@x.example",
        subject="s",
        size=1,
    )
    row = QueuedEmail(
        recipient="b@x.example",
        subject="s",
        max_attempts=5,
        on_uncertain="retry",
        priority=lane,
        status=status,
        content=content,
        **columns,
    )
    with Session(engine) as session, session.begin():
        session.add(row)
