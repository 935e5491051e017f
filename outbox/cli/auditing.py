"""`outbox audit`: who did what."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from outbox import auditing
from outbox.cli.moments import time_or_ago
from outbox.cli.moving import mail_id
from outbox.cli.surroundings import open_database
from outbox.cli.terminal import RemarkTable, cell, json_option, put, put_json
from outbox.database import reading


@click.command(short_help="Show who did what.")
@click.option("--who", metavar="TEXT", help="A part of the name.")
@click.option("--action", metavar="VERB", help="requeue, cancel, resolve, pause, resume, suppress, erase, ...")
@click.option("--target", metavar="TEXT", help="A part of what it was done to: a relay, an address.")
@click.option("--mail", "email_id", type=mail_id, metavar="ID")
@click.option("--since", callback=time_or_ago, metavar="TIME", help="2h, 3d (ago), or 2026-12-24T18:00+01:00.")
@click.option("--until", callback=time_or_ago, metavar="TIME")
@click.option("--before", type=click.IntRange(min=1), metavar="LINE", help="Go on behind this line.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@json_option
def audit(*, limit: int, as_json: bool, **wanted: Any) -> None:
    """Show what people did, newest first: on the command line, the pages and the API. All that is asked for must hold.

    It is kept for OUTBOX_AUDIT_RETENTION_DAYS, longer than the mails that it speaks of.
    """
    with open_database() as (_, engine), reading(engine) as connection:
        found = [line._asdict() for line in auditing.lines(connection, limit=limit, **wanted)]
    if as_json:
        put_json(found)
    elif not found:
        click.echo("Nothing is on record.", err=True)
    else:
        put(AuditTable(found))
        if len(found) == limit:
            click.echo(f"--before {found[-1]['id']} shows what was before.", err=True)


_SAID = ("who", "action", "target")


class AuditTable(RemarkTable):
    """A line for each deed; what else was said of it is the remark."""

    def __init__(self, lines: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(
            ("Line", "When", "Who", "Action", "Target"),
            "Detail",
            (
                (
                    [cell(line["id"]), cell(_local(line["at"])), *(cell(line[name]) for name in _SAID)],
                    ", ".join(_told(line["detail"])),
                )
                for line in lines
            ),
            cut=("Who", "Target"),
            right=("Line",),
            whole=True,
        )


def _local(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def _told(detail: dict[str, Any]) -> list[str]:
    """`{"filter": {"category": "news"}, "reason": ""}` -> `category news`; what is empty says nothing."""
    told = []
    for name, value in detail.items():
        if isinstance(value, dict):
            told += _told(value)
        elif value not in ("", None):
            told.append(f"{name} {value}")
    return told
