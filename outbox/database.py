"""The engine, and what PostgreSQL and SQLite say differently.

Every other file speaks SQL that both understand, through the constructs below.
"""

import json
import select
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from outbox.errors import SettingsError

SQLITE_BUSY_SECONDS = 30
"""How long a writer waits for another's transaction: the longest bulk enqueue we would expect, and some."""

LIVENESS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""For libpq (seconds; the last in milliseconds): a PostgreSQL that vanished without a word is noticed within a minute.

Without these a worker would wait for the kernel, 15 minutes and more, with mails in its hands. `DATABASE_URL` may set
others: `postgresql://host/db?connect_timeout=3`.
"""

QUIET = 1
"""Seconds after which a pooled connection is not taken to be alive because nothing else was heard of it."""

SQLITE_OLDEST = (3, 35)
"""RETURNING."""

BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""SQLite counts up by itself only in an INTEGER PRIMARY KEY."""


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware datetime. PostgreSQL keeps the zone itself; SQLite keeps text, in UTC, that sorts by time."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware in, or an error: a naive time is an hour wrong twice a year."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone: pass an aware datetime")
        return value.astimezone(UTC).replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware out."""
        del dialect
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class utcnow(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function that it is
    """The database's clock: one clock for all workers, whatever theirs say."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(utcnow, "postgresql")
def _utcnow_postgresql(element: utcnow, compiler: SQLCompiler, **kwargs: Any) -> str:
    del element, compiler, kwargs
    return "now()"


@compiles(utcnow, "sqlite")
def _utcnow_sqlite(element: utcnow, compiler: SQLCompiler, **kwargs: Any) -> str:
    del element, compiler, kwargs
    # Six digits, as SQLAlchemy writes a bound datetime, so that text sorts as time.
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


class PostgreSQL:
    """Words of PostgreSQL."""

    now = "now()"
    skip_locked = "FOR NO KEY UPDATE SKIP LOCKED"
    """Not FOR UPDATE: that would also skip rows whose child row (an attempt) is being inserted."""

    lock = "FOR NO KEY UPDATE"
    """The same, and waits for whoever has the row."""

    @staticmethod
    def after(seconds: str) -> str:
        """The time that many seconds from now."""
        return f"now() + CAST({seconds} AS double precision) * interval '1 second'"

    @staticmethod
    def seconds_since(time: str) -> str:
        """How long ago that was."""
        return f"CAST(extract(epoch FROM now() - {time}) AS double precision)"

    @staticmethod
    def among(query: str) -> str:
        """`id {among(query)}`: as an array, evaluated once (1.2 ms; joined as a CTE 1,463 ms, at 1.3 M rows)."""
        return f"= ANY(ARRAY({query}))"

    @staticmethod
    def numbers(parameter: str) -> str:
        """The rows of a JSON array of integers."""
        return f"SELECT CAST(value AS bigint) FROM json_array_elements_text(CAST({parameter} AS json))"

    @staticmethod
    def texts(parameter: str) -> str:
        """The rows of a JSON array of strings."""
        return f"SELECT value FROM json_array_elements_text(CAST({parameter} AS json))"

    @staticmethod
    def lines(parameter: str, **columns: str) -> str:
        """The rows of a JSON array of objects, as a table `line`."""
        typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        return f"json_to_recordset(CAST({parameter} AS json)) AS line({typed})"

    @staticmethod
    def on_line(column: str, parameter: str) -> str:
        """`column = line.id`, for an UPDATE from `lines(parameter)`.

        With the ids once more, as an array: the planner does not know how many rows are leased, takes them for few and
        reads them all to join them (one line, 6,000 leased rows: 2.1 ms; with the array 0.15).
        """
        ids = f"SELECT CAST(value ->> 'id' AS bigint) FROM json_array_elements(CAST({parameter} AS json))"
        return f"{column} {PostgreSQL.among(ids)} AND {column} = line.id"


class SQLite:
    """The same in words of SQLite, whose one writer needs no row locks. Times are text that sorts."""

    now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
    skip_locked = ""
    lock = ""

    @staticmethod
    def after(seconds: str) -> str:
        """The time that many seconds from now."""
        return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', ({seconds}) || ' seconds')"

    @staticmethod
    def seconds_since(time: str) -> str:
        """How long ago that was."""
        return f"(julianday('now') - julianday({time})) * 86400.0"

    @staticmethod
    def among(query: str) -> str:
        """`id {among(query)}`."""
        return f"IN ({query})"

    @staticmethod
    def numbers(parameter: str) -> str:
        """The rows of a JSON array of integers."""
        return f"SELECT value FROM json_each({parameter})"

    @staticmethod
    def texts(parameter: str) -> str:
        """The rows of a JSON array of strings."""
        return f"SELECT value FROM json_each({parameter})"

    @staticmethod
    def lines(parameter: str, **columns: str) -> str:
        """The rows of a JSON array of objects, as a table `line`."""
        picked = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in columns)
        return f"(SELECT {picked} FROM json_each({parameter})) AS line"

    @staticmethod
    def on_line(column: str, parameter: str) -> str:
        """`column = line.id`, for an UPDATE from `lines(parameter)`."""
        del parameter  # SQLite looks each line up by itself
        return f"{column} = line.id"


Words = type[PostgreSQL] | type[SQLite]


class Statement:
    """One SQL statement, written once and spelled for the database it runs on.

    Plain SQL rather than expressions: the predicates of the partial indexes must stand in it literally, and an
    operator who finds it in `pg_stat_activity` finds it here, too.
    """

    def __init__(self, write: Callable[[Words], str], **types: Any) -> None:
        self._spelled: dict[str, sa.TextClause | sa.TextualSelect] = {}
        for name, words in _DIALECTS.items():
            text = sa.text(write(words))
            self._spelled[name] = text.columns(**types) if types else text

    def __call__(self, connection: sa.Connection, /, **parameters: Any) -> sa.CursorResult[Any]:
        """Run it."""
        return connection.execute(self._spelled[connection.dialect.name], parameters)


_DIALECTS: dict[str, Words] = {"postgresql": PostgreSQL, "sqlite": SQLite}


_BY_INDEX = sa.text("SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)")


def by_index(connection: sa.Connection) -> None:
    """Until the transaction ends, rows are looked up one by one in their index, whatever PostgreSQL thinks of it.

    Its statistics are of a minute ago, and the plan of a statement that is run often is as old as the connection: with
    few rows then, it reads a whole table now. And of the ways by an index, only the plain one leaves a note at entries
    whose rows are gone (16 conversations in a burst: what is in flight was counted on 525 pages in place of 1,181).
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_BY_INDEX)


def insert(into: Any, connection: sa.Connection) -> postgresql.Insert | sqlite.Insert:
    """INSERT with ON CONFLICT, which SQLAlchemy offers for each database separately."""
    return postgresql.insert(into) if connection.dialect.name == "postgresql" else sqlite.insert(into)


_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's


def insert_lines(
    connection: sa.Connection, into: sa.Insert | sa.sql.dml.ReturningInsert[Any], lines: Sequence[Mapping[str, Any]]
) -> sa.CursorResult[Any]:
    """Many rows, with the same columns each, by a statement from `insert`.

    On PostgreSQL as one JSON parameter: the driver takes a statement of 22,000 parameters apart, one by one, which cost
    more than all else (300 us a mail; 20 so).
    """
    table = into.table
    assert isinstance(table, sa.Table)
    if connection.dialect.name != "postgresql":
        return connection.execute(into, lines)
    names, source = lines_of(table, tuple(lines[0]), ":lines")
    line = sa.text(f"SELECT {', '.join(names)} FROM {source}").columns(*(table.c[name] for name in names))
    return connection.execute(into.from_select(names, line), {"lines": json_of(table, lines)})


def lines_of(table: sa.Table, given: Sequence[str], parameter: str) -> tuple[list[str], str]:
    """The columns that rows with the given ones have, and those rows, out of `json_of`: in words of PostgreSQL."""
    names = [*given, *(name for name in _defaults(table) if name not in given)]
    kinds = {name: table.c[name].type.compile(_POSTGRESQL) for name in names}
    return names, PostgreSQL.lines(parameter, **kinds)


def json_of(table: sa.Table, lines: Sequence[Mapping[str, Any]]) -> str:
    """The parameter of `lines_of`, with the columns' defaults."""
    return json.dumps([_defaults(table) | dict(line) for line in lines], ensure_ascii=False, default=_plain)


@cache
def _defaults(table: sa.Table) -> dict[str, Any]:
    return {c.name: c.default.arg for c in table.c if isinstance(c.default, sa.ColumnDefault) and c.default.is_scalar}


def _plain(value: datetime | bytes) -> str:
    """As PostgreSQL reads it."""
    return f"\\x{value.hex()}" if isinstance(value, bytes) else value.isoformat()


def create_engine(url: str, **options: Any) -> sa.Engine:
    """The engine for `DATABASE_URL`, with the promises that Outbox needs of it.

    PostgreSQL: psycopg 3, and a connection that died is noticed: in the pool, before it is used (`_look_at`); in use,
    by `LIVENESS`.
    SQLite: WAL (readers never wait), `synchronous=FULL` (a commit is on disk) and `BEGIN IMMEDIATE` (a transaction
    takes the write lock when it starts and cannot fail half-way: 0 BUSY against 806 in 10,000 with a deferred one).
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:  # not repeated: there may be a password in it
        raise SettingsError(
            "DATABASE_URL is no URL: use postgresql://user:password@host/name or sqlite:///path"
        ) from error
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "postgresql":
        liveness = {name: value for name, value in LIVENESS.items() if name not in parsed.query}
        defaults = {"pool_size": 10, "max_overflow": 20, "connect_args": liveness}
        engine = sa.create_engine(parsed, **defaults | options)
        sa.event.listen(engine, "checkin", _note_return)
        sa.event.listen(engine, "checkout", partial(_look_at, engine.dialect))
        return engine
    if parsed.get_backend_name() == "sqlite":
        if sqlite3.sqlite_version_info < SQLITE_OLDEST:
            raise SettingsError(
                f"DATABASE_URL={url}: SQLite {sqlite3.sqlite_version} is too old, RETURNING needs "
                f"{'.'.join(map(str, SQLITE_OLDEST))}; use a newer Python build or PostgreSQL"
            )
        engine = sa.create_engine(parsed, **{"connect_args": {"timeout": SQLITE_BUSY_SECONDS}} | options)
        sa.event.listen(engine, "connect", _open_sqlite)
        sa.event.listen(engine, "begin", _begin_immediate)
        return engine
    raise SettingsError(f"DATABASE_URL={parsed.render_as_string()}: use postgresql:// or sqlite:///")


_READING = "outbox_reading"


def reading_engine(engine: sa.Engine) -> sa.Engine:
    """The same, for transactions that only look: on SQLite, they neither take the write lock nor wait for it."""
    return engine.execution_options(**{_READING: True})


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that only looks."""
    with reading_engine(engine).begin() as connection:
        yield connection


_RETURNED = "outbox_returned"
"""The key of a pooled connection's `info` for when it came back, by `time.monotonic`."""


def _note_return(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.info[_RETURNED] = time.monotonic()


def _look_at(dialect: Dialect, connection: Any, record: ConnectionPoolEntry, _: object) -> None:
    """Before a transaction: is the server still there?

    SQLAlchemy's `pool_pre_ping` asks it each time, which costs a mail that is queued by itself 0.4 ms of 2. A server
    that ends a connection says so, and then there is something to read; where there is, or where it has been quiet for
    long enough that somebody in between may have forgotten it, the server is asked.
    """
    returned = record.info.get(_RETURNED)
    if returned is None:
        return  # it is new
    try:
        heard = select.poll()
        heard.register(connection.pgconn.socket, select.POLLIN)
        if heard.poll(0) or time.monotonic() - returned >= QUIET:
            dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise sa.exc.InvalidatePoolError from error  # the others will be no better; the pool opens new ones


def _open_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, in _begin_immediate
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(_READING) else "BEGIN IMMEDIATE")
