"""`outbox requeue`, `outbox cancel`, `outbox resolve`: a person moves mails, one by one or all that a filter finds."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import click
import sqlalchemy as sa
from rich.text import Text

from outbox import auditing, operations, searching
from outbox.cli.filtering import filter_options
from outbox.cli.progress import progress
from outbox.cli.surroundings import open_database, who
from outbox.cli.terminal import count, json_option, put, put_json
from outbox.database import reading
from outbox.explaining import explain
from outbox.operations import Resolution
from outbox.printable import safe
from outbox.searching import Filter
from outbox.states import Status

mail_id = click.IntRange(1, 2**63 - 1)  # what the column holds

_ids = click.argument("ids", metavar="[ID]...", type=mail_id, nargs=-1)
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


class _Move(NamedTuple):
    """What is to be done, by `auditing`, and how it is told."""

    verb: str
    done: str
    statuses: Sequence[Status]
    act: Callable[..., set[int]]
    """Of a connection, ids, the filter that found them if one did (for the record)."""


@click.command(short_help="Send dead, cancelled or uncertain mails once more.")
@_ids
@filter_options
@_yes
@json_option
@click.pass_context
def requeue(ctx: click.Context, ids: Sequence[int], wanted: Filter, *, yes: bool, as_json: bool) -> None:
    """Send dead, cancelled or uncertain mails, as if they were queued now: these, or all that the options find.

    Their attempts count from the start, an expiry that has passed is forgotten, and any relay may have them. An
    uncertain mail may arrive twice. Options say how many mails they find, and ask.

    Exit status: 0 if all were requeued; 1 if some could not be, each with a sentence why.
    """
    move = _Move("Requeue", "requeued", auditing.REQUEUEABLE, _requeue)
    _run(ctx, move, ids, wanted, yes=yes, as_json=as_json)


@click.command(short_help="Call mails back that have not gone to a worker yet.")
@_ids
@filter_options
@_yes
@json_option
@click.pass_context
def cancel(ctx: click.Context, ids: Sequence[int], wanted: Filter, *, yes: bool, as_json: bool) -> None:
    """Call mails back that have not gone to a worker yet: these, or all that the options find.

    Options say how many mails they find, and ask.

    Exit status: 0 if all were cancelled; 1 if some could not be, each with a sentence why.
    """
    move = _Move("Cancel", "cancelled", auditing.CANCELLABLE, _cancel)
    _run(ctx, move, ids, wanted, yes=yes, as_json=as_json)


@click.command(short_help="Say what became of uncertain mails.")
@_ids
@click.argument("resolution", type=click.Choice([str(resolution) for resolution in Resolution]))
@filter_options
@_yes
@json_option
@click.pass_context
def resolve(
    ctx: click.Context, ids: Sequence[int], resolution: str, wanted: Filter, *, yes: bool, as_json: bool
) -> None:
    """Say what became of uncertain mails: of these, or of all that the options find.

    sent: it arrived. requeue: it did not, or a second copy does no harm. dead: give it up. Options say how many mails
    they find, and ask.

    Exit status: 0 if all were resolved; 1 if some could not be, each with a sentence why.
    """
    as_ = Resolution(resolution)
    move = _Move(
        f"Resolve as {as_}",
        "resolved",
        auditing.RESOLVABLE,
        lambda connection, ids, **found: auditing.resolve(connection, ids, as_, who(), **found),
    )
    _run(ctx, move, ids, wanted, yes=yes, as_json=as_json)


def _requeue(connection: sa.Connection, ids: Sequence[int], **found: Any) -> set[int]:
    return auditing.requeue(connection, ids, who(), **found)


def _cancel(connection: sa.Connection, ids: Sequence[int], **found: Any) -> set[int]:
    return auditing.cancel(connection, ids, who(), **found)


def _run(ctx: click.Context, move: _Move, ids: Sequence[int], wanted: Filter, *, yes: bool, as_json: bool) -> None:
    by_filter = bool(wanted.given())
    if ids and by_filter:
        raise click.UsageError("give IDs or options that find mails, not both")
    if not ids and not by_filter:
        raise click.UsageError("which mails? Give their IDs, or options that find them, such as --status or --since")
    if by_filter:
        _move_found(move, wanted, yes=yes, as_json=as_json)
    else:
        _move_ids(ctx, move, ids, as_json=as_json)


def _move_ids(ctx: click.Context, move: _Move, ids: Sequence[int], *, as_json: bool) -> None:
    with open_database() as (settings, engine), engine.begin() as connection:
        moved = move.act(connection, ids)
        left = [id_ for id_ in dict.fromkeys(ids) if id_ not in moved]
        refused = {id_: str(operations.refusal(connection, id_, move.done)) for id_ in left}
        why = explain(connection, settings, next(iter(moved))) if len(moved) == 1 else None
    if as_json:
        put_json({move.done: sorted(moved), "refused": refused})
    else:
        if moved or not refused:
            click.echo(f"{count(len(moved), 'mail')} {move.done}.")
        if why is not None and move.done == "resolved":
            put(Text(safe(why)))
        for sentence in refused.values():
            click.echo(f"Error: {sentence}", err=True)
    if refused:
        ctx.exit(1)


def _move_found(move: _Move, wanted: Filter, *, yes: bool, as_json: bool) -> None:
    statuses = [status for status in move.statuses if wanted.status in (None, status)]
    if not statuses:
        raise click.UsageError(f"no {wanted.status} mail can be {move.done}: {', '.join(move.statuses)} can")
    with open_database() as (_, engine):
        with reading(engine) as connection:
            found = searching.count_matching(connection, wanted, statuses)
        if found and not yes:
            click.confirm(safe(f"{move.verb} {count(found, 'mail')} ({wanted})?"), abort=True, err=True)
        moved = _in_batches(engine, move, wanted, statuses, found) if found else 0
    if as_json:
        put_json({"count": moved, "found": found, "filter": wanted.given()})
        return
    click.echo(f"{count(moved, 'mail')} {move.done}.")
    if moved < found:
        click.echo(f"{found - moved:,} could not be: `outbox {move.verb.lower().split()[0]} ID` says why.", err=True)


def _in_batches(engine: sa.Engine, move: _Move, wanted: Filter, statuses: Sequence[Status], found: int) -> int:
    before = 0
    with progress(f"{move.verb}:", found) as advance:

        def tell(moved: int) -> None:
            nonlocal before
            advance(moved - before)
            before = moved

        return auditing.on_filter(
            engine,
            wanted,
            statuses,
            lambda connection, ids: move.act(connection, ids, filter=wanted.given()),
            tell,
        )
