"""`outbox list`; and how a row of the queue is shown anywhere."""

from collections.abc import Sequence
from typing import Any

import click
import sqlalchemy as sa
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from sqlalchemy.orm import Session

from outbox.addresses import parse_mailbox
from outbox.cli.surroundings import open_database
from outbox.cli.terminal import cell, count, json_option, put, put_json, table
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

_WIDE = 110
"""Columns from which an error has one of its own; below, a line."""

_INDENT = 6

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


@click.command("list")
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
        query = query.where(sa.func.lower(QueuedEmail.recipient) == address.lower())
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


class MailTable:
    """A line for each mail. Its last error has a column where there is room, and else a line of its own below."""

    def __init__(self, rows: Sequence[QueuedEmail]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """For rich."""
        if options.max_width >= _WIDE and any(row.last_error for row in self._rows):
            yield self._table("Last error")
            return
        header, *lines = console.render_lines(self._table(), options, pad=False)
        yield from (*header, Segment.line())
        for row, line in zip(self._rows, lines, strict=True):  # no cell wraps
            yield from (*line, Segment.line())
            if row.last_error:
                yield Padding(cell(row.last_error, "dim"), (0, 0, 0, _INDENT))

    def _table(self, *error: str) -> Table:
        made = table(
            "Id", "Status", "Priority", "Recipient", "Subject", "Tries", "When", *error,
            cut=("Recipient", "Subject", "Last error"), right=("Id",),
        )  # fmt: skip
        for row in self._rows:
            status = Status(row.status)
            line = [
                cell(row.id),
                cell(status, STYLES[status]),
                cell(Priority(row.priority).label),
                cell(row.recipient),
                cell(row.subject),
                cell(f"{row.attempts}/{row.max_attempts}"),
                cell(_when(row)),
            ]
            made.add_row(*line, *([cell(row.last_error or "", "dim")] if error else []))
        return made


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
