"""The schema's history (Alembic), and the two moves through it.

On the command line: `python -m alembic upgrade head`, which reads `DATABASE_URL` as everything else does.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at `url` to `revision`, in one transaction. Makes the folder of an SQLite file."""
    command.upgrade(_config(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Take the database at `url` back to `revision`. `base` drops every table, and the mail in it."""
    command.downgrade(_config(url), revision)


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["url"] = url  # not an option of the file, where a % in a password would have to be doubled
    return config
