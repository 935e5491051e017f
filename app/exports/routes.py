"""Ask for an export, see how it stands, download it. For admins, and each of their own alone: others get 404."""

from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from flask import Blueprint, Response, abort, jsonify, make_response, render_template, url_for
from werkzeug.exceptions import ServiceUnavailable

from app.accounts.access import admin_required, me, wants_json
from app.background import accepted, dispatch
from app.database import request_session
from app.exports.making import FILENAME, MEDIA_TYPE
from app.exports.models import Export
from app.queues import GENERATE_USER_EXPORT

exports = Blueprint("exports", __name__)

_SHOWN = 20  # exports on the page: those of the last days

_LOOK_AGAIN = "2"  # seconds; most are made by then


@exports.get("/export/")
@admin_required
def mine() -> str:
    """One's last exports, and the button for another."""
    latest = sa.select(Export).where(Export.user_id == me().id).order_by(Export.created_at.desc()).limit(_SHOWN)
    found = request_session().scalars(latest).all()
    return render_template("exports/mine.html", exports=[(export, _state(export)) for export in found])


@exports.post("/export/users")
@admin_required
def ask() -> Response:
    """202: a worker makes it. 503, and nothing asked for, if none can be told."""
    email = me().email
    if email is None:
        abort(409, "The export is mailed, and your account has no e-mail address: add one first.")
    session, id_ = request_session(), str(uuid4())
    session.add(Export(id=id_, user_id=me().id))
    session.commit()
    try:
        dispatch(GENERATE_USER_EXPORT, email, id_, task_id=id_)
    except ServiceUnavailable:
        session.execute(sa.delete(Export).where(Export.id == id_))
        session.commit()
        raise
    return accepted(id_, "The export is being made", url_for("exports.show", id_=UUID(id_)))


@exports.get("/export/<uuid:id_>")
@admin_required
def show(id_: UUID) -> Response:
    """How it stands: pending, done, failed, or gone after a day."""
    export = _own(id_)
    state = _state(export)
    url = url_for("exports.download", id_=id_)
    if wants_json():
        said: dict[str, Any] = {"task_id": export.id, "state": state, "error": export.error}
        return jsonify(said | {"url": url if state == "done" else None})
    response = make_response(render_template("exports/show.html", export=export, state=state, url=url))
    if state == "pending":
        response.headers["Refresh"] = _LOOK_AGAIN
    return response


@exports.get(f"/export/<uuid:id_>/{FILENAME}")
@admin_required
def download(id_: UUID) -> Response:
    """The file; 410 when it is gone, 404 as long as there is none."""
    export = _own(id_)
    state = _state(export)
    if state == "gone":
        abort(410, "Exports are kept for a day, and this one is older. Please ask for another.")
    if state != "done":
        abort(404, "This export has not been made.")
    response = make_response(export.csv or b"")
    response.headers["Content-Type"] = MEDIA_TYPE
    response.headers["Content-Disposition"] = f"attachment; filename={FILENAME}"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


def _own(id_: UUID) -> Export:
    found = request_session().scalar(sa.select(Export).where(Export.id == str(id_), Export.user_id == me().id))
    return found or abort(404)


def _state(export: Export) -> str:
    if export.finished_at is None:
        return "pending"
    if export.error is not None:
        return "failed"
    return "done" if export.has_csv else "gone"
