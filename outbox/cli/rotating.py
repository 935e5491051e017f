"""`outbox rotate-keys`: bring what is encrypted to the first key, so that the others can go."""

from collections import Counter

import click
import sqlalchemy as sa

from outbox import auditing
from outbox.cli.progress import progress
from outbox.cli.surroundings import open_database, who
from outbox.cli.terminal import count, json_option, put_json
from outbox.database import reading
from outbox.errors import KeyMissing, SettingsError
from outbox.models import EmailContent
from outbox.sealing import Safe
from outbox.settings import MAKE_A_KEY

_BATCH = 100
"""Mails in a transaction: whoever ends one of them waits for it."""


@click.command("rotate-keys", short_help="Bring sensitive mail to the first encryption key.")
@json_option
@click.pass_context
def rotate_keys(ctx: click.Context, *, as_json: bool) -> None:
    """Encrypt the sensitive mail that waits with the first of OUTBOX_ENCRYPTION_KEYS.

    To change the key: put a new one first and keep the old one behind it, restart all that queues or sends mail, run
    this, and take the old one away.

    Exit status: 0 if all such mail is under the first key now; 1 if some can be read with none of the keys.
    """
    with open_database() as (settings, engine):
        safe = Safe.of(settings)
        if safe is None:
            raise SettingsError(f"OUTBOX_ENCRYPTION_KEYS is empty: {MAKE_A_KEY}")
        found = _rotate(engine, safe)
    if as_json:
        put_json({name: found[name] for name in ("rotated", "already", "unreadable")})
    else:
        click.echo(f"{count(found['rotated'], 'mail')} encrypted anew, {found['already']:,} had the first key already.")
    if found["unreadable"]:
        click.echo(
            f"Error: {count(found['unreadable'], 'mail')} encrypted with a key that is not in OUTBOX_ENCRYPTION_KEYS",
            err=True,
        )
        ctx.exit(1)


def _rotate(engine: sa.Engine, safe: Safe) -> Counter[str]:
    c = EmailContent
    with reading(engine) as connection:
        ids = connection.scalars(sa.select(c.id).where(c.sealed.is_not(None)).order_by(c.id)).all()
    found: Counter[str] = Counter()
    with progress("Encrypting anew:", len(ids)) as advance:
        for start in range(0, len(ids), _BATCH):
            part = ids[start : start + _BATCH]
            # Locked, and waited for: one that is skipped would keep the old key.
            waiting = sa.select(c.id, c.sealed).where(c.id.in_(part), c.sealed.is_not(None)).order_by(c.id)
            with engine.begin() as connection:
                for id_, sealed in connection.execute(waiting.with_for_update(key_share=True)).all():
                    assert sealed is not None
                    found[_rotate_one(connection, safe, id_, sealed)] += 1
            advance(len(part))
    with engine.begin() as connection:
        auditing.record(connection, who(), "rotate-keys", "sensitive mail", **found)
    return found


def _rotate_one(connection: sa.Connection, safe: Safe, id_: int, sealed: bytes) -> str:
    try:
        anew = safe.rotate(sealed)
    except KeyMissing:
        return "unreadable"
    if anew == sealed:
        return "already"
    connection.execute(sa.update(EmailContent).where(EmailContent.id == id_).values(sealed=anew))
    return "rotated"
