"""How Alembic reaches the database: through the engine that everything else uses."""

from pathlib import Path

import sqlalchemy as sa
from alembic import context

from app.models import Base
from outbox import models
from outbox.database import create_engine
from outbox.settings import Settings

_LOCK = 7_381_620_451
"""Any number, always the same: two processes that start together must not both create the tables."""


_TABLES = [models.Base.metadata, Base.metadata]


def _migrate() -> None:
    url = context.config.attributes.get("url") or Settings.load().database_url
    engine = create_engine(url)
    _make_folder(engine.url)
    try:
        with engine.connect() as connection:
            # SQLite can roll back DDL as PostgreSQL does; Alembic assumes otherwise because the driver gets in the way,
            # and our engine says BEGIN IMMEDIATE itself, which also makes a second migration wait for this one.
            context.configure(connection=connection, target_metadata=_TABLES, transactional_ddl=True)
            with context.begin_transaction():
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
                context.run_migrations()
    finally:
        engine.dispose()


def _make_folder(url: sa.URL) -> None:
    """SQLite makes a file that is missing, but not its folder."""
    if url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)


if context.is_offline_mode():
    raise SystemExit("--sql is not supported: run the migration against the database that DATABASE_URL names")
_migrate()
