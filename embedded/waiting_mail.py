"""Real mail must not end in the local inbox, where it would count as sent."""

from pathlib import Path

import sqlalchemy as sa

from embedded.errors import StartError
from outbox.database import create_engine, reading
from outbox.settings import Settings

_WAITING = sa.text("""
SELECT (SELECT count(*) FROM email_queue WHERE status = 'pending')
     + (SELECT count(*) FROM email_queue WHERE status IN ('claimed', 'sending'))""")
"""In two, for each has its partial index."""


def refuse_waiting_mail(database_url: str) -> None:
    """Raise StartError if this database, unless it is our own default, holds mail that is not settled yet.

    To be asked before anything is migrated or started, when the relay is the local inbox.
    """
    if database_url == Settings.model_fields["database_url"].default:
        return  # what is in there has never known another relay
    engine = create_engine(database_url)
    try:
        rows = _count(engine)
    finally:
        engine.dispose()
    if rows:
        raise StartError(
            f"DATABASE_URL={engine.url.render_as_string()} holds mail that waits (rows: {rows:,}), and without "
            "SMTP_HOST it would go to the local inbox and count as sent: set SMTP_HOST to the relay that it is for, or "
            "DATABASE_URL to another database."
        )


def _count(engine: sa.Engine) -> int:
    file = engine.url.database or ""
    if engine.dialect.name == "sqlite" and not file.startswith("file:") and not Path(file).exists():
        return 0  # to look would make an empty one
    with reading(engine) as connection:
        if not sa.inspect(connection).has_table("email_queue"):
            return 0
        return int(connection.execute(_WAITING).scalar_one())
