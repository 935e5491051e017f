"""The figures of the overview."""

from typing import Any

import pytest
import sqlalchemy as sa

from outbox import trends
from outbox.states import DeadReason, Outcome, Priority, Status
from outbox.trends import Step
from tests import rows
from tests.rows import from_now


def sent(engine: sa.Engine, ago: float, took: float = 0.5) -> None:
    begun = from_now(-ago - took)
    rows.add(engine, status=Status.SENT, created_at=begun, sent_at=from_now(-ago), finalized_at=from_now(-ago))


def test_nothing_happened(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        assert trends.course(connection, 60, 3) == ([Step()] * 3, True)
        assert trends.delays(connection) == (None, None, None, 0)
        assert trends.shape(connection) == ([], True)


def test_a_course_is_by_time_and_ends_now(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for ago in (5, 20, 90, 150, 185):
        sent(engine, ago)
    rows.add(engine, status=Status.DEAD, dead_reason=DeadReason.REJECTED, finalized_at=from_now(-95))
    (id_,) = rows.add(engine)
    with engine.begin() as connection:
        for number, outcome in enumerate((Outcome.DEFERRED, Outcome.RELAY_DOWN, Outcome.REJECTED, Outcome.SENT), 1):
            rows.add_attempt(connection, id_, number, outcome)
    with engine.begin() as connection:
        course = trends.course(connection, 60, 3)
        assert course.steps == [Step(sent=1), Step(sent=1, dead=1), Step(sent=2, not_now=2)]
        assert course.complete
        monkeypatch.setattr(trends, "LONGEST_LOOK", 2)
        course = trends.course(connection, 60, 3)
    assert course.steps == [Step(), Step(), Step(sent=2, not_now=2)], "the newest are what is kept"
    assert not course.complete


def test_a_time_to_come_is_of_the_newest_step(engine: sa.Engine) -> None:
    sent(engine, -90)
    with engine.begin() as connection:
        assert trends.course(connection, 60, 3).steps == [Step(), Step(), Step(sent=1)]


def test_percentiles_are_times_that_a_mail_took(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for took in range(1, 21):
        sent(engine, 100 - took, took)
    # Its time began when it was asked to go.
    rows.add(
        engine,
        status=Status.SENT,
        created_at=from_now(-9000),
        scheduled_at=from_now(-62),
        sent_at=from_now(-60),
        finalized_at=from_now(-60),
    )
    sent(engine, 4000, 500)
    with engine.begin() as connection:
        delays = trends.delays(connection)
        assert list(delays) == pytest.approx([10, 19, 20, 21], abs=0.1)
        monkeypatch.setattr(trends, "SAMPLE", 1)
        assert trends.delays(connection).p50 == pytest.approx(2, abs=0.1), "the newest"


def test_the_shape_of_what_waits(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(recipient: str, age: float, **columns: Any) -> None:
        rows.add(engine, recipient=recipient, created_at=from_now(-age), **columns)

    wait("ada@Example.com", 10)
    wait("bob@example.com", 400)
    wait('"at@home"@example.com', 100_000, priority=Priority.LOW)
    wait("eve@example.org", 7200, next_attempt_at=from_now(600))
    wait("eve@later.example", 10, scheduled_at=from_now(3600), next_attempt_at=from_now(3600))
    with engine.begin() as connection:
        found = trends.shape(connection)
        assert found.lines == [("example.com", [1, 0, 1, 0, 0, 0, 1]), ("example.org", [0, 0, 0, 0, 1, 0, 0])]
        assert found.complete
        monkeypatch.setattr(trends, "FIRST", 1)
        assert not trends.shape(connection).complete
    wait("ida@example.com", 10, priority=Priority.LOW)
    with engine.begin() as connection:
        monkeypatch.setattr(trends, "FIRST", 5)
        assert trends.shape(connection).complete, "four of one lane, two of another"
        monkeypatch.setattr(trends, "FIRST", 4)
        assert not trends.shape(connection).complete
