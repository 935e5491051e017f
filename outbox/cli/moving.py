"""`outbox requeue`, `outbox cancel`, `outbox resolve`: a person moves a mail."""

from collections.abc import Callable, Iterable, Sequence

import click
import sqlalchemy as sa

from outbox import operations
from outbox.cli.surroundings import open_database, who
from outbox.cli.terminal import count, json_option, put_json
from outbox.explaining import explain
from outbox.operations import Resolution
from outbox.printable import safe

mail_id = click.IntRange(1, 2**63 - 1)  # what the column holds


@click.command(short_help="Send dead, cancelled or uncertain mails once more.")
@click.argument("ids", metavar="ID...", type=mail_id, nargs=-1, required=True)
@json_option
@click.pass_context
def requeue(ctx: click.Context, ids: Sequence[int], *, as_json: bool) -> None:
    """Send dead, cancelled or uncertain mails, as if they were queued now.

    Their attempts count from the start, an expiry that has passed is forgotten, and any relay may have them. An
    uncertain mail may arrive twice.

    Exit status: 0 if all were requeued; 1 if some could not be, each with a sentence why.
    """
    _move(ctx, ids, operations.requeue, "requeued", as_json=as_json)


@click.command()
@click.argument("ids", metavar="ID...", type=mail_id, nargs=-1, required=True)
@json_option
@click.pass_context
def cancel(ctx: click.Context, ids: Sequence[int], *, as_json: bool) -> None:
    """Call mails back that have not gone to a worker yet.

    Exit status: 0 if all were cancelled; 1 if some could not be, each with a sentence why.
    """
    _move(ctx, ids, operations.cancel, "cancelled", as_json=as_json)


@click.command()
@click.argument("id_", metavar="ID", type=mail_id)
@click.argument("resolution", type=click.Choice([str(resolution) for resolution in Resolution]))
@json_option
def resolve(id_: int, resolution: str, *, as_json: bool) -> None:
    """Say what became of an uncertain mail.

    sent: it arrived. requeue: it did not, or a second copy does no harm. dead: give it up.
    """
    with open_database() as (settings, engine), engine.begin() as connection:
        if not operations.resolve(connection, id_, Resolution(resolution), who()):
            raise operations.refusal(connection, id_, "resolved")
        why = explain(connection, settings, id_)
    if as_json:
        put_json({"id": id_, "resolved": resolution, "why": why})
    else:
        click.echo(safe(why))


def _move(
    ctx: click.Context,
    ids: Sequence[int],
    move: Callable[[sa.Connection, Iterable[int]], set[int]],
    done: str,
    *,
    as_json: bool,
) -> None:
    with open_database() as (_, engine), engine.begin() as connection:
        moved = move(connection, ids)
        left = [id_ for id_ in dict.fromkeys(ids) if id_ not in moved]
        refused = {id_: str(operations.refusal(connection, id_, done)) for id_ in left}
    if as_json:
        put_json({done: sorted(moved), "refused": refused})
    else:
        click.echo(f"{count(len(moved), 'mail')} {done}.")
        for sentence in refused.values():
            click.echo(f"Error: {sentence}", err=True)
    if refused:
        ctx.exit(1)
