"""`outbox erase`: what is known of one recipient goes."""

from dataclasses import asdict

import click

from outbox import erasing
from outbox.cli.progress import progress
from outbox.cli.surroundings import open_database, who
from outbox.cli.terminal import count, json_option, put_json
from outbox.erasing import Erased
from outbox.journal import Journal
from outbox.printable import safe


@click.command(short_help="Erase one recipient's personal data.")
@click.argument("address")
@click.option("--keep-suppressed", is_flag=True, help="He must not get mail: that stays known, with the address.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def erase(ctx: click.Context, address: str, *, keep_suppressed: bool, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Erase what is known of the recipient ADDRESS: it cannot be undone.

    Mail to it that waits is cancelled. Its mails stay as rows without address, subject and words, so that the figures
    stay true: that there was a mail, when, and what came of it. A mail to several recipients is erased for all of them
    but for the others' addresses. Suppressions of the address go, and an application may write to it again, unless you
    say --keep-suppressed. Who did what stays on record, without the address.

    Not reached from here: backups, logs, what applications and relays keep, and mail to others that mentions ADDRESS.

    Exit status: 0 if all is erased; 1 if something is in a worker's hands, or not over for others: repeat it.
    """
    with open_database() as (settings, engine):
        would = erasing.preview(engine, address)
        if keep_suppressed:
            would.suppressions = 0
        if dry_run:
            _tell(would, "would be", as_json=as_json, dry_run=True)
            return
        if not yes:
            _ask(address, would)
        with progress("Erasing:", would.mails) as advance:
            erased = erasing.erase(engine, address, who(), keep_suppressed=keep_suppressed, progress=advance)
        waiting = Journal(settings.outbox_journal).exists
    _tell(erased, "were", as_json=as_json, dry_run=False)
    if waiting:
        click.echo(
            safe(f"Error: {settings.outbox_journal} holds what relays said: repeat this once a worker has emptied it"),
            err=True,
        )
    if erased.left:
        click.echo(
            f"Error: {count(erased.left, 'mail')} left, which a worker has or which others still wait for: repeat this "
            "when they are over",
            err=True,
        )
    if erased.left or waiting:
        ctx.exit(1)


def _ask(address: str, would: Erased) -> None:
    click.echo(
        safe(
            f"{count(would.mails, 'mail')} to {address}, of which {would.cancelled:,} wait to be sent, and "
            f"{count(would.suppressions, 'suppression')}: without those, applications may write to the address again."
        ),
        err=True,
    )
    click.confirm("Erase all this for good?", abort=True, err=True)


def _tell(erased: Erased, were: str, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        put_json(asdict(erased) | {"dry_run": dry_run})
        return
    files = "" if dry_run else f", {count(erased.files, 'file')}, {count(erased.lines, 'line')} of the record"
    click.echo(
        f"{count(erased.mails, 'mail')}{files} and {count(erased.suppressions, 'suppression')} {were} erased. Of the "
        f"mails, {erased.cancelled:,} {were} cancelled and {erased.given_up:,} given up before."
    )
