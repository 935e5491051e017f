"""The schema's history (Alembic), and the two moves through it.

Two histories, which know nothing of each other: `outbox`, the library's tables (`versions/`), which go into other
people's databases, too, and `application`, those of `app`. On the command line: `python -m alembic upgrade heads`,
which reads `DATABASE_URL` as everything else does; `upgrade outbox@head` is for the library alone.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory


def upgrade(url: str, revision: str = "heads") -> None:
    """Bring the database at `url` to `revision`, in one transaction. Makes the folder of an SQLite file."""
    command.upgrade(_config(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Take the database at `url` back to `revision`.

    `outbox@base` drops every table of the library, and the mail in it; `application@base` those of the application.
    """
    command.downgrade(_config(url), revision)


def missing(connection: sa.Connection) -> set[str]:
    """The heads that the database has not been brought to; none if it is as this version wants it."""
    heads = ScriptDirectory.from_config(_config("")).get_heads()
    return set(heads) - set(MigrationContext.configure(connection).get_current_heads())


def _config(url: str) -> Config:
    config = Config()
    here = str(Path(__file__).parent).replace("%", "%%")
    config.set_main_option("script_location", here)
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", f"{here}/versions\n{here}/application")
    config.attributes["url"] = url  # not an option of the file, where a % in a password would have to be doubled
    return config
