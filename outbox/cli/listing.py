"""`outbox list`; and how a row of the queue is shown anywhere."""

from collections.abc import Iterable
from typing import Any

import click
import sqlalchemy as sa
from rich.text import Text
from sqlalchemy.orm import Session

from outbox.addresses import parse_mailbox
from outbox.cli.surroundings import open_database
from outbox.cli.terminal import RemarkTable, cell, count, json_option, put, put_json
from outbox.database import reading
from outbox.models import QueuedEmail
from outbox.states import LEASED, Priority, Status
from outbox.times import distance

STYLES = {
    Status.PENDING: "",
    Status.CLAIMED: "cyan",
    Status.SENDING: "cyan",
    Status.SENT: "green",
    Status.DEAD: "red",
    Status.UNCERTAIN: "yellow",
    Status.CANCELLED: "dim",
}

_INDEXED = {
    Status.PENDING: "status = 'pending'",
    Status.CLAIMED: "status IN ('claimed', 'sending') AND status = 'claimed'",
    Status.SENDING: "status IN ('claimed', 'sending') AND status = 'sending'",
    Status.SENT: "status = 'sent'",  # most rows are: the newest are found at once
    Status.DEAD: "status IN ('dead', 'uncertain') AND status = 'dead'",
    Status.UNCERTAIN: "status IN ('dead', 'uncertain') AND status = 'uncertain'",
    Status.CANCELLED: "status IN ('sent', 'dead', 'cancelled') AND status = 'cancelled'",
}
"""The condition, led by the predicate of the partial index that knows the rows of that status."""


@click.command("list", short_help="List the mails of the queue, newest first.")
@click.option("--status", type=click.Choice([str(status) for status in Status]))
@click.option("--recipient", metavar="ADDRESS", help="Mail to this address, in whatever letter case.")
@click.option("--category")
@click.option("--priority", type=click.Choice([lane.label for lane in Priority]))
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@json_option
def list_(
    status: str | None, recipient: str | None, category: str | None, priority: str | None, limit: int, *, as_json: bool
) -> None:
    """List the mails of the queue, newest first, one for each recipient."""
    # Along the primary key from its end: without filters it reads `limit` rows. Neither recipient nor category has an
    # index; the rarer the match, the more history is read.
    query = sa.select(QueuedEmail).order_by(QueuedEmail.id.desc()).limit(limit)
    if status:
        query = query.where(sa.text(_INDEXED[Status(status)]))
    if recipient:
        address = parse_mailbox("recipient", recipient).address
        # Both sides by the database: which letters its `lower` knows is its own affair.
        query = query.where(sa.func.lower(QueuedEmail.recipient) == sa.func.lower(address))
    if category:
        query = query.where(QueuedEmail.category == category)
    if priority:
        query = query.where(QueuedEmail.priority == Priority[priority.upper()])
    with open_database() as (_, engine), reading(engine) as connection, Session(connection) as session:
        rows = session.scalars(query).all()
    if as_json:
        put_json([fields(row) for row in rows])
    elif not rows:
        click.echo("No mail.", err=True)
    else:
        put(MailTable(rows))
        if len(rows) == limit:
            click.echo(f"The newest {count(limit, 'mail')}; --limit shows more.", err=True)


def fields(row: QueuedEmail) -> dict[str, Any]:
    """A row of the queue for JSON: its columns by their names, the priority by its label. The claim is the worker's."""
    columns = {column.key: getattr(row, column.key) for column in sa.inspect(QueuedEmail).column_attrs}
    del columns["claim_token"]
    return columns | {"priority": Priority(row.priority).label}


class MailTable(RemarkTable):
    """A line for each mail; what it waits for, or its last error, is the remark."""

    def __init__(self, rows: Iterable[QueuedEmail]) -> None:
        super().__init__(
            ("Id", "Status", "Priority", "Recipient", "Subject", "Tries", "When"),
            "Remark",
            ((_cells(row), row.waiting_for or row.last_error) for row in rows),
            cut=("Recipient", "Subject"),
            right=("Id",),
        )


def _cells(row: QueuedEmail) -> list[Text]:
    status = Status(row.status)
    return [
        cell(row.id),
        cell(status, STYLES[status]),
        cell(Priority(row.priority).label),
        cell(row.recipient),
        cell(row.subject),
        cell(f"{row.attempts}/{row.max_attempts}"),
        cell(_when(row)),
    ]


def _when(row: QueuedEmail) -> str:
    """When it goes, or went."""
    if row.status in LEASED:
        return "now"
    if row.finalized_at is not None:
        return distance(row.finalized_at)
    if row.status == Status.UNCERTAIN:
        return "-"
    moment = distance(row.next_attempt_at)
    return "due" if moment.endswith("ago") else moment
