"""What is not needed any more: temporary files, orphaned uploads with their thumbnails, and yesterday's exports.

The folders are opened once, without following a link, and everything in them is looked at and removed relative to what
was opened, by plain names. So whatever somebody puts there, or swaps while we look (links, folders, another folder in
the place of the first), nothing outside is touched: a link is left alone, and a name that became one after we looked is
unlinked itself, not what it points to.

A name that appears or vanishes meanwhile is for somebody else or the next day.
"""

import logging
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from app.exports.forgetting import forget
from app.files.models import Upload
from app.files.storage import SIZES, SUFFIXES, THUMBNAILS, TMP, UPLOADS, thumbnail_name
from app.settings import AppSettings
from outbox.logs import tell

log = logging.getLogger(__name__)

TEMPORARY = timedelta(days=1)
"""No upload takes a day."""
ORPHANED = timedelta(days=90)
"""Time to find out that one was not an orphan, and to restore its row from a backup."""

BATCH = 1000
"""Names, or rows, for each query."""


@dataclass
class Tally:
    """What a run removed."""

    temporary_files: int = 0
    orphaned_uploads: int = 0
    """Pictures. Their thumbnails count only as bytes."""
    exports: int = 0
    bytes: int = 0
    """That are free now: a file that has another name elsewhere takes as many as before."""


def clean_up(sessions: sessionmaker[Session], settings: AppSettings, now: datetime) -> dict[str, int]:
    """Remove what is old enough. What it counts is a `Tally`."""
    tally = Tally()
    root = settings.files_dir.absolute()
    with _folder(root, TMP) as tmp, _folder(root, UPLOADS) as uploads, _folder(root, THUMBNAILS) as thumbnails:
        _clean_tmp(tmp, now, tally)
        _clean_rows(sessions, uploads, thumbnails, now, tally)
        _clean_uploads(sessions, uploads, thumbnails, now, tally)
        _clean_thumbnails(sessions, thumbnails, now, tally)
    tally.exports, wiped = forget(sessions, now)
    tally.bytes += wiped
    return asdict(tally)


class Folder:
    """A folder, or nothing: what is not there, or is a link, is empty."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def old_files(self, before: datetime) -> Iterator[str]:
        """The names of the files that were last written before then. Links, folders, pipes and devices are none."""
        if self._descriptor is None:
            return
        with os.scandir(self._descriptor) as entries:
            for entry in entries:
                found = self._look(entry.name)
                if found is not None and found.st_mtime < before.timestamp():
                    yield entry.name

    def remove(self, name: str) -> int | None:
        """The bytes that are free now; None if there is no such file (any more)."""
        found = self._look(name)
        if found is None:
            return None
        try:
            os.unlink(name, dir_fd=self._descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            sentence = "cleanup: %(file)r cannot be removed: %(why)s"
            tell(log, logging.WARNING, "file.not_removed", sentence, file=name, why=str(error))
            return None
        return found.st_size if found.st_nlink == 1 else 0

    def _look(self, name: str) -> os.stat_result | None:
        # A key comes from a row, which may hold anything.
        if self._descriptor is None or os.sep in name or "\0" in name:
            return None
        try:
            found = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return None
        return found if stat.S_ISREG(found.st_mode) else None


@contextmanager
def _folder(root: Path, name: str) -> Iterator[Folder]:
    """A folder of FILES_DIR, which may be a link itself: the operator put it where it is."""
    try:
        parent = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield Folder(None)  # nothing was ever uploaded
        return
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        descriptor = None
    except OSError as error:
        sentence = "cleanup: %(folder)s is left alone: it must be a folder, and no link (%(why)s)"
        tell(log, logging.WARNING, "folder.left_alone", sentence, folder=str(root / name), why=str(error))
        descriptor = None
    finally:
        os.close(parent)
    try:
        yield Folder(descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _clean_tmp(tmp: Folder, now: datetime, tally: Tally) -> None:
    for name in tmp.old_files(now - TEMPORARY):
        freed = tmp.remove(name)
        if freed is not None:
            tally.temporary_files += 1
            tally.bytes += freed


def _clean_rows(
    sessions: sessionmaker[Session], uploads: Folder, thumbnails: Folder, now: datetime, tally: Tally
) -> None:
    """Uploads whose user is gone. The rows first: a file that is left behind has no row then, and is found tomorrow."""
    old = (
        sa.select(Upload.id)
        .where(Upload.user_id.is_(None), Upload.created_at < now - ORPHANED)
        .order_by(Upload.id)
        .limit(BATCH)
    )
    while True:
        with sessions.begin() as session:
            orphans = sa.delete(Upload).where(Upload.id.in_(old), Upload.user_id.is_(None)).returning(Upload.key)
            keys = session.scalars(orphans, execution_options={"synchronize_session": False}).all()
        if not keys:
            return
        tally.orphaned_uploads += len(keys)
        for key in keys:
            tally.bytes += (uploads.remove(key) or 0) + _remove_thumbnails(thumbnails, key)


def _clean_uploads(
    sessions: sessionmaker[Session], uploads: Folder, thumbnails: Folder, now: datetime, tally: Tally
) -> None:
    """Files that no row names: whoever wrote them died before the commit."""
    for names in _batches(uploads.old_files(now - ORPHANED)):
        for name in set(names) - _rows_of(sessions, names):
            freed = uploads.remove(name)
            if freed is not None:
                tally.orphaned_uploads += 1
                tally.bytes += freed + _remove_thumbnails(thumbnails, name)


def _clean_thumbnails(sessions: sessionmaker[Session], thumbnails: Folder, now: datetime, tally: Tally) -> None:
    """What is left of uploads that were deleted while their thumbnails were being made."""
    for names in _batches(thumbnails.old_files(now - ORPHANED)):
        stems = {name: name.rpartition("-")[0] for name in names}
        keys = _rows_of(sessions, [f"{stem}.{suffix}" for stem in set(stems.values()) for suffix in SUFFIXES])
        named = {_stem(key) for key in keys}
        for name, stem in stems.items():
            if stem not in named:
                tally.bytes += thumbnails.remove(name) or 0


def _remove_thumbnails(thumbnails: Folder, key: str) -> int:
    return sum(thumbnails.remove(thumbnail_name(_stem(key), size)) or 0 for size in SIZES)


def _stem(key: str) -> str:
    return key.partition(".")[0]


def _rows_of(sessions: sessionmaker[Session], keys: Iterable[str]) -> set[str]:
    """Those of the keys that an upload has."""
    # A file's name may be bytes that are no text; a key never is.
    text = [key for key in keys if key.isascii()]
    with sessions() as session:
        return set(session.scalars(sa.select(Upload.key).where(Upload.key.in_(text))))


def _batches(names: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(names, BATCH)):
        yield batch
