"""`outbox events`: what became of mails, to the program that OUTBOX_EVENT_WEBHOOK names."""

import click

from outbox import publishing
from outbox.cli.surroundings import open_database
from outbox.cli.terminal import count, facts, json_option, put, put_json
from outbox.printable import safe
from outbox.publishing import Published, Standing
from outbox.times import clock


@click.command(short_help="Tell the webhook what became of mails.")
@click.option("--publish", is_flag=True, help="Tell what is to be told; from cron, where there is no beat.")
@json_option
@click.pass_context
def events(ctx: click.Context, *, publish: bool, as_json: bool) -> None:
    """Show how far OUTBOX_EVENT_WEBHOOK has been told what became of mails; with --publish, go on.

    Where beat runs, it does so every 15 seconds. The first time begins with what happens from then on.

    Exit status: 0; 1 if the receiver could not be told.
    """
    with open_database() as (settings, engine):
        published = publishing.publish(engine, settings) if publish else None
        standing = publishing.standing(engine)
    if as_json:
        put_json(standing._asdict() | ({} if published is None else {"published": published.events}))
    else:
        _put(published, standing)
    if published is not None and published.problem:
        click.echo(safe(f"Error: {published.problem}"), err=True)
        ctx.exit(1)


def _put(published: Published | None, standing: Standing) -> None:
    if published is not None:
        click.echo(f"{count(published.events, 'event')} told.")
        return
    if standing.told_until is None:
        click.echo("No events have been published from this database.", err=True)
        return
    put(
        facts(
            [
                ("Told until", clock(standing.told_until)),
                ("Waiting since", standing.waiting_since and clock(standing.waiting_since)),
                ("Problem", standing.problem),
                ("Failures", standing.failures or None),
                ("Next try", standing.retry_at and clock(standing.retry_at)),
            ]
        )
    )
