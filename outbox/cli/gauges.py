"""`outbox stats`."""

from dataclasses import asdict
from typing import Any

import click
from rich.text import Text

from outbox import stats as gauges
from outbox.cli import live
from outbox.cli.surroundings import open_database
from outbox.cli.terminal import cell, json_option, put, put_json, table
from outbox.database import reading
from outbox.states import DeadReason, Priority
from outbox.times import duration

_TOTAL = "total"
_LINES = {
    "Due": "due",
    "Scheduled": "scheduled",
    "Claimed": "claimed",
    "Sending": "sending",
    "Uncertain": "uncertain",
    "Sent within an hour": "sent_hour",
    "Sent within a day": "sent_day",
    "Cancelled within a day": "cancelled_day",
}


@click.command(short_help="Count the mails: due, in flight, failed and sent.")
@click.option(
    "--watch",
    is_flag=False,
    flag_value="2",
    callback=live.check_seconds,
    metavar="[SECONDS]",
    help="Show it live, with rates, relays, workers and what is wrong, until Ctrl-C. [every 2 seconds]",
)
@json_option
def stats(watch: float | None, *, as_json: bool) -> None:
    """Count the mails: what is due, in flight and failed, and what was sent within the hour and the day.

    Scheduled is what goes later, at its appointed time or when its next try is due. Claimed and sending mail is in a
    worker's hands. Uncertain and dead mail waits for a person, from whatever time.
    """
    if watch is not None:
        if as_json:
            raise click.UsageError("--watch is for eyes, --json for programs: keep one")
        with open_database() as (settings, engine):
            live.watch(engine, settings, watch)
        return
    lanes = _read()
    if as_json:
        put_json(lanes)
        return
    made = table("", *lanes, right=list(lanes))
    for name, key in _LINES.items():
        made.add_row(cell(name), *(_number(lane[key]) for lane in lanes.values()))
    for reason in DeadReason:
        made.add_row(cell(f"Dead: {reason}"), *(_number(lane["dead"][reason]) for lane in lanes.values()))
    ages = (lane["oldest_due_seconds"] for lane in lanes.values())
    made.add_row(cell("Oldest due for"), *(cell(None, "dim") if age is None else cell(duration(age)) for age in ages))
    put(made)


def _number(number: int) -> Text:
    return cell(f"{number:,}", "" if number else "dim")


def _read() -> dict[str, dict[str, Any]]:
    """The gauges of each lane and of all together, by their names in `outbox.stats`."""
    with open_database() as (_, engine), reading(engine) as connection:
        groups = [read(connection) for read in (gauges.waiting, gauges.in_flight, gauges.failed, gauges.finished)]
    lanes = {
        lane.label: {key: value for group in groups for key, value in asdict(group[lane]).items()} for lane in Priority
    }
    return lanes | {_TOTAL: _sum(list(lanes.values()))}


def _sum(lanes: list[dict[str, Any]]) -> dict[str, Any]:
    ages = [lane["oldest_due_seconds"] for lane in lanes if lane["oldest_due_seconds"] is not None]
    return {key: sum(lane[key] for lane in lanes) for key in lanes[0] if key not in {"oldest_due_seconds", "dead"}} | {
        "oldest_due_seconds": max(ages, default=None),
        "dead": {reason: sum(lane["dead"][reason] for lane in lanes) for reason in DeadReason},
    }
