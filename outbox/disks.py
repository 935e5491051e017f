"""How much room is left where Outbox writes: the journal, the database, whatever an application adds."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from outbox.settings import Settings

LEAST_FREE = 500_000_000
"""Bytes below which a disk counts as nearly full: some hours of a busy SQLite, and time to act."""

_SPILLS = ("SET LOCAL work_mem = '64kB'", "SELECT count(*) FROM generate_series(1, 75000)")
"""Makes PostgreSQL write a megabyte into a temporary file, in some 20 ms: it asks for room, and leaves nothing."""

_FULL, _TOO_MUCH = "53100", "53400"
"""SQLSTATE: the disk is full; `temp_file_limit` does not let us have the file, which says nothing."""


class Disk(NamedTuple):
    """The file system that a path is on."""

    path: Path
    free: int
    total: int

    @property
    def nearly_full(self) -> bool:
        """Whether somebody should make room; of a disk that is tiny altogether, when a tenth is left."""
        return self.free < min(LEAST_FREE, self.total / 10)

    def __str__(self) -> str:
        """`/srv/outbox/var: 12.3 of 40.0 GB free`."""
        return f"{self.path}: {self.free / 1e9:,.1f} of {self.total / 1e9:,.1f} GB free"


def written_to(settings: Settings) -> list[Path]:
    """Where the library writes on this machine."""
    return [path for path in (settings.outbox_journal, database_file(settings)) if path is not None]


def database_file(settings: Settings) -> Path | None:
    """SQLite's file; None for a database that has none of its own. Raises ArgumentError for what is no URL."""
    url = sa.make_url(settings.database_url)
    is_file = url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}
    return Path(str(url.database)) if is_file else None


def look(paths: Iterable[Path]) -> list[Disk]:
    """The file systems of these files and folders, each once. What is not there yet is on the disk of its parent."""
    found: dict[int, Disk] = {}
    for path in paths:
        try:
            place = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
            place = place if place.is_dir() else place.parent
            usage = shutil.disk_usage(place)
            found.setdefault(place.stat().st_dev, Disk(place, usage.free, usage.total))
        except OSError:  # it went away just now, or is not ours to look at
            continue
    return list(found.values())


def full(connection: sa.Connection) -> str | None:
    """What PostgreSQL says if it has no room for anything new; it is on a machine that we cannot look at.

    It answers, and so do the signs of life, long after it has begun to refuse mail: they change what is there, within
    its own room. SQLite is a file: `look` sees its disk.
    """
    if connection.dialect.name != "postgresql":
        return None
    attempt = connection.begin_nested()
    try:
        for statement in _SPILLS:
            connection.execute(sa.text(statement))
    except sa.exc.DBAPIError as error:
        if is_full(error):
            return str(error.orig).strip().partition("\n")[0]
        if _sqlstate(error) != _TOO_MUCH:
            raise
    finally:
        attempt.rollback()  # and so what was set is as it was
    return None


def is_full(error: sa.exc.SQLAlchemyError) -> bool:
    """Whether the database failed for want of room."""
    return bool(_sqlstate(error) == _FULL)


def _sqlstate(error: sa.exc.SQLAlchemyError) -> Any:
    return getattr(getattr(error, "orig", None), "sqlstate", None)
