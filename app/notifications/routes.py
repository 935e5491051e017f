"""The bell, the list behind it, and the stream that keeps open pages up to date."""

from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Flask, Response, abort, current_app, redirect, render_template, request, url_for
from flask.sansio.blueprints import BlueprintSetupState
from flask_login import current_user, login_required, user_logged_out

from app.accounts.access import me
from app.accounts.models import User
from app.database import LARGEST_ID, request_session
from app.notifications.bell import bell
from app.notifications.models import Notification
from app.notifications.stream import Reader, Streams
from app.notifications.wakes import LEAVE, channel_of_user
from outbox.database import utcnow

_PAGE = 50

notifications = Blueprint("notifications", __name__, url_prefix="/notifications")


@notifications.record_once
def _set_up(state: BlueprintSetupState) -> None:
    parts = state.app.extensions
    parts["streams"] = Streams(parts["engine"], parts["wakes"], parts["settings"].notification_streams)
    user_logged_out.connect(_end_streams, state.app)


@notifications.app_context_processor
def _bell() -> dict[str, Any]:
    """A function: only a page that shows the bell pays for it."""
    return {"bell": bell}


@notifications.get("/")
@login_required  # type: ignore[untyped-decorator]  # Flask-Login ships no types
def index() -> str:
    """The newest first, in pages."""
    newest = sa.select(Notification).where(Notification.user_id == me().id).order_by(Notification.id.desc())
    if before := _id(request.args.get("before"), "before"):
        newest = newest.where(Notification.id < before)
    rows = request_session().scalars(newest.limit(_PAGE + 1)).all()
    return render_template(
        "notifications/index.html", rows=rows[:_PAGE], first=not before, older=rows[_PAGE - 1].id if rows[_PAGE:] else 0
    )


@notifications.post("/read")
@login_required  # type: ignore[untyped-decorator]
def read_all() -> Response:
    """All up to the one that was the newest on the page: what has come since has not been seen."""
    up_to = _id(request.form.get("up_to"), "up_to")
    if up_to is None:
        abort(400, "Say up to which notification: up_to is missing.")
    _mark_read(Notification.id <= up_to)
    return _to(url_for("notifications.index"))


@notifications.post("/<int:notification_id>/read")
@login_required  # type: ignore[untyped-decorator]
def read(notification_id: int) -> Response:
    """One, and go where it leads."""
    one = sa.select(Notification.url).where(Notification.id == notification_id, Notification.user_id == me().id)
    url = request_session().scalar(one)
    if url is None:
        abort(404)
    _mark_read(Notification.id == notification_id)
    return _to(url or url_for("notifications.index"))


@notifications.get("/stream")
def stream() -> Response:
    """The reader's own, as server-sent events: those after `Last-Event-ID`, or `?after=`, and those to come."""
    if not current_user.is_authenticated:
        abort(401)  # and not the page to log in: a browser would take it for a broken stream, and so would we
    after = _id(request.headers.get("Last-Event-ID") or request.args.get("after"), "Last-Event-ID")
    reader = Reader(me().id, me().get_id(), me().organisation_id)
    gone = request.environ.get("waitress.client_disconnected", lambda: False)
    events = current_app.extensions["streams"].events(reader, after, gone)
    # nginx would keep it back until it has a bufferful.
    return Response(events, mimetype="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _mark_read(condition: sa.ColumnElement[bool]) -> None:
    session = request_session()
    user_id = me().id
    session.execute(
        sa.update(Notification)
        .where(condition, Notification.user_id == user_id, Notification.read_at.is_(None))
        .values(read_at=utcnow())
    )
    session.commit()
    current_app.extensions["wakes"]([channel_of_user(user_id)])  # the bells of their other pages


def _end_streams(app: Flask, user: User, **_: Any) -> None:
    """After a logout. Those of other browsers are back in a moment, by their own login."""
    if (user_id := getattr(user, "id", None)) is not None:
        app.extensions["wakes"]([channel_of_user(user_id)], LEAVE)


def _id(text: str | None, name: str) -> int | None:
    """400 for what no notification's id can be."""
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < len(str(LARGEST_ID))):
        abort(400, f"{name} {text[:40]!r} is no notification: give its id, a number.")
    return int(text)


def _to(url: str) -> Response:
    response: Any = redirect(url, 303)
    return response  # type: ignore[no-any-return]
