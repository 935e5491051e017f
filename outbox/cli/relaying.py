"""`outbox relays`, `outbox pause`, `outbox resume`: whether mail goes to a relay."""

from datetime import datetime, timedelta
from typing import Any

import click
import sqlalchemy as sa
from rich.text import Text

from outbox import auditing, breaker
from outbox.breaker import Standing
from outbox.cli.surroundings import open_database, who
from outbox.cli.terminal import RemarkTable, cell, json_option, put, put_json
from outbox.database import reading, utcnow
from outbox.printable import safe
from outbox.settings import Settings
from outbox.states import RelayState
from outbox.times import distance

_STYLES = {
    RelayState.CLOSED: "green",
    RelayState.OPEN: "red",
    RelayState.HALF_OPEN: "yellow",
    RelayState.PAUSED: "yellow",
}


@click.command(short_help="Show the relays and whether mail goes through them.")
@json_option
def relays(*, as_json: bool) -> None:
    """Show the relays of the settings, in order of preference, and whether mail goes to them.

    closed: mail goes there, unless it rests because it wanted less of us. open: it is in trouble, and one mail will try
    it; latched if that is about our settings, which a person should mend. half_open: that one mail is on its way.
    paused: by a person, until `outbox resume`.
    """
    with open_database() as (settings, engine), reading(engine) as connection:
        now = connection.execute(sa.select(utcnow())).scalar_one()
        lines = [_fields(standing, now) for standing in breaker.standings(connection, settings.endpoints).values()]
    if as_json:
        put_json(lines)
        return
    columns = ("Relay", "State", "Since", "Until", "Failures")
    rows = ((_cells(line, now), _remark(line)) for line in lines)
    put(RemarkTable(columns, "Reason (by)", rows, cut=("Relay",), right=("Failures",), whole=True))


@click.command(short_help="Send nothing to a relay until it is resumed.")
@click.argument("relay", required=False)
@click.option("--reason", required=True, help="For whoever wonders why no mail goes.")
@json_option
def pause(relay: str | None, reason: str, *, as_json: bool) -> None:
    """Send nothing to RELAY (host:port; the only one, if there is one) until it is resumed.

    The mail in hand is finished. Mail goes to the other relays, if the settings have any; else it waits.
    """
    if not reason.strip() or not reason.isprintable():
        raise click.BadParameter(f"{reason!r}: say why, in printable characters", param_hint="--reason")
    with open_database() as (settings, engine), engine.begin() as connection:
        name = _known(settings, relay)
        auditing.pause(connection, name, reason, who())
    if as_json:
        put_json({"relay": name, "paused": True})
    else:
        click.echo(safe(f"No mail goes to {name} until `outbox resume {name}`."))


@click.command(short_help="Send to a relay again.")
@click.argument("relay", required=False)
@json_option
def resume(relay: str | None, *, as_json: bool) -> None:
    """Send to RELAY (host:port; the only one, if there is one) again, whoever or whatever had stopped that."""
    with open_database() as (settings, engine), engine.begin() as connection:
        name = _known(settings, relay)
        resumed = auditing.resume(connection, name, who())
    if as_json:
        put_json({"relay": name, "resumed": resumed})
    else:
        click.echo(safe(f"Mail goes to {name} again." if resumed else f"Nothing had stopped mail to {name}."))


def _cells(line: dict[str, Any], now: datetime) -> list[Text]:
    more = "latched" if line["latched"] else "resting" if line["state"] == "closed" and line["until"] else ""
    return [
        cell(line["name"]),
        cell(f"{line['state']} ({more})" if more else line["state"], _STYLES[line["state"]]),
        *(cell(moment and distance(moment, now)) for moment in (line["since"], line["until"])),
        cell(line["failures"]),
    ]


def _remark(line: dict[str, Any]) -> str:
    return " ".join(filter(None, (line["reason"], line["by"] and f"({line['by']})")))


def _known(settings: Settings, name: str | None) -> str:
    names = [endpoint.name for endpoint in settings.endpoints]
    if name is None and len(names) == 1:
        return names[0]
    if name is None or name.lower() not in names:
        given = "say which" if name is None else f"{name!r} is not among the relays of the settings"
        raise click.BadParameter(f"{given}: {', '.join(names)}", param_hint="RELAY")
    return name.lower()


def _fields(standing: Standing, now: datetime) -> dict[str, Any]:
    left = standing.seconds_left if standing.resting else None
    return {
        "name": standing.name,
        "state": standing.state,
        "latched": standing.latched,
        "reason": standing.reason,
        "since": standing.changed_at,
        "until": None if left is None else now + timedelta(seconds=left),
        "failures": standing.failures,
        "by": standing.changed_by,
    }
