"""What every verb needs around it: the settings and an open database, or a sentence on why there is none."""

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from outbox import disks, schema
from outbox.database import create_engine
from outbox.errors import OutboxError, SettingsError
from outbox.settings import Settings

_NO_TABLE = ("no such table", "no such column", "UndefinedTable", "UndefinedColumn")


@contextmanager
def open_database() -> Iterator[tuple[Settings, sa.Engine]]:
    """The settings, checked, and the engine for them."""
    settings = Settings.load()
    try:
        file = disks.database_file(settings)
        engine = create_engine(settings.database_url)
    except sa.exc.ArgumentError as error:
        raise SettingsError("DATABASE_URL: not a database URL: use postgresql:// or sqlite:///") from error
    except ImportError as error:
        raise SettingsError(f"DATABASE_URL: its driver is missing ({error}): pip install 'psycopg[binary]'") from error
    if file is not None and not file.exists():  # SQLite would make an empty one
        raise OutboxError(f"DATABASE_URL={settings.database_url}: there is no such file; {schema.REMEDY}")
    try:
        yield settings, engine
    finally:
        engine.dispose()


def who() -> str:
    """The person at the keyboard, for the record: `ada@host`."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # in a container, a user may have no name
        name = f"uid-{os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def explain(error: sa.exc.SQLAlchemyError) -> str:
    """A database's error as one sentence."""
    cause = getattr(error, "orig", None) or error
    said = str(cause).strip().partition("\n")[0]
    if any(sign in f"{type(cause).__name__}: {said}" for sign in _NO_TABLE):
        return f"the database has not the tables of this version ({said}): {schema.REMEDY}"
    return f"the database failed: {said}"
