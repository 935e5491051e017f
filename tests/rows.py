"""Rows whose defaults fit their state, and what became of them."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from outbox.models import EmailAttempt, EmailContent, QueuedEmail
from outbox.states import Outcome, Priority, Stage, Status

LEASE = 900.0


def from_now(seconds: float) -> datetime:
    """A time by this machine's clock, which is the database server's."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


def add(engine: sa.Engine, count: int = 1, **columns: Any) -> list[int]:
    """Pending rows, due since a minute, in this order; `columns` for what should be otherwise."""
    with engine.begin() as connection:
        content = connection.execute(
            sa.insert(EmailContent).values(
                message_id=f"<{uuid4().hex}@example.com>",
                date=from_now(0),
                sender="shop@example.com",
                to_header="ann@example.com",
                subject="Receipt",
                text="Thank you.",
                headers={},
                sensitive=False,
                size=10,
            )
        ).inserted_primary_key
        assert content is not None
        defaults: dict[str, Any] = {
            "content_id": content[0],
            "recipient": "ann@example.com",
            "kind": "to",
            "subject": "Receipt",
            "status": Status.PENDING,
            "priority": Priority.NORMAL,
            "next_attempt_at": from_now(-60),
            "attempts": 0,
            "max_attempts": 5,
            "claims": 0,
            "on_uncertain": "retry",
        }
        rows = [defaults | columns for _ in range(count)]
        result = connection.execute(
            sa.insert(QueuedEmail).returning(QueuedEmail.id, sort_by_parameter_order=True), rows
        )
        return list(result.scalars())


def leased(engine: sa.Engine, status: Status, token: str, count: int = 1, **columns: Any) -> list[int]:
    """Rows in somebody's hands."""
    owned: dict[str, Any] = {
        "claim_token": token,
        "claimed_by": "worker-1",
        "lease_expires_at": from_now(LEASE),
        "claims": 1,
    }
    if status is Status.SENDING:
        owned["relay"] = "relay:25"
    return add(engine, count, **({"status": status} | owned | columns))


def repeat(connection: sa.Connection, table: str, count: int, **values: str) -> None:
    """The first row again and again, as `n` of 2 to `count`, but for these columns, which are SQL. PostgreSQL alone."""
    names = [column["name"] for column in sa.inspect(connection).get_columns(table) if column["name"] != "id"]
    chosen = ", ".join(values.get(name, name) for name in names)
    copy = f"INSERT INTO {table} ({', '.join(names)}) SELECT {chosen} FROM {table}, generate_series(2, {count}) AS n"
    connection.execute(sa.text(f"{copy} WHERE id = 1"))


def add_attempt(connection: sa.Connection, id_: int, number: int, outcome: Outcome) -> None:
    """A line of the record, in the caller's transaction."""
    values = {"started_at": from_now(-60), "stage": Stage.DOT, "reply": "", "relay": "relay:25", "worker": "worker-1"}
    connection.execute(sa.insert(EmailAttempt).values(email_id=id_, number=number, outcome=outcome, **values))


def row(engine: sa.Engine, id_: int) -> sa.Row[Any]:
    """The row as another connection sees it."""
    with engine.connect() as connection:
        return connection.execute(sa.select(QueuedEmail.__table__).where(QueuedEmail.id == id_)).one()


def statuses(engine: sa.Engine, ids: Iterable[int]) -> list[str]:
    """The statuses, in the order of `ids`."""
    with engine.connect() as connection:
        found = {row.id: row.status for row in connection.execute(sa.select(QueuedEmail.id, QueuedEmail.status))}
    return [found[id_] for id_ in ids]


def attempts(engine: sa.Engine, id_: int | None = None) -> list[sa.Row[Any]]:
    """The lines of one mail, or all."""
    query = sa.select(EmailAttempt.__table__).order_by(EmailAttempt.email_id, EmailAttempt.number)
    if id_ is not None:
        query = query.where(EmailAttempt.email_id == id_)
    with engine.connect() as connection:
        return list(connection.execute(query).all())
