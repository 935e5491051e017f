"""`outbox stats --watch`: the queue as it lives, on one screen of a terminal."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Self

import click
import sqlalchemy as sa
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from outbox import breaker, heartbeats, pulse, stats, watching
from outbox.breaker import Standing
from outbox.cli.surroundings import explain
from outbox.cli.terminal import cell, console, put, table
from outbox.database import reading
from outbox.heartbeats import BEAT, WORKER, Sign
from outbox.models import EmailTrouble
from outbox.printable import safe
from outbox.pulse import Pulse
from outbox.settings import Settings
from outbox.states import Priority, RelayState
from outbox.times import duration

_BARS = " ▁▂▃▄▅▆▇█"
_BURNING, _WARM, _FINE, _QUIET = "bold red", "yellow", "green", "dim"
_LANE_COLUMNS = ("Due", "Oldest", "Scheduled", "Claimed", "Sending", "Uncertain", "Dead")
_OUTCOMES = {
    "deferred": _WARM, "throttled": _WARM, "relay_down": _BURNING, "relay_misconfigured": _BURNING,
    "uncertain": _WARM, "rejected": _WARM,
}  # fmt: skip


class Look(NamedTuple):
    """All that is shown, as it was at one moment."""

    at: datetime
    waiting: Mapping[Priority, stats.Waiting]
    in_flight: Mapping[Priority, stats.InFlight]
    failed: Mapping[Priority, stats.Failed]
    pulse: Pulse
    relays: Sequence[Standing]
    signs: Sequence[Sign]
    troubles: Sequence[str]


def look(connection: sa.Connection, settings: Settings) -> Look:
    """What the database says now; a few milliseconds, however long its history."""
    t = EmailTrouble
    return Look(
        datetime.now().astimezone(),
        stats.waiting(connection),
        stats.in_flight(connection),
        stats.failed(connection),
        pulse.take(connection),
        list(breaker.standings(connection, settings.endpoints).values()),
        heartbeats.signs(connection),
        connection.scalars(sa.select(t.sentence).where(t.ended_at.is_(None)).order_by(t.began_at)).all(),
    )


def watch(engine: sa.Engine, settings: Settings, seconds: float) -> None:
    """Show it until Ctrl-C. While the database is away, say so, and go on when it is back."""
    on_terminal = console().is_terminal
    shown: Look | None = None
    away: str | None = None
    try:
        with Live(console=console(), screen=True, auto_refresh=False) if on_terminal else _Lines() as live:
            while True:
                try:
                    with reading(engine) as connection:
                        shown, away = look(connection, settings), None
                except sa.exc.SQLAlchemyError as error:
                    away = explain(error)
                live.update(view(shown, settings, seconds, away), refresh=True)
                time.sleep(seconds)
    except KeyboardInterrupt:
        return


class _Lines:
    """In place of a screen, for a file or a pipe: one look below the other."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def update(self, shown: RenderableType, *, refresh: bool) -> None:
        """As `Live.update`."""
        del refresh
        put(shown, "")


def view(look: Look | None, settings: Settings, seconds: float, away: str | None = None) -> RenderableType:
    """The screen."""
    head = Text.assemble(
        ("outbox ", "bold"), safe(settings.outbox_environment), (f"  every {seconds:g} s, Ctrl-C ends", _QUIET)
    )
    parts: list[RenderableType] = [head]
    if away is not None:
        parts.append(Text(safe(f"✖ {away}: trying again"), style=_BURNING))
    if look is None:
        return Group(*parts)
    late = watching.late_after(settings)
    head.append(f"  {look.at:%H:%M:%S}", style=_QUIET)
    if away is None:
        parts.append(_verdict(look, late))
    return Group(*parts, "", _lanes(look, late), "", *_flow(look.pulse), "", *_relays(look), *_processes(look))


def _verdict(look: Look, late: float) -> RenderableType:
    wrong = list(look.troubles)
    known = " ".join(wrong)
    oldest = max((lane.oldest_due_seconds or 0 for lane in look.waiting.values()), default=0)
    if oldest > late and "oldest due" not in known:
        wrong.append(f"the oldest due mail has waited for {duration(oldest)}")
    wrong += [
        f"relay {relay}" for relay in look.relays if relay.state is not RelayState.CLOSED and relay.name not in known
    ]
    silent = [sign for sign in look.signs if sign.silent]
    wrong += [
        f"{sign.kind} {sign.name} has been silent for {duration(sign.seconds_ago)}"
        for sign in silent
        if sign.name not in known and sign.kind not in known
    ]
    if not wrong:
        return Text("● All is well.", style=_FINE)
    return Text("\n".join(safe(f"✖ {sentence}") for sentence in wrong), style=_BURNING)


def _lanes(look: Look, late: float) -> RenderableType:
    made = table("", *_LANE_COLUMNS, right=_LANE_COLUMNS)
    for lane in Priority:
        waiting, flying, failed = look.waiting[lane], look.in_flight[lane], look.failed[lane]
        age = waiting.oldest_due_seconds
        made.add_row(
            cell(lane.label),
            _number(waiting.due),
            cell(None, _QUIET) if age is None else cell(duration(age), _BURNING if age > late else ""),
            _number(waiting.scheduled),
            _number(flying.claimed),
            _number(flying.sending),
            _number(failed.uncertain, _WARM),
            _number(sum(failed.dead.values()), _WARM),
        )
    return made


def _number(number: int, style: str = "") -> Text:
    return cell(f"{number:,}", style if number else _QUIET)


def _flow(pulse_: Pulse) -> list[RenderableType]:
    most = max(pulse_.sent)
    # What is not nothing shows.
    bars = "".join(_BARS[0 if not n else max(1, round(n / most * (len(_BARS) - 1)))] for n in pulse_.sent)
    minutes = f"{pulse.STEP * pulse.STEPS // 60} min"
    sent = Text.assemble(_name("Sent"), f"{pulse_.rate:,.1f}/s ", (bars, _FINE), (f" {minutes}", _QUIET))
    told = Text(_name("Became"))
    told.append(f"{pulse_.ended.get('sent', 0):,} sent", style=_FINE if pulse_.ended.get("sent") else _QUIET)
    for name in ("dead", "cancelled"):
        number = pulse_.ended.get(name, 0)
        told.append(f"  {number:,} {name}", style=(_BURNING if name == "dead" else "") if number else _QUIET)
    tries = Text(_name("Failed tries"))
    if not pulse_.unsent:
        tries.append("none", style=_QUIET)
    for name, number in sorted(pulse_.unsent.items(), key=lambda item: -item[1]):
        tries.append(f"{number:,} {name.replace('_', ' ')}  ", style=_OUTCOMES.get(name, ""))
    return [sent, told, tries]


def _relays(look: Look) -> list[RenderableType]:
    styles = {RelayState.CLOSED: _FINE, RelayState.OPEN: _BURNING}
    lines: list[RenderableType] = []
    for number, relay in enumerate(look.relays):
        line = Text(_name("Relays" if number == 0 else ""))
        line.append(safe(relay.name) + " ")
        line.append(relay.state, style=styles.get(relay.state, _WARM))
        lines.append(line)
    return lines


def _processes(look: Look) -> list[RenderableType]:
    workers = [sign for sign in look.signs if sign.kind == WORKER]
    beats = [sign for sign in look.signs if sign.kind == BEAT]
    line = Text(_name("Workers"))
    alive = sum(not sign.silent for sign in workers)
    line.append(f"{alive} alive", style=_FINE if alive else _QUIET)
    if silent := len(workers) - alive:
        line.append(f"  {silent} silent", style=_BURNING)
    beat = Text(_name("Beat"))
    if not beats:
        beat.append("not heard of", style=_QUIET)
    else:
        last = min(beats, key=lambda sign: sign.seconds_ago)
        beat.append(f"heard of {duration(last.seconds_ago)} ago", style=_BURNING if last.silent else _FINE)
    return [line, beat]


def _name(name: str) -> str:
    return f"{name:<14}"


def check_seconds(_: click.Context, parameter: click.Parameter, value: Any) -> float | None:
    """`--watch 5`; a tenth of a second would be work for the database, and for nobody's eyes."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0.5 <= seconds <= 3600:  # noqa: PLR2004 - said in the sentence
        raise click.BadParameter(f"{value!r}: give seconds, from 0.5 to 3600", param=parameter)
    return seconds
