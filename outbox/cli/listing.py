"""`outbox list`; and how a row of the queue is shown anywhere."""

from collections.abc import Iterable
from typing import Any

import click
import sqlalchemy as sa
from rich.text import Text
from sqlalchemy.orm import Session

from outbox import searching
from outbox.cli.filtering import filter_options
from outbox.cli.surroundings import open_database
from outbox.cli.terminal import RemarkTable, cell, count, json_option, put, put_json
from outbox.database import reading
from outbox.models import QueuedEmail
from outbox.searching import Filter
from outbox.states import LEASED, Priority, Status
from outbox.times import clock, distance

STYLES = {
    Status.PENDING: "",
    Status.CLAIMED: "cyan",
    Status.SENDING: "cyan",
    Status.SENT: "green",
    Status.DEAD: "red",
    Status.UNCERTAIN: "yellow",
    Status.CANCELLED: "dim",
}


@click.command("list", short_help="List the mails of the queue, newest first.")
@filter_options
@click.option("--before", type=click.IntRange(min=1), metavar="ID", help="Go on behind this mail.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@json_option
def list_(wanted: Filter, before: int | None, limit: int, *, as_json: bool) -> None:
    """List the mails of the queue, newest first, one for each recipient. All that is asked for must hold.

    A recipient, a Message-ID, a request and every status but sent are found however old they are. For anything else,
    this looks through the newest 10,000 mails, says how far back that was, and with which --before it goes on.
    """
    with open_database() as (_, engine), reading(engine) as connection, Session(connection) as session:
        found = searching.page(session, wanted, before=before, limit=limit)
    if as_json:
        put_json([fields(row) for row in found.mails])
    elif found.mails:
        put(MailTable(found.mails))
    elif found.searched_to is None:
        click.echo("No mail.", err=True)
    if found.searched_to is not None:
        click.echo(f"Searched back to {clock(found.searched_to)}; --before {found.next_before} goes on.", err=True)
    elif found.next_before is not None and not as_json:
        click.echo(
            f"The newest {count(limit, 'mail')}; --limit shows more, --before {found.next_before} goes on.", err=True
        )


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
