"""`outbox rotate-keys`: bring what is encrypted to the first key, so that the others can go."""

from collections import Counter

import click
import sqlalchemy as sa

from outbox.cli.surroundings import open_database
from outbox.cli.terminal import count, json_option, put_json
from outbox.errors import KeyMissing, SettingsError
from outbox.models import EmailContent
from outbox.sealing import Safe
from outbox.settings import MAKE_A_KEY

_BATCH = 100
"""Mails in a transaction: whoever ends one of them waits for it."""


@click.command("rotate-keys")
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
    found: Counter[str] = Counter()
    c, last = EmailContent, 0
    # The partial index knows these rows. Locked, and waited for: a skipped one would keep the old key.
    query = sa.select(c.id, c.sealed).where(c.sealed.is_not(None)).order_by(c.id).limit(_BATCH)
    while True:
        with engine.begin() as connection:
            rows = connection.execute(query.where(c.id > last).with_for_update(key_share=True)).all()
            for id_, sealed in rows:
                try:
                    anew = safe.rotate(sealed)
                except KeyMissing:
                    found["unreadable"] += 1
                    continue
                found["already" if anew == sealed else "rotated"] += 1
                if anew != sealed:
                    connection.execute(sa.update(c).where(c.id == id_).values(sealed=anew))
        if not rows:
            return found
        last = rows[-1].id
