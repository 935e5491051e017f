"""The oracle sees what it is there to see."""

import pytest
import sqlalchemy as sa

from outbox.database import create_engine
from outbox.states import Outcome, Status
from tests import rows
from tests.faults.oracle import at_rest, judge
from tests.smtp_script import Mail

ANN = "ann@example.com"


@pytest.fixture
def engine(sqlite_url: str) -> sa.Engine:
    """Empty."""
    return create_engine(sqlite_url)


def accepted(copies: int, recipient: str = ANN) -> list[Mail]:
    return [Mail("shop@example.com", (recipient,), b"", 1, 0.0)] * copies


def add_sent(engine: sa.Engine, *uncertain: int) -> None:
    """A row for Ann that was sent, after as many uncertain attempts as numbers are given."""
    (id_,) = rows.add(engine, status=Status.SENT, sent_at=rows.from_now(0), finalized_at=rows.from_now(0))
    with engine.begin() as connection:
        for number in uncertain:
            rows.add_attempt(connection, id_, number, Outcome.UNCERTAIN)


def test_all_is_well(engine: sa.Engine) -> None:
    add_sent(engine)
    verdict = judge(engine, [ANN], accepted(1))
    assert verdict.holds
    assert verdict.statuses == {"sent": 1}
    assert at_rest(engine)


@pytest.mark.parametrize("copies", [0, 1])
def test_a_row_that_is_not_there(engine: sa.Engine, copies: int) -> None:
    verdict = judge(engine, [ANN] * (1 - copies), accepted(copies))
    assert len(verdict.lost) == 1
    assert "there is no row" in str(verdict)


def test_a_row_that_is_not_at_rest(engine: sa.Engine) -> None:
    rows.add(engine)
    assert not at_rest(engine)
    assert judge(engine, [ANN], []).lost == [f"{ANN}: still pending"]


def test_a_row_that_claims_to_be_sent(engine: sa.Engine) -> None:
    add_sent(engine)
    assert judge(engine, [ANN], []).lost == [f"{ANN}: sent, and never accepted"]


@pytest.mark.parametrize(("copies", "uncertain", "explained"), [(2, 0, False), (2, 1, True), (3, 1, False)])
def test_each_copy_too_many_needs_an_attempt_on_record(
    engine: sa.Engine, copies: int, uncertain: int, explained: bool
) -> None:
    add_sent(engine, *range(1, uncertain + 1))
    verdict = judge(engine, [ANN], accepted(copies))
    assert verdict.doubled == {ANN}
    assert verdict.holds is explained


def test_a_copy_of_what_is_said_not_to_be_sent(engine: sa.Engine) -> None:
    rows.add(engine, status=Status.CANCELLED, finalized_at=rows.from_now(0))
    assert not judge(engine, [ANN], accepted(1)).holds
