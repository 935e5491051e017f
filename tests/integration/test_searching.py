"""Mails by what is known of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox import auditing, searching
from outbox.database import create_engine
from outbox.models import EmailAudit, QueuedEmail
from outbox.searching import Filter
from outbox.states import DeadReason, Priority, Status
from tests import rows

DEAD: dict[str, Any] = {"status": Status.DEAD, "dead_reason": DeadReason.REJECTED, "finalized_at": rows.from_now(-5)}


def found(engine: sa.Engine, **wanted: object) -> list[int]:
    with Session(engine) as session:
        return [mail.id for mail in searching.page(session, Filter(**wanted)).mails]  # type: ignore[arg-type]


def test_each_condition(engine: sa.Engine) -> None:
    (plain,) = rows.add(engine)
    (dead,) = rows.add(engine, **DEAD)
    (other,) = rows.add(
        engine, recipient="Bob@example.com", subject="Your 100% offer", category="news", priority=Priority.HIGH
    )
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE email_contents SET request_id = 'r-1', message_id = '<m@x>' WHERE id = 3"))
    assert found(engine) == [other, dead, plain]
    assert found(engine, status=Status.DEAD) == [dead]
    assert found(engine, status=Status.DEAD, dead_reason=DeadReason.EXPIRED) == []
    assert found(engine, recipient="bob@EXAMPLE.com") == [other]
    assert found(engine, subject="100% OFF") == [other]
    assert found(engine, subject="100_") == []
    assert found(engine, category="news", priority=Priority.HIGH) == [other]
    assert found(engine, message_id="m@x") == found(engine, message_id="<m@x>") == [other]
    assert found(engine, request_id="r-1") == [other]


def test_times(engine: sa.Engine) -> None:
    old = rows.add(engine, 3, created_at=rows.from_now(-7200))
    middle = rows.add(engine, 3, created_at=rows.from_now(-3600))
    new = rows.add(engine, 3)
    since, until = datetime.now(UTC) - timedelta(seconds=4000), datetime.now(UTC) - timedelta(seconds=3000)
    assert found(engine, since=since, until=until) == middle[::-1]
    assert found(engine, since=until) == new[::-1]
    assert found(engine, until=since) == old[::-1]
    assert found(engine, since=datetime.now(UTC) + timedelta(days=1)) == []


def test_times_where_ids_are_missing(engine: sa.Engine) -> None:
    since = datetime.now(UTC) - timedelta(days=3)
    assert found(engine, since=since) == found(engine, until=since) == []
    ids = [*rows.add(engine, 40, created_at=rows.from_now(-5 * 86400)), *rows.add(engine, 40)]
    kept = [ids[5], ids[70]]
    with engine.begin() as connection:
        connection.execute(sa.delete(QueuedEmail).where(QueuedEmail.id.not_in(kept)))
    assert (found(engine, until=since), found(engine, since=since)) == (kept[:1], kept[1:])


def test_a_stretch_of_time_is_found_in_three_statements(engine: sa.Engine) -> None:
    """On a busy machine each waits for its turn: the twenty probes of an end are one."""
    rows.add(engine, 500)
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *event: statements.append(event[2]))
    assert len(found(engine, since=rows.from_now(-60), until=rows.from_now(60))) == 50
    assert len([statement for statement in statements if not statement.startswith("BEGIN")]) == 3


def test_pages(engine: sa.Engine) -> None:
    ids = rows.add(engine, 5)
    with Session(engine) as session:
        first = searching.page(session, Filter(), limit=2)
        assert [mail.id for mail in first.mails] == ids[:2:-1]
        second = searching.page(session, Filter(), before=first.next_before, limit=2)
        last = searching.page(session, Filter(), before=second.next_before, limit=2)
    assert [mail.id for mail in (*second.mails, *last.mails)] == ids[2::-1]
    assert last.next_before is None


def test_a_page_stops_looking_and_says_so(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "WINDOW", 3)
    (wanted,) = rows.add(engine, category="rare", created_at=rows.from_now(-60))
    rows.add(engine, 5, category="news")
    with Session(engine) as session:
        first = searching.page(session, Filter(category="rare"))
        assert (list(first.mails), first.searched_to is not None) == ([], True)
        second = searching.page(session, Filter(category="rare"), before=first.next_before)
        assert [mail.id for mail in second.mails] == [wanted]
        last = searching.page(session, Filter(category="rare"), before=second.next_before)
        assert (last.mails, last.next_before) == ([], None)


def test_a_move_on_a_filter_is_on_record(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "BATCH", 2)
    dead = rows.add(engine, 5, category="news", **DEAD)
    (other,) = rows.add(engine, category="receipts", **DEAD)
    wanted = Filter(category="news")
    with engine.connect() as connection:
        assert searching.count_matching(connection, wanted, auditing.REQUEUEABLE) == 5
    told: list[int] = []
    moved = auditing.on_filter(
        engine,
        wanted,
        auditing.REQUEUEABLE,
        lambda connection, ids: auditing.requeue(connection, ids, "ada", filter=wanted.given()),
        told.append,
    )
    assert (moved, told) == (5, [2, 4, 5])
    assert rows.statuses(engine, [*dead, other]) == ["pending"] * 5 + ["dead"]
    with engine.connect() as connection:
        (line,) = auditing.of_mail(connection, dead[0])
        assert auditing.of_mail(connection, other) == []
    assert (line.who, line.action, line.detail) == ("ada", "requeue", {"filter": {"category": "news"}})
    assert str(Filter(priority=Priority.HIGH, recipient="a@b.c")) == "recipient a@b.c, priority high"


def test_the_record_of_today_is_found_without_reading_that_of_the_year(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    spans = [(20_000, -9_000_000), (3, -5), (20_000, 9_000_000)]
    with engine.begin() as connection:
        for number, seconds in spans:
            line = {"who": "ada", "action": "cancel", "target": "x", "detail": {}, "at": rows.from_now(seconds)}
            connection.execute(sa.insert(EmailAudit), [line] * number)
    steps: list[int] = []
    with engine.connect() as connection:
        # Called for every thousand steps of SQLite's machine; a row that is read takes ten or so.
        connection.connection.driver_connection.set_progress_handler(lambda: steps.append(1), 1000)  # type: ignore[union-attr]
        today = auditing.lines(connection, since=rows.from_now(-60), until=rows.from_now(60))
    assert len(today) == 3
    assert len(steps) < 20
    engine.dispose()
