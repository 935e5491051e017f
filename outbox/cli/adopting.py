"""`outbox adopt`: the mail in this database is ours to send from now on."""

import click

from outbox import auditing, fence, stats
from outbox.cli.surroundings import open_database, who
from outbox.cli.terminal import count, json_option, put_json
from outbox.database import reading
from outbox.printable import safe
from outbox.settings import Settings


@click.command(short_help="Send the mail of a database that was another environment's.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def adopt(*, yes: bool, as_json: bool) -> None:
    """Send the mail in this database from this environment, OUTBOX_ENVIRONMENT, from now on.

    A database belongs to the environment that first sent from it; any other, such as a copy that was made for a test,
    holds its mail back. This says how many mails would go, and asks. The environment that had it before, if it still
    uses this very database, holds its mail back from then on.
    """
    with open_database() as (settings, engine):
        with reading(engine) as connection:
            before = fence.owner(connection)
            lanes = stats.waiting(connection).values()
        waiting = {"due": sum(lane.due for lane in lanes), "scheduled": sum(lane.scheduled for lane in lanes)}
        ours = before == settings.outbox_environment
        if not ours and not yes:
            _ask(settings, before, waiting)
        if not ours:
            with engine.begin() as connection:
                fence.adopt(connection, settings, who())
                auditing.record(connection, who(), "adopt", f"the mail of {before!r}", by=settings.outbox_environment)
    if as_json:
        put_json({"environment": settings.outbox_environment, "before": before, "adopted": not ours} | waiting)
    elif ours:
        click.echo(safe(f"The mail in this database is that of {settings.outbox_environment!r} already."))
    else:
        click.echo(safe(f"The mail in this database is that of {settings.outbox_environment!r} now."))


def _ask(settings: Settings, before: str | None, waiting: dict[str, int]) -> None:
    whose = "nobody's yet" if before is None else f"that of {before!r}"
    would_go = f"{count(waiting['due'], 'mail')} would go at once, {waiting['scheduled']:,} later"
    click.echo(
        safe(f"The mail in this database is {whose}. From {settings.outbox_environment!r}, {would_go}."), err=True
    )
    click.confirm("Send them from here?", abort=True, err=True)
