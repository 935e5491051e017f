"""Time that passes in a test. A database's clock cannot be set: what is written grows older instead."""

from datetime import timedelta
from functools import partial

import sqlalchemy as sa

from outbox.database import Statement, UtcDateTime, Words
from outbox.models import Base, EmailContent

_WRITTEN = EmailContent.__table__.c.date
"""The Date header: the same mail is the same bytes, whenever it goes."""


def _grow_older(columns: list[str], table: str, sql: Words) -> str:
    moved = [f"{name} = {sql.after(f'-({sql.seconds_since(name)}) - :seconds')}" for name in columns]
    return f"UPDATE {table} SET {', '.join(moved)}"


_GROW_OLDER = [
    Statement(partial(_grow_older, times, table.name))
    for table in Base.metadata.sorted_tables
    if (times := [c.name for c in table.c if isinstance(c.type, UtcDateTime) and c is not _WRITTEN])
]

_CATCH_UP = sa.text(
    "UPDATE email_queue SET next_attempt_at = now() "
    "WHERE status = 'pending' AND next_attempt_at > now() AND next_attempt_at <= clock_timestamp()"
)

_MAKE_DUE = Statement(lambda sql: f"UPDATE email_queue SET next_attempt_at = {sql.now} WHERE status = 'pending'")


def travel(connection: sa.Connection, by: timedelta) -> None:
    """Let that much time pass for all mail and all relays."""
    if by <= timedelta(0):
        raise ValueError(f"travel by {by}: time only passes; give more than 0 seconds")
    for statement in _GROW_OLDER:
        statement(connection, seconds=by.total_seconds())


def catch_up(connection: sa.Connection) -> None:
    """Make due what became due while the transaction was open.

    For PostgreSQL it is still the moment at which that began: a test's begins before it schedules a mail for now.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_CATCH_UP)


def make_due(connection: sa.Connection) -> None:
    """Every pending mail, now: for who only wants to look, and takes it back."""
    _MAKE_DUE(connection)
