"""What the engine promises of each database."""

import re
import select
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa

from outbox import database
from outbox.database import UtcDateTime, create_engine, utcnow
from outbox.errors import SettingsError

TIMES = sa.Table("times", sa.MetaData(), sa.Column("at", UtcDateTime()))


def test_an_sqlite_commit_is_on_disk_and_keys_are_checked(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    with engine.connect() as connection:
        told = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    engine.dispose()
    assert told == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_two_writers_wait_for_each_other(engine: sa.Engine) -> None:
    """Each reads, then writes: with a deferred BEGIN, SQLite refuses one of them at once (BUSY), timeout or not."""
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE counter (n INTEGER)")
        connection.exec_driver_sql("INSERT INTO counter VALUES (0)")

    def count(times: int) -> None:
        for _ in range(times):
            with engine.begin() as connection:
                connection.exec_driver_sql("SELECT n FROM counter").scalar()
                time.sleep(0.001)
                connection.exec_driver_sql("UPDATE counter SET n = n + 1")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(count, [50, 50]))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT n FROM counter").scalar() == 100


def test_a_rolled_back_table_is_gone(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE gone (n INTEGER)")
        connection.rollback()
        assert not sa.inspect(connection).has_table("gone")


@pytest.mark.parametrize(
    "time",
    [
        datetime(2026, 3, 29, 0, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 3, 29, 3, tzinfo=timezone(timedelta(hours=2))),
        datetime(2026, 3, 29, 1, microsecond=1, tzinfo=UTC),
    ],
)
def test_a_time_comes_back_aware_and_the_same(engine: sa.Engine, time: datetime) -> None:
    with engine.begin() as connection:
        TIMES.create(connection)
        connection.execute(sa.insert(TIMES).values(at=time))
        found = connection.scalar(sa.select(TIMES.c.at))
        assert found == time
        assert found is not None
        assert found.tzinfo is not None
        assert connection.scalar(sa.select(TIMES.c.at).where(TIMES.c.at == time)) == time


def test_no_time_comes_back_as_none(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        TIMES.create(connection)
        connection.execute(sa.insert(TIMES).values(at=None))
        assert connection.execute(sa.select(TIMES.c.at)).all() == [(None,)]


def test_a_naive_time_is_refused(engine: sa.Engine) -> None:
    with engine.connect() as connection, pytest.raises(sa.exc.StatementError, match="has no time zone"):
        connection.execute(sa.insert(TIMES).values(at=datetime(2026, 3, 29)))  # noqa: DTZ001 - that is the point


def test_the_databases_clock_sorts_among_times_of_ours(engine: sa.Engine) -> None:
    """SQLite compares text: a digit more or less, and noon is before morning."""
    before, after = datetime.now(UTC) - timedelta(seconds=1), datetime.now(UTC) + timedelta(seconds=30)
    with engine.begin() as connection:
        TIMES.create(connection)
        connection.execute(sa.insert(TIMES).values(at=utcnow()))
        connection.execute(sa.insert(TIMES).values(at=before))
        connection.execute(sa.insert(TIMES).values(at=after))
        first, clock, last = connection.scalars(sa.select(TIMES.c.at).order_by(TIMES.c.at)).all()
        assert (first, last) == (before, after)
        assert before < clock < after
        assert connection.scalar(sa.select(sa.func.count()).where(TIMES.c.at <= utcnow())) == 2


def test_sqlite_writes_all_times_alike(sqlite_url: str) -> None:
    """So that text sorts as time, and equal times are equal."""
    engine = create_engine(sqlite_url)
    with engine.begin() as connection:
        TIMES.create(connection)
        connection.execute(sa.insert(TIMES).values(at=utcnow()))
        connection.execute(sa.insert(TIMES).values(at=datetime(2026, 3, 29, tzinfo=UTC)))
        texts = connection.exec_driver_sql("SELECT at FROM times").scalars().all()
    engine.dispose()
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", text) for text in texts), texts


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_goes_through_psycopg(scheme: str) -> None:
    engine = create_engine(f"{scheme}://ada:secret@db/mail")
    assert engine.dialect.driver == "psycopg"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("mysql://ada:secret@db/mail", "DATABASE_URL=mysql://ada:***@db/mail: use postgresql:// or sqlite:///"),
        ("secret", "DATABASE_URL is no URL: use postgresql://user:password@host/name or sqlite:///path"),
    ],
)
def test_another_database_is_refused_and_no_password_shown(url: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        create_engine(url)
    assert str(refused.value) == sentence


@contextmanager
def elsewhere(url: str) -> Iterator[sa.Connection]:
    """Another program's transaction."""
    engine = create_engine(url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def test_a_connection_that_the_server_ended_is_replaced_unasked(postgresql_url: str) -> None:
    """All that were waiting in the pool: a restart of the server ends every one of them."""
    engine = create_engine(postgresql_url)
    held = [engine.connect() for _ in range(4)]
    ended = [connection.connection.dbapi_connection.info.backend_pid for connection in held]  # type: ignore[union-attr]
    for connection in held:
        connection.close()
    with elsewhere(postgresql_url) as connection:
        for process in ended:
            connection.execute(sa.text("SELECT pg_terminate_backend(:process, 10000)"), {"process": process})
    for _ in ended:
        with engine.begin() as connection:
            assert connection.scalar(sa.text("SELECT pg_backend_pid()")) not in ended
    engine.dispose()


def test_the_server_is_asked_only_where_there_is_doubt(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question is a round trip, and most mails are queued in a transaction of their own."""
    engine, asked = create_engine(postgresql_url), list[int]()
    monkeypatch.setattr(engine.dialect, "do_ping", lambda _: asked.append(1))

    def use() -> int:
        with engine.begin() as connection:
            connection.execute(sa.text("SELECT 1"))
        return len(asked)

    monkeypatch.setattr(database, "QUIET", 3600)
    assert [use(), use(), use()] == [0, 0, 0]
    monkeypatch.setattr(database, "QUIET", 0)  # somebody in between may have forgotten it
    assert use() == 1
    monkeypatch.setattr(database, "QUIET", 3600)
    with engine.begin() as connection:
        connection.execute(sa.text("LISTEN news"))
        socket = connection.connection.dbapi_connection.pgconn.socket  # type: ignore[union-attr]
    with elsewhere(postgresql_url) as connection:
        connection.execute(sa.text("NOTIFY news"))
    assert select.select([socket], [], [], 10)[0]
    assert use() == 2  # something came that it had not been asked for
    engine.dispose()


def test_a_connection_that_broke_in_use_is_replaced(postgresql_url: str) -> None:
    """Its user gave it back without a word, as one does who ignores an error."""
    engine = create_engine(postgresql_url)
    with engine.connect() as connection:
        broken = connection.connection.dbapi_connection
        assert broken is not None
        broken.pgconn.finish()
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1
    engine.dispose()
