"""Small copies of pictures: upright, and without what cameras write beside them (where, when, with which camera).

Two runs at once make the same thing twice and the later rename wins; one that is killed leaves the upload waiting for
the next run.
"""

import errno
import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from PIL import Image, ImageOps
from sqlalchemy.orm import Session, sessionmaker

from app.files import pictures
from app.files.models import Upload
from app.files.storage import SIZES, Storage
from app.settings import AppSettings
from outbox.logs import tell

log = logging.getLogger(__name__)

BATCH = 100
"""Uploads that are looked up at a time. To make their thumbnails takes some ten seconds."""

_QUALITY = 80  # of WebP, 0 to 100: what its own tools begin with is 75, and small pictures show more of the loss


class Unmakeable(Exception):
    """There will never be thumbnails of this upload. The message is for its user."""


@dataclass
class Tally:
    """What a run did, in uploads."""

    made: int = 0
    failed: int = 0


def generate(
    sessions: sessionmaker[Session], settings: AppSettings, now: datetime, upload_id: int | None = None
) -> Tally:
    """Make the thumbnails that are missing, of one upload or of all, in the order of their ids.

    One that fails does not keep the others back. What is wrong with the file itself is written down and not tried
    again; what is wrong with the disk is tried again by the next run.
    """
    storage, tally, last = Storage(settings.files_dir), Tally(), 0
    while batch := _waiting(sessions, upload_id, last):
        last = batch[-1][0]
        for id_, key in batch:
            columns = _make(storage, id_, key, now)
            made = columns.get("thumbnails_at") is not None
            tally.made += made
            tally.failed += not made
            if columns and not _record(sessions, id_, key, columns):
                storage.remove(key)  # it was deleted meanwhile, and we may have come after that
    return tally


def _waiting(sessions: sessionmaker[Session], upload_id: int | None, last: int) -> list[tuple[int, str]]:
    waiting = sa.select(Upload.id, Upload.key).where(
        Upload.thumbnails_at.is_(None), Upload.thumbnail_error.is_(None), Upload.id > last
    )
    if upload_id is not None:
        waiting = waiting.where(Upload.id == upload_id)
    with sessions() as session:
        return [(id_, key) for id_, key in session.execute(waiting.order_by(Upload.id).limit(BATCH))]


def _make(storage: Storage, id_: int, key: str, now: datetime) -> dict[str, Any]:
    """What to write down about it; nothing if the next run shall try again."""
    try:
        make(storage, key)
    except Unmakeable as error:
        sentence = "upload %(upload)d has no thumbnails, and will not have any: %(why)s"
        tell(log, logging.WARNING, "thumbnails.refused", sentence, upload=id_, why=str(error))
        return {"thumbnails_at": None, "thumbnail_error": str(error)}
    except OSError as error:
        sentence = "upload %(upload)d has no thumbnails yet: %(why)s"
        tell(log, logging.WARNING, "thumbnails.failed", sentence, upload=id_, why=str(error))
        return {}
    return {"thumbnails_at": now, "thumbnail_error": None}


def _record(sessions: sessionmaker[Session], id_: int, key: str, columns: dict[str, Any]) -> bool:
    """False if the upload is gone. By its key, too: SQLite gives the id of the last row again when that is deleted."""
    with sessions.begin() as session:
        this = sa.update(Upload).where(Upload.id == id_, Upload.key == key)
        return session.execute(this.values(columns).returning(Upload.id)).first() is not None


def make(storage: Storage, key: str) -> None:
    """All sizes of one picture. Unmakeable, or an OSError of the disk."""
    with pictures.room:
        picture = _decoded(storage.upload(key))
        picture.thumbnail((max(SIZES), max(SIZES)))  # of which the others are made, 30 times as fast; it never enlarges
    for size in SIZES:
        smaller = picture.copy()
        smaller.thumbnail((size, size))
        with storage.temporary() as path:
            smaller.save(path, "WEBP", quality=_QUALITY)
            storage.keep_thumbnail(path, key, size)


def _decoded(path: Path) -> Image.Image:
    """The first frame, upright, a good deal larger than the largest thumbnail at most, and nothing but its pixels."""
    try:
        with Image.open(path, formats=tuple(pictures.FORMATS)) as image:
            largest = max(SIZES)
            image.draft(None, (largest, largest))  # a JPEG is decoded at 1/2, 1/4 or 1/8
            has_alpha = image.has_transparency_data
            upright = _upright(image)
            if upright.mode.startswith("I"):  # 16 bits of grey, of which Pillow's conversion would make white
                upright = upright.convert("I").point(lambda value: value * (1 / 257)).convert("L")
            plain = upright.convert("RGBA" if has_alpha else "RGB")
    except FileNotFoundError as error:
        raise Unmakeable("the picture is gone") from error
    except (*pictures.BROKEN, MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        if isinstance(error, OSError) and error.errno not in {None, errno.ENOENT}:
            raise
        raise Unmakeable(f"the picture cannot be read ({error})") from error
    plain.info = {}  # EXIF and the like would be written with it
    return plain


def _upright(image: Image.Image) -> Image.Image:
    """As its camera was held. Nonsense in its EXIF leaves it as it lies."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except pictures.BROKEN:
        return image
