"""Pictures: upload, list, serve, delete. Each user's own: what is somebody else's is not there (404).

What was uploaded is checked to be what it is served as, and is served so that a browser makes nothing else of it.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    flash,
    jsonify,
    make_response,
    redirect,
    render_template,
    request,
    send_file,
    url_for,
)
from flask_login import current_user, login_required
from werkzeug.exceptions import RequestEntityTooLarge, ServiceUnavailable

from app.accounts.access import log_in_first, me, wants_json
from app.background import dispatch
from app.database import LARGEST_ID, request_session
from app.files import pictures
from app.files.models import Upload
from app.files.pictures import NotAPicture
from app.files.receiving import receive
from app.files.storage import SIZES, Storage, TooManyBytes
from app.queues import GENERATE_THUMBNAILS
from app.settings import AppSettings
from outbox.logs import tell

log = logging.getLogger(__name__)

files = Blueprint("files", __name__)

PAGE = 24
"""Pictures on a page: rows of two, three and four come out even."""

_LOOK_AGAIN = "2"  # seconds; most previews are made by then
_LOOKS_FOR = timedelta(minutes=1)
"""What takes longer waits for the hourly run, and a page that is renewed forgets what was chosen in it."""

_FORM = 65_536  # bytes of a request beside the picture: boundaries, its name, the CSRF token

_NOTHING_ELSE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",  # a browser's picture viewer
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}


@files.url_value_preprocessor
def _limit(endpoint: str | None, _: dict[str, Any] | None) -> None:
    """Before anything else looks for a CSRF token, and reads the whole body for it."""
    if endpoint == "files.upload":
        request.max_content_length = _settings().max_upload_bytes + _FORM


@files.get("/files/")
@login_required  # type: ignore[untyped-decorator]
def mine() -> Response:
    """One's own pictures, newest first; `?before=ID` goes on."""
    return _page()


@files.post("/files/")
@login_required  # type: ignore[untyped-decorator]
def upload() -> Response:
    """Keep the picture of the field `picture`, if it is one."""
    user_id = me().id
    # The file is received and decoded without a transaction, which on SQLite would keep all others from writing.
    request_session().rollback()
    row = receive(request.files.get("picture"), user_id, request_session(), _storage(), _settings().max_upload_bytes)
    try:
        dispatch(GENERATE_THUMBNAILS, row.id)
    except ServiceUnavailable:
        sentence = "the thumbnails of upload %(upload)d wait for the next hour's run"
        tell(log, logging.WARNING, "thumbnails.wait", sentence, upload=row.id)
    if wants_json():
        response = jsonify(_described(row))
        response.status_code, response.location = 201, url_for("files.original", id_=row.id)
        return response
    flash(f"{row.filename} is uploaded.", "good")
    return make_response(redirect(url_for("files.mine"), 303))


@files.get("/files/<int:id_>")
@login_required  # type: ignore[untyped-decorator]
def original(id_: int) -> Response:
    """The picture as it was uploaded."""
    found = _own(id_)
    path = _storage().upload(found.key)
    if not path.is_file():
        abort(404, "The file of this picture is gone.")
    return _served(send_file(path, found.media_type, download_name=found.filename))


@files.get("/files/<int:id_>/thumbnail/<int:size>")
@login_required  # type: ignore[untyped-decorator]
def thumbnail(id_: int, size: int) -> Response:
    """A small copy of it; 404 as long as it has not been made."""
    found = _own(id_)
    if size not in SIZES:
        abort(404, f"Thumbnails are {', '.join(map(str, SIZES))} pixels large.")
    path = _storage().thumbnail(found.key, size)
    if not path.is_file():
        abort(404, "This thumbnail has not been made yet.")
    return _served(send_file(path, "image/webp"))


@files.post("/files/<int:id_>/delete")
@login_required  # type: ignore[untyped-decorator]
def delete(id_: int) -> Response:
    """Delete it. The row first: a file without one is an orphan, a row without a file a broken promise."""
    found = _own(id_)
    key, filename = found.key, found.filename
    request_session().delete(found)
    request_session().commit()
    _storage().remove(key)
    if wants_json():
        return make_response("", 204)
    flash(f"{filename} is deleted.", "good")
    return make_response(redirect(url_for("files.mine"), 303))


@files.errorhandler(TooManyBytes)
@files.errorhandler(RequestEntityTooLarge)
def _too_large(_: Exception) -> Response:
    if not current_user.is_authenticated:  # found while looking for the form's CSRF token, before anybody was asked
        return log_in_first()
    most = _settings().max_upload_bytes
    return _refused(f"the file is too large: at most {most:,} bytes ({most / 1e6:g} MB) are taken", 413)


@files.errorhandler(NotAPicture)
def _not_a_picture(error: NotAPicture) -> Response:
    return _refused(str(error), 400)


def _refused(problem: str, status: int) -> Response:
    if wants_json():
        response = jsonify(error=problem)
    else:
        request_session().rollback()
        response = _page(f"Nothing was uploaded: {problem}.")
    response.status_code = status
    return response


def _page(problem: str = "") -> Response:
    before = request.args.get("before", type=int)
    query = sa.select(Upload).where(Upload.user_id == me().id)
    if before is not None and 0 < before <= LARGEST_ID:
        query = query.where(Upload.id < before)
    found = request_session().scalars(query.order_by(Upload.id.desc()).limit(PAGE + 1)).all()
    shown = found[:PAGE]
    if wants_json():
        return jsonify(files=[_described(row) for row in shown], more=len(found) > PAGE)
    response = make_response(_listed(shown, problem, older=shown[-1].id if len(found) > PAGE else None))
    if not problem and any(_is_coming(row) for row in shown):  # renewed, the page would lose the problem
        response.headers["Refresh"] = _LOOK_AGAIN
    return response


def _listed(shown: Sequence[Upload], problem: str, *, older: int | None) -> str:
    return render_template(
        "files/mine.html",
        uploads=shown,
        older=older,
        problem=problem,
        allowed=pictures.ALLOWED,
        most_bytes=_settings().max_upload_bytes,
        most_pixels=pictures.MOST_PIXELS,
        accept=",".join(one.media_type for one in pictures.FORMATS.values()),
    )


def _is_coming(row: Upload) -> bool:
    """Whether its preview may be there in a moment."""
    is_open = row.thumbnails_at is None and row.thumbnail_error is None
    return is_open and datetime.now(UTC) - row.created_at < _LOOKS_FOR


def _described(row: Upload) -> dict[str, Any]:
    return {
        "id": row.id,
        "filename": row.filename,
        "media_type": row.media_type,
        "size": row.size,
        "width": row.width,
        "height": row.height,
        "created_at": row.created_at.isoformat(),
        "url": url_for("files.original", id_=row.id),
        "thumbnails": {size: url_for("files.thumbnail", id_=row.id, size=size) for size in SIZES}
        if row.thumbnails_at
        else {},
    }


def _own(id_: int) -> Upload:
    found = request_session().scalar(sa.select(Upload).where(Upload.id == id_, Upload.user_id == me().id))
    return found or abort(404)


def _served(response: Response) -> Response:
    response.headers.update(_NOTHING_ELSE)
    return response


def _settings() -> AppSettings:
    settings: AppSettings = current_app.extensions["settings"]
    return settings


def _storage() -> Storage:
    return Storage(_settings().files_dir)
