"""How the databases run the statements, told by themselves: none must read the history to find what is due.

With few rows every plan is quick, so that nothing else would notice.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox import (
    auditing,
    claims,
    events,
    feedback,
    operations,
    purging,
    searching,
    settlement,
    stats,
    superseding,
    suppressions,
    trends,
    wiping,
)
from outbox.chunk import load
from outbox.claims import Begin, Release
from outbox.database import create_engine
from outbox.feedback import Event, Taken
from outbox.operations import Resolution
from outbox.searching import Filter
from outbox.settlement import Attempt, Settlement
from outbox.states import DeadReason, Feedback, Outcome, Priority, Stage, Status
from tests import rows
from tests.rows import LEASE, from_now

FINAL, CONTENTS, DUE = 200_000, 20_000, 1000

LEASED_THEN = {"nobody held a lease": 0, "5,000 rows were leased": 5000}
"""When autovacuum counted the rows: the planner believes it until the next time."""

COMPILED = 500_000
"""The cost from which on PostgreSQL compiles a plan as well as it can (`jit_inline_above_cost`): up to a second."""

Check = Callable[..., None]
"""`check(*indexes)`: what ran since the last check looked each row up, by these indexes among others."""


@pytest.fixture(scope="module")
def history(postgresql: sa.URL, postgresql_template: str) -> Iterator[sa.Engine]:
    """Months of mail, each with its attempt, and a backlog."""
    server = create_engine(postgresql.render_as_string(hide_password=False), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE history TEMPLATE {postgresql_template}")
    engine = create_engine(postgresql.set(database="history").render_as_string(hide_password=False))
    sent = rows.add(engine, status=Status.SENT, claims=1, attempts=1, sent_at=from_now(-9), finalized_at=from_now(-9))
    with engine.begin() as connection:
        # One content in 40 is sensitive, and not wiped.
        sealed = "CASE WHEN n % 40 = 0 THEN 'sealed'::bytea END"
        names = {"message_id": "'<' || n || '@example.com>'", "request_id": "'req-' || n / 2"}
        rows.repeat(connection, "email_contents", CONTENTS, sealed=sealed, **names)
        # A row every 70 seconds; one in 400 is dead, and one uncertain.
        rows.repeat(
            connection,
            "email_queue",
            FINAL,
            content_id=f"1 + n % {CONTENTS}",
            recipient="'user' || n % 50000 || '@example.com'",
            finalized_at="CASE WHEN n % 400 <> 1 THEN now() - n * interval '70 seconds' END",
            status="CASE n % 400 WHEN 0 THEN 'dead' WHEN 1 THEN 'uncertain' WHEN 2 THEN 'cancelled' ELSE 'sent' END",
            dead_reason="CASE WHEN n % 400 = 0 THEN 'rejected' END",
            sent_at="CASE WHEN n % 400 > 2 THEN now() END",
            supersedes="CASE WHEN n % 400 BETWEEN 10 AND 20 THEN 'otp:42' END",
        )
        connection.exec_driver_sql(
            "INSERT INTO email_attempts (email_id, number, started_at, outcome, stage, reply, relay, worker)"
            " SELECT id, 1, now(), 'sent', 'dot', 'ok', 'relay:25', 'worker-1' FROM email_queue"
        )
        connection.exec_driver_sql(
            "INSERT INTO email_blobs (sha256, size, data, created_at)"
            f" SELECT n, 0, '', now() - n * interval '700 seconds' FROM generate_series(1, {CONTENTS}) AS n"
        )
        connection.exec_driver_sql(
            "INSERT INTO email_attachments (content_id, position, sha256, filename, content_type)"
            f" SELECT n, 0, n, 'a.txt', 'text/plain' FROM generate_series(1, {CONTENTS}) AS n"
        )
        connection.exec_driver_sql(
            "INSERT INTO email_suppressions (target, reason, source)"
            " SELECT n || '@example.com', 'gone', 'relay:25' FROM generate_series(1, 20000) AS n"
        )
    assert sent == [1]
    for lane in Priority:
        rows.add(engine, DUE // 3, priority=lane)
    yield engine
    engine.dispose()
    with server.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE history WITH (FORCE)")
    server.dispose()


def _analyze(engine: sa.Engine, leased: int) -> None:
    ids = rows.leased(engine, Status.CLAIMED, "then", leased) if leased else []
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))
        connection.execute(sa.text("DELETE FROM email_queue WHERE id = ANY(:ids)"), {"ids": ids})


@contextmanager
def explained(engine: sa.Engine, mode: str) -> Iterator[tuple[sa.Connection, Callable[[], list[str]]]]:
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
    """The scans of the tables that grow, each with its condition if it has one."""
    tables = r"\w*email_(?:queue|contents|attempts|suppressions|blobs|attachments)"
    pattern = rf"((?:Seq|Index|Index Only|Bitmap \w+) Scan[^\n]* on {tables}[^\n]*(?:\n\s+Index Cond: [^\n]*)?)"
    return [re.sub(r"\s+", " ", scan) for scan in re.findall(pattern, plan)]


def foreseen(plan: str) -> float:
    """What the planner believes it will cost."""
    return float(re.search(r"cost=[\d.]+\.\.([\d.]+)", plan)[1])  # type: ignore[index]


def run_each(connection: sa.Connection, check: Check) -> None:
    """Every statement of a mail's way, of the reaper, of the gauges and of a person."""
    assert claims.due_lanes(connection) == set(Priority)
    check("ix_email_queue_due")
    claim = claims.claim(connection, dict.fromkeys(Priority, 100), "worker-1", LEASE)
    check("ix_email_queue_due", "pk_email_queue")
    assert sum(claims.in_flight(connection).values()) == 300
    check("ix_email_queue_leased")
    ids = list(claim.ids[Priority.NORMAL])
    assert len(load(connection, ids, claim.token)) == 100
    check("pk_email_queue", "pk_email_contents")
    assert suppressions.find(connection, [("7@example.com", "news"), ("ann@example.com", None)])
    check("pk_email_suppressions")
    assert len(claims.begin(connection, [Begin(id_, claim.token, "own", "relay:25") for id_ in ids], LEASE)) == 100
    check("pk_email_queue")
    assert len(claims.release(connection, [Release(id_, "own") for id_ in ids[75:]])) == 25
    check("pk_email_queue")
    _settle(connection, check, ids[:75])
    _reap(connection, check, list(claim.ids[Priority.HIGH]))
    _look(connection, check)
    _decide(connection, check, ids)
    _wipe(connection, check, ids)
    _replace(connection, check)
    _tell(connection, check)
    _purge(connection, check)
    _take_feedback(connection, check)


def _take_feedback(connection: sa.Connection, check: Check) -> None:
    told = Event(Feedback.BOUNCED, "ses", "1", "nobody@example.com", from_now(0), message_ids=("<7@example.com>",))
    assert feedback.take(connection, [told, replace(told, message_ids=(), provider_id="0100018f")])[Taken.UNKNOWN] == 2
    check("ix_email_queue_recipient")
    assert not stats.is_deeper_than(connection, 9 * DUE)
    check("ix_email_queue_due")


def _settle(connection: sa.Connection, check: Check, ids: list[int]) -> None:
    line = Attempt(0, 1, 0.1, Outcome.SENT, Stage.DOT, 250, "ok", "relay:25", "worker-1")
    sent = [Settlement(id_, "own", Status.SENT, attempt=line._replace(id=id_)) for id_ in ids[:25]]
    assert len(settlement.settle(connection, sent)) == 25
    check("pk_email_queue")
    gone = Settlement(
        ids[25], "own", Status.DEAD, dead_reason=DeadReason.REJECTED, last_error="rcpt: who?", suppress=True
    )
    assert settlement.settle(connection, [gone._replace(attempt=line._replace(id=ids[25]))])
    check("pk_email_queue", "pk_email_attempts")
    lost = [Settlement(id_, "own", Status.UNCERTAIN, attempt=line._replace(id=id_)) for id_ in ids[26:75]]
    uncertain = [s._replace(attempt=s.attempt and s.attempt._replace(outcome=Outcome.UNCERTAIN)) for s in lost]
    assert len(settlement.settle(connection, uncertain)) == 49
    check("pk_email_queue")
    late = [Settlement(id_, "own", Status.SENT, attempt=line._replace(id=id_)) for id_ in ids[26:50]]
    assert settlement.settle_late(connection, late) == settlement.known_as_sent(connection, late) == set(ids[26:50])
    check("pk_email_queue", "pk_email_attempts")


def _reap(connection: sa.Connection, check: Check, ids: list[int]) -> None:
    begins = [Begin(id_, claim, "own", "relay:25") for id_, claim in _tokens(connection, ids[:50])]
    claims.begin(connection, begins, -1)
    check("pk_email_queue")
    assert claims.return_unbegun(connection, 500) == []
    check("ix_email_queue_leased", "pk_email_queue")
    assert len(claims.find_lapsed_sendings(connection, 500)) in {0, 50}  # now() is when the transaction began
    check("ix_email_queue_leased")


def _tokens(connection: sa.Connection, ids: list[int]) -> list[tuple[int, str]]:
    query = sa.text("SELECT claim_token FROM email_queue WHERE id = :id")
    return [(id_, connection.execute(query, {"id": id_}).scalar_one()) for id_ in ids]


def _look(connection: sa.Connection, check: Check) -> None:
    for gauge, index in (
        (stats.waiting, "ix_email_queue_due"),
        (stats.in_flight, "ix_email_queue_leased"),
        (stats.failed, "ix_email_queue_failed"),
        (stats.finished, "ix_email_queue_final"),
        (trends.delays, "ix_email_queue_final"),
        (trends.shape, "ix_email_queue_due"),
        (lambda connection: trends.course(connection, 60, 60), "ix_email_queue_final"),
    ):
        assert gauge(connection)
        check(index)


def _decide(connection: sa.Connection, check: Check, ids: list[int]) -> None:
    uncertain, waiting = ids[50:75], ids[75:]
    assert operations.cancel(connection, waiting) == set(waiting)
    check("pk_email_queue")
    assert operations.requeue(connection, waiting) == set(waiting)
    check("pk_email_queue")
    for id_, resolution in zip(uncertain, Resolution, strict=False):
        assert operations.resolve(connection, id_, resolution)
        check("pk_email_queue")


def _wipe(connection: sa.Connection, check: Check, ids: list[int]) -> None:
    connection.execute(
        sa.text(
            "UPDATE email_contents SET sealed = :sealed WHERE id = (SELECT content_id FROM email_queue WHERE id = :id)"
        ),
        {"sealed": b"sealed", "id": ids[0]},
    )
    check()
    wiping.wipe(connection, ids)
    check("pk_email_queue")
    found = wiping.forgotten(connection)
    check("ix_email_contents_sealed", "ix_email_queue_content_id")
    wiping.wipe_forgotten(connection, [*found, 7])
    check()


def _replace(connection: sa.Connection, check: Check) -> None:
    newest = (
        "SELECT id, content_id FROM email_queue WHERE status = 'pending' ORDER BY priority, next_attempt_at LIMIT 1"
    )
    id_, content_id = connection.execute(sa.text(newest)).one()
    keyed = "UPDATE email_queue SET supersedes = 'otp:42', collapse = 'comments:42' WHERE id = :id"
    connection.execute(sa.text(keyed), {"id": id_})
    given = "UPDATE email_contents SET contexts = '[{}]', template = 'comments' WHERE id = :id"
    connection.execute(sa.text(given), {"id": content_id})
    check()
    assert superseding.supersede(connection, ["otp:42"]) == set()
    check("ix_email_queue_supersedable")
    digest = superseding.waiting(connection, "comments:42", "ann@example.com", None, "comments")
    assert digest is not None
    check("ix_email_queue_collapse", "pk_email_contents")
    superseding.take_up(connection, digest)
    check("pk_email_queue", "pk_email_contents")


def _tell(connection: sa.Connection, check: Check) -> None:
    events.between(connection, events.beginning(from_now(-60)), from_now(-5))
    check("ix_email_attempts_unsent", "ix_email_queue_final")


def _purge(connection: sa.Connection, check: Check) -> None:
    assert stats.failed_lately(connection)
    check("ix_email_queue_final", "ix_email_queue_failed", "pk_email_attempts")
    before = from_now(-100 * 86400)
    mails = connection.scalars(purging.first(purging.old_mails(before), *purging.BY_END)).all()
    check("ix_email_queue_final", "ix_email_queue_content_id")
    bodies = connection.scalars(purging.first(purging.old_bodies(before), *purging.BY_AGE)).all()
    check("ix_email_contents_unpurged")
    connection.scalars(purging.first(purging.old_files(before), *purging.FILES_BY_AGE)).all()
    check("ix_email_blobs_created_at", "ix_email_attachments_sha256")
    purging.empty_bodies(connection, [*bodies, 7], before)
    purging.delete_mails(connection, [*mails, 7], before)
    check("pk_email_contents", "ix_email_queue_content_id")


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("then", LEASED_THEN)
def test_no_statement_reads_the_history(history: sa.Engine, then: str, mode: str) -> None:
    _analyze(history, LEASED_THEN[then])
    with explained(history, mode) as (connection, plans):

        def check(*indexes: str) -> None:
            told = plans()
            found = [scan for plan in told for scan in nodes(plan)]
            assert not [scan for scan in found if "Seq Scan" in scan], found
            assert not [plan for plan in told if foreseen(plan) > COMPILED], told
            for index in indexes:
                # By id in whichever index has it: what is leased may be looked up in that of the leased rows.
                pattern = rf"(?:using|on) {index}\b" + (r"|Index Cond: .*\(id = " if index == "pk_email_queue" else "")
                assert [scan for scan in found if re.search(pattern, scan)], (index, told)

        run_each(connection, check)


SEARCHES: tuple[tuple[dict[str, Any], tuple[str, ...]], ...] = (
    ({}, ("pk_email_queue",)),
    ({"recipient": "USER7@example.com"}, ("ix_email_queue_recipient",)),
    ({"recipient": "nobody@example.com", "subject": "offer"}, ("ix_email_queue_recipient",)),
    ({"message_id": "7@example.com"}, ("uq_email_contents_message_id", "ix_email_queue_content_id")),
    ({"request_id": "req-7"}, ("ix_email_contents_request_id", "ix_email_queue_content_id")),
    ({"status": Status.DEAD}, ("ix_email_queue_failed",)),
    ({"status": Status.CANCELLED}, ("ix_email_queue_cancelled",)),
    ({"status": Status.DEAD, "dead_reason": DeadReason.EXPIRED}, ("ix_email_queue_failed",)),
    ({"subject": "offer", "category": "news"}, ("pk_email_queue",)),
    ({"since": from_now(-86400 * 9), "until": from_now(-86400 * 8)}, ("pk_email_queue",)),
)
"""What a page of the mails may be asked for, and the indexes that answer."""


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_no_page_reads_the_history(history: sa.Engine, mode: str) -> None:
    _analyze(history, 0)
    with explained(history, mode) as (connection, plans), Session(connection) as session:

        def check(*indexes: str) -> None:
            found = [scan for plan in plans() for scan in nodes(plan)]
            assert not [scan for scan in found if "Seq Scan" in scan], found
            for index in indexes:
                assert [scan for scan in found if re.search(rf"(?:using|on) {index}\b", scan)], (index, found)

        for wanted, indexes in SEARCHES:
            searching.page(session, Filter(**wanted), before=FINAL)
            check(*indexes)
        for wanted, indexes in (
            ({"status": Status.DEAD}, ("ix_email_queue_failed",)),
            ({"subject": "offer"}, ("ix_email_queue_failed", "ix_email_queue_cancelled")),
        ):
            searching.matching(connection, Filter(**wanted), auditing.REQUEUEABLE)
            check(*indexes)
            searching.count_matching(connection, Filter(**wanted), auditing.REQUEUEABLE)
            check(*indexes)
        assert suppressions.page(connection, after=("7@example.com", ""), limit=50)
        assert suppressions.page(connection, "7@example.com", limit=50)
        check("pk_email_suppressions")


def test_the_guard_sees_a_sequential_scan(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url)
    with explained(engine, "auto") as (connection, plans):
        connection.execute(sa.text("SELECT count(*) FROM email_queue WHERE recipient = 'nobody'")).all()
        (plan,) = plans()
    engine.dispose()
    (scan,) = nodes(plan)
    assert "Seq Scan" in scan


SPELLED = {
    "pk_email_queue": "INTEGER PRIMARY KEY",
    "pk_email_contents": "INTEGER PRIMARY KEY",
    "pk_email_attempts": "sqlite_autoindex_email_attempts_1",
    "pk_email_suppressions": "sqlite_autoindex_email_suppressions_1",
}
"""SQLite's names of primary keys."""


@pytest.fixture
def told(sqlite_url: str) -> Iterator[tuple[sa.Engine, list[str]]]:
    """SQLite, and what it tells of each statement before running it. It plans by its rules, not by the rows' number."""
    engine = create_engine(sqlite_url)
    steps: list[str] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def _(_connection: sa.Connection, cursor: Any, statement: str, parameters: Any, *_rest: object) -> None:
        if re.match(r"\s*(SELECT|UPDATE|INSERT|DELETE)", statement):
            steps.extend(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    yield engine, steps
    engine.dispose()


def table_scans(steps: list[str]) -> list[str]:
    """The steps that read a table of ours from end to end, but for the partial indexes, which hold what is wanted."""
    queue, contents = "queue_(?:due|leased|final|failed|cancelled)", "contents_(?:sealed|unpurged)"
    partial = rf"USING (?:COVERING )?INDEX ix_email_(?:{queue}|{contents})\b"
    scans = [step for step in steps if re.match(r"SCAN (?:email_\w+|[acfq])\b", step)]
    return [scan for scan in scans if not re.search(partial, scan)]


def test_no_statement_scans_a_table_of_sqlite(told: tuple[sa.Engine, list[str]]) -> None:
    engine, steps = told
    for lane in Priority:
        rows.add(engine, DUE // 3, priority=lane)
    with engine.begin() as connection:
        suppressions.add(connection, "7@example.com", "gone", "Eve")
        steps.clear()

        def check(*indexes: str) -> None:
            assert table_scans(steps) == []
            for index in indexes:
                assert [step for step in steps if SPELLED.get(index, index) in step], (index, steps)
            steps.clear()

        run_each(connection, check)


def test_the_guard_sees_a_scan_of_sqlite(told: tuple[sa.Engine, list[str]]) -> None:
    engine, steps = told
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT count(*) FROM email_queue AS q WHERE recipient = 'nobody'")).all()
        connection.execute(sa.text("SELECT count(content_id) FROM email_queue")).all()
    assert len(table_scans(steps)) == 2
