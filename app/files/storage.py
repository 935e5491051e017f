"""Where pictures lie: `tmp/` while they come in, `uploads/`, and `thumbnails/`, under FILES_DIR.

A file gets its place by a rename, when it is complete: whoever reads there never sees half of one, and a process that
dies leaves nothing but a file in `tmp/`, which the cleanup takes.

    tmp/<random>  --checked, rename, commit of its row-->  uploads/<key>  --worker-->  thumbnails/<stem>-<size>.webp
"""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

TMP, UPLOADS, THUMBNAILS = "tmp", "uploads", "thumbnails"

SIZES = (64, 256, 1024)
"""Pixels of a thumbnail's longer edge: for a list, for a page, for a screen."""

SUFFIXES = ("png", "jpg", "gif", "webp")

_KEY = re.compile(rf"[0-9a-f]{{32}}\.(?:{'|'.join(SUFFIXES)})")
_PIECE = 1 << 20  # bytes in memory at a time


class TooManyBytes(Exception):
    """There were more than allowed."""


class Storage:
    """The files of one application."""

    def __init__(self, root: Path) -> None:
        # Flask takes a relative path for one under its package.
        self.root = root.absolute()

    @contextmanager
    def receive(self, stream: IO[bytes], most: int) -> Iterator[Path]:
        """Its bytes in a temporary file, which is removed in the end unless `keep` took it.

        TooManyBytes beyond `most`.
        """
        with self.temporary() as path:
            with path.open("xb") as file:
                self._copy(stream, file, most)
                file.flush()
                os.fsync(file.fileno())  # the row that will name it survives a power cut, and so must the file
            yield path

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A path for a file that is being written; what is still there in the end is removed."""
        folder = self.root / TMP
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / secrets.token_hex(16)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, received: Path, suffix: str) -> str:
        """Give it its place among the uploads, and return its key."""
        key = f"{secrets.token_hex(16)}.{suffix}"
        self._place(received, self.upload(key))
        return key

    def keep_thumbnail(self, made: Path, key: str, size: int) -> None:
        """Give it its place, which another run may have filled already."""
        self._place(made, self.thumbnail(key, size))

    def upload(self, key: str) -> Path:
        """Where the picture of that key is. ValueError for what is none: a path, for example."""
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not the key of an upload")
        return self.root / UPLOADS / key

    def thumbnail(self, key: str, size: int) -> Path:
        """Where its thumbnail is, if it was made."""
        return self.root / THUMBNAILS / thumbnail_name(self.upload(key).stem, size)

    def remove(self, key: str) -> None:
        """The picture and its thumbnails, as far as they are there."""
        for path in (self.upload(key), *(self.thumbnail(key, size) for size in SIZES)):
            path.unlink(missing_ok=True)

    def _copy(self, source: IO[bytes], file: IO[bytes], most: int) -> None:
        left = most
        while piece := source.read(_PIECE):
            left -= len(piece)
            if left < 0:
                raise TooManyBytes
            file.write(piece)

    def _place(self, path: Path, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)


def thumbnail_name(stem: str, size: int) -> str:
    """Of the upload whose key begins with `stem`. All are WebP: small, with transparency, read by every browser."""
    return f"{stem}-{size}.webp"
