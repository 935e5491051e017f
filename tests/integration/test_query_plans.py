"""How PostgreSQL runs the statements, told by itself while it runs them: a claim must not read the history.

With few rows every plan is quick, so that nothing else would notice.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from outbox import claims
from outbox.chunk import load
from outbox.claims import Begin, Release
from outbox.database import create_engine
from outbox.settlement import Attempt, Settlement, settle, settle_late
from outbox.states import Outcome, Priority, Stage, Status
from tests import rows
from tests.rows import LEASE, from_now

SENT = 50_000
DUE = 500

Plans = Callable[[], list[str]]


@pytest.fixture
def engine(postgresql_url: str) -> Iterator[sa.Engine]:
    """Years of history, analyzed when nobody held a lease: then the planner thinks that nobody ever does."""
    engine = create_engine(postgresql_url)
    (first,) = rows.add(
        engine, status=Status.SENT, claims=1, attempts=1, sent_at=from_now(-9000), finalized_at=from_now(-9000)
    )
    with engine.begin() as connection:
        columns = [column for column in sa.inspect(connection).get_columns("email_queue") if column["name"] != "id"]
        names = ", ".join(column["name"] for column in columns)
        copy = f"INSERT INTO email_queue ({names}) SELECT {names} FROM email_queue, generate_series(2, :rows)"
        connection.execute(sa.text(f"{copy} WHERE id = :first"), {"rows": SENT, "first": first})
        connection.execute(
            sa.text(
                "INSERT INTO email_attempts (email_id, number, started_at, outcome, stage, reply, relay, worker)"
                " SELECT id, 1, now(), 'sent', 'dot', 'ok', 'relay:25', 'worker-1' FROM email_queue"
            )
        )
    for lane in Priority:
        rows.add(engine, DUE, priority=lane)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))
    yield engine
    engine.dispose()


@contextmanager
def explained(engine: sa.Engine, mode: str) -> Iterator[tuple[sa.Connection, Plans]]:
    """A connection, and a function that returns the plans of what it has run since it was last asked."""
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.prepare_threshold = 0  # as after the fifth time
        told: list[str] = []
        driver.add_notice_handler(lambda notice: told.append(notice.message_primary))
        connection.exec_driver_sql("LOAD 'auto_explain'")
        for setting in (
            "auto_explain.log_min_duration = 0",
            "client_min_messages = log",
            f"plan_cache_mode = {mode}",
        ):
            connection.exec_driver_sql(f"SET {setting}")

        def plans() -> list[str]:
            connection.exec_driver_sql("SHOW plan_cache_mode")  # a plan is told when the next statement comes
            # Without the statement itself; and without the checks of foreign keys, which PostgreSQL plans.
            found = [plan.partition("\n\n")[2] or plan for plan in told if 'FROM ONLY "public"' not in plan]
            told.clear()
            return found

        plans()
        yield connection, plans
        connection.rollback()
        connection.invalidate()  # its settings end with it


def nodes(plan: str) -> list[str]:
    """The scans of `email_queue`, each with its condition if it has one."""
    pattern = r"((?:Seq|Index|Index Only|Bitmap \w+) Scan[^\n]* on email_queue\b[^\n]*(?:\n\s+Index Cond: [^\n]*)?)"
    return [re.sub(r"\s+", " ", scan) for scan in re.findall(pattern, plan)]


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_no_statement_reads_the_history(engine: sa.Engine, mode: str) -> None:
    with explained(engine, mode) as (connection, plans):

        def scans(expected: int = 1) -> str:
            told = plans()
            assert len(told) == expected, told
            found = [scan for plan in told for scan in nodes(plan)]
            assert found, told
            assert not [scan for scan in found if "Seq Scan" in scan or "Bitmap" in scan], found
            return "\n".join(found)

        assert claims.due_lanes(connection) == set(Priority)
        assert scans().count("using ix_email_queue_due") == 3

        claim = claims.claim(connection, dict.fromkeys(Priority, 100), "worker-1", LEASE)
        told = scans()
        assert told.count("using ix_email_queue_due") == 3
        assert "using pk_email_queue on email_queue" in told

        assert sum(claims.in_flight(connection).values()) == 300
        assert "using ix_email_queue_leased" in scans()

        ids = claim.ids[Priority.NORMAL]
        assert len(load(connection, ids, claim.token)) == 100
        assert "Index Cond: (id = ANY" in scans()

        assert len(claims.begin(connection, [Begin(id_, claim.token, "own") for id_ in ids], LEASE)) == 100
        assert "Index Cond: (id = ANY" in scans()

        assert len(claims.release(connection, [Release(id_, "own") for id_ in ids[50:]])) == 50
        assert "Index Cond: (id = ANY" in scans()

        attempt = Attempt(0, 1, 0.1, Outcome.SENT, Stage.DOT, 250, "ok", "relay:25", "worker-1")
        settlements = [Settlement(id_, "own", Status.SENT, attempt=attempt._replace(id=id_)) for id_ in ids[:50]]
        assert len(settle(connection, settlements)) == 50
        assert "Index Cond: (id = ANY" in scans(expected=2)

        assert claims.return_unbegun(connection, 500) == []
        told = scans()
        assert "using ix_email_queue_leased on email_queue q" in told
        assert "using pk_email_queue on email_queue" in told

        assert claims.find_lapsed_sendings(connection, 500) == []
        assert "using ix_email_queue_leased on email_queue q" in scans()


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_a_late_settle_reads_no_history(engine: sa.Engine, mode: str) -> None:
    ids = rows.add(engine, 20, claims=1)
    with engine.begin() as connection:
        for id_ in ids:
            rows.add_attempt(connection, id_, 1, Outcome.UNCERTAIN)
    attempt = Attempt(0, 1, 0.1, Outcome.SENT, Stage.DOT, 250, "ok", "relay:25", "worker-1")
    late = [Settlement(id_, "own", Status.SENT, attempt=attempt._replace(id=id_)) for id_ in ids]
    with explained(engine, mode) as (connection, plans):
        assert settle_late(connection, late) == set(ids)
        told = plans()
    assert len(told) == 3
    assert not [plan for plan in told if "Seq Scan" in plan], told


def test_the_guard_sees_a_sequential_scan(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url)
    with explained(engine, "auto") as (connection, plans):
        connection.execute(sa.text("SELECT count(*) FROM email_queue WHERE recipient = 'nobody'")).all()
        (plan,) = plans()
    engine.dispose()
    (scan,) = nodes(plan)
    assert "Seq Scan" in scan
