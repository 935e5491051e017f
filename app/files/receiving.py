"""Take an upload in: its file, checked, and its row, or neither."""

from pathlib import PureWindowsPath

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from werkzeug.datastructures import FileStorage

from app.files import pictures
from app.files.models import Upload
from app.files.pictures import NotAPicture
from app.files.storage import Storage

LONGEST_NAME = 200
"""Characters of a file's name that are kept, of the end, which has the suffix."""


def receive(file: FileStorage | None, user_id: int, session: Session, storage: Storage, most: int) -> Upload:
    """Its row, committed and detached. Whatever fails leaves neither row nor file.

    NotAPicture, or TooManyBytes beyond `most`. Nothing is begun in the session before the file is there.
    """
    if file is None or not file.filename:
        raise NotAPicture(f"there is no picture in the field `picture`: choose a {pictures.ALLOWED}")
    filename = _shown(file.filename)
    with storage.receive(file.stream, most) as path:
        picture = pictures.check(path, filename, file.mimetype)
        size = path.stat().st_size
        key = storage.keep(path, picture.format.suffixes[0])
    row = Upload(
        user_id=user_id,
        key=key,
        filename=filename,
        media_type=picture.format.media_type,
        size=size,
        width=picture.width,
        height=picture.height,
    )
    try:
        _commit(session, row)
    except SQLAlchemyError:
        storage.remove(key)
        raise
    return row


def _commit(session: Session, row: Upload) -> None:
    session.add(row)
    session.flush()
    session.refresh(row)
    session.expunge(row)  # else the commit would forget what it says
    session.commit()


def _shown(filename: str) -> str:
    """What somebody called it, without its folders, and what would break a header or turn the line around."""
    name = PureWindowsPath(filename).name  # which knows both slashes
    return "".join(filter(str.isprintable, name))[-LONGEST_NAME:].strip() or "picture"
