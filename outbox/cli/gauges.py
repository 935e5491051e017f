"""`outbox stats`."""

from dataclasses import asdict
from typing import Any

import click

from outbox import stats as gauges
from outbox.cli.surroundings import open_database
from outbox.cli.terminal import cell, duration, json_option, put, put_json, table
from outbox.states import DeadReason, Priority

_TOTAL = "total"
_COLUMNS = {
    "Due": "due",
    "Later": "scheduled",
    "Claimed": "claimed",
    "Sending": "sending",
    "Uncertain": "uncertain",
    "Dead": "dead",
    "Sent/h": "sent_hour",
    "Sent/d": "sent_day",
    "Cancelled/d": "cancelled_day",
}


@click.command()
@json_option
def stats(*, as_json: bool) -> None:
    """Count the mails: what is due, in flight and failed, and what was sent within the hour and the day."""
    lanes = _read()
    if as_json:
        put_json(lanes)
        return
    made = table("", *_COLUMNS, right=list(_COLUMNS))
    for lane, numbers in lanes.items():
        shown = numbers | {"dead": sum(numbers["dead"].values())}
        made.add_row(
            cell(lane, "bold" if lane == _TOTAL else ""),
            *(cell(f"{shown[key]:,}", "" if shown[key] else "dim") for key in _COLUMNS.values()),
        )
    put(made, "")
    total = lanes[_TOTAL]
    oldest = total["oldest_due_seconds"]
    click.echo(f"Oldest due mail: {'none' if oldest is None else f'due for {duration(oldest)}'}")
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in total["dead"].items() if number)
    click.echo(f"Dead: {reasons or 'none'}")


def _read() -> dict[str, dict[str, Any]]:
    """The gauges of each lane and of all together, by their names in `outbox.stats`."""
    with open_database() as (_, engine), engine.begin() as connection:
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
