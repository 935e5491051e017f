"""How much room is left where Outbox writes: the journal, an SQLite database, whatever an application adds."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from outbox.settings import Settings

LEAST_FREE = 500_000_000
"""Bytes below which a disk counts as nearly full: some hours of a busy SQLite, and time to act."""


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
