"""`outbox purge`."""

from dataclasses import asdict

import click

from outbox import auditing
from outbox.cli.progress import progress
from outbox.cli.surroundings import open_database, who
from outbox.cli.terminal import count, json_option, put_json
from outbox.purging import purge as purge_old


@click.command(short_help="Delete mails, bodies and files that are past their retention.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
def purge(*, dry_run: bool, as_json: bool) -> None:
    """Delete what is old.

    Mails that have been over for OUTBOX_RETENTION_DAYS go, with their attempts and their idempotency keys. Of those
    over for OUTBOX_BODY_RETENTION_DAYS goes what they said, and their files; so do files of that age that no mail has.

    So does what is on record of who did what, after OUTBOX_AUDIT_RETENTION_DAYS.

    Mail that is not over stays, however old, and so does uncertain mail. --dry-run counts a mail that would go as
    a body, too, and does not count the files that would then be no mail's.
    """
    with open_database() as (settings, engine):
        with progress("Counting:" if dry_run else "Deleting:", None) as advance:
            purged = purge_old(engine, settings, dry_run=dry_run, progress=advance)
        if not dry_run:
            with engine.begin() as connection:
                auditing.record(connection, who(), "purge", "what is past its retention", **asdict(purged))
    if as_json:
        put_json(asdict(purged) | {"dry_run": dry_run})
        return
    click.echo(
        f"{'Would delete' if dry_run else 'Deleted'} {count(purged.mails, 'mail')} "
        f"(OUTBOX_RETENTION_DAYS={settings.outbox_retention_days}), what {count(purged.bodies, 'mail')} said "
        f"(OUTBOX_BODY_RETENTION_DAYS={settings.outbox_body_retention_days}), "
        f"{count(purged.files, 'file')} of {count(purged.bytes, 'byte')}, and {count(purged.lines, 'line')} of the "
        f"record (OUTBOX_AUDIT_RETENTION_DAYS={settings.outbox_audit_retention_days})."
    )
