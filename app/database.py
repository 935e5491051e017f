"""The base of the application's tables, and a request's session."""

from enum import StrEnum

import sqlalchemy as sa
from flask import Flask, current_app, g, request
from sqlalchemy.orm import DeclarativeBase, Session
from werkzeug.routing import IntegerConverter, Map

from outbox import models
from outbox.database import reading_engine

LARGEST_ID = 2**63 - 1
"""What a `BigId` can be compared with: the databases raise for more."""


class Base(DeclarativeBase):
    """The tables of the application. Outbox's own have a base, and a history of migrations, of their own."""

    metadata = sa.MetaData(naming_convention=models.Base.metadata.naming_convention)


def one_of(column: str, values: type[StrEnum]) -> sa.CheckConstraint:
    """That the column holds a value of the enumeration."""
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=column)


def request_session() -> Session:
    """The request's session: begun at its first use, closed with the request. A view that changes anything commits it.

    GET only reads: on SQLite, where a transaction that may write keeps all others out, it does not wait for any.
    """
    session: Session
    if "database_session" not in g:
        sessions = current_app.extensions["sessions"]
        reads = request.method in {"GET", "HEAD"}
        session = sessions(bind=reading_engine(current_app.extensions["engine"])) if reads else sessions()
        g.database_session = session
    session = g.database_session
    return session


class Id(IntegerConverter):
    """`<int:id>` in a path. What no id can be is not found."""

    def __init__(self, map: Map) -> None:  # noqa: A002 - Werkzeug's name
        super().__init__(map, max=LARGEST_ID)


def close_sessions(app: Flask) -> None:
    """Close each request's session with the request; what was not committed is rolled back."""

    @app.teardown_request
    def close(_: BaseException | None) -> None:
        session: Session | None = g.pop("database_session", None)
        if session is not None:
            session.close()
