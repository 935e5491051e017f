"""One mail: how it stands and why, what was tried, and what it says. Nothing in it runs, and nothing is fetched."""

import re
from base64 import b64encode
from collections.abc import Sequence
from typing import cast

import sqlalchemy as sa
from flask import Blueprint, Response, abort, current_app, render_template
from sqlalchemy.orm import Session

from app.accounts.access import me
from app.accounts.zones import zone_of
from app.admin.framing import framed
from app.admin.moves import possible
from app.database import request_session
from app.settings import AppSettings
from outbox import auditing, feedback, showing
from outbox.errors import NotPossible
from outbox.explaining import explain
from outbox.models import EmailAttachment, EmailBlob, EmailContent, QueuedEmail
from outbox.states import Priority, Status

_PICTURE = re.compile(r"image/[\w.+-]+", re.ASCII)

mail_pages = Blueprint("mail", __name__, url_prefix="/mail")


@mail_pages.get("/<int:id_>")
def show(id_: int) -> str:
    """All that is known of it."""
    session = request_session()
    row = _found(session, id_)
    connection = session.connection()
    return render_template(
        "admin/mail.html",
        mail=row,
        content=row.content,
        sentence=explain(connection, _settings(), id_, zone_of(me().time_zone)),
        lane=Priority(row.priority).label,
        body=showing.body(row.content),
        others=[other for other in row.content.recipients if other.id != id_],
        events=feedback.of_mail(connection, id_),
        files=_files(session, row.content_id),
        record=auditing.of_mail(connection, id_),
        moves=possible({Status(row.status)}),
    )


@mail_pages.get("/<int:id_>/html")
def html(id_: int) -> Response:
    """Its HTML alone, for the frame."""
    session = request_session()
    row = _found(session, id_)
    try:
        said = showing.html(row)
    except NotPossible as error:
        abort(404, f"{error}.")
    return framed(_with_pictures(session, said, row.content))


@mail_pages.get("/<int:id_>/source")
def source(id_: int) -> Response:
    """The message as it goes to the relay."""
    session = request_session()
    try:
        return Response(showing.source(session, _found(session, id_)), mimetype="text/plain")
    except NotPossible as error:
        abort(404, f"{error}.")


def _found(session: Session, id_: int) -> QueuedEmail:
    row = session.get(QueuedEmail, id_)
    if row is None:
        abort(404, f"There is no mail {id_}: it was purged, or never was.")
    return row


def _files(session: Session, content_id: int) -> Sequence[sa.Row[str, str, str | None, int]]:
    """Names and sizes. The bytes are not asked for."""
    a = EmailAttachment
    query = sa.select(a.filename, a.content_type, a.inline_id, EmailBlob.size).join(
        EmailBlob, EmailBlob.sha256 == a.sha256
    )
    return session.execute(query.where(a.content_id == content_id).order_by(a.position)).all()


def _with_pictures(session: Session, said: str, content: EmailContent) -> str:
    """Those that the mail itself brings (`cid:`) stand in the page: it may fetch none."""
    pictures = {
        f"cid:{file.inline_id}": file
        for file in content.attachments
        if file.inline_id is not None and _PICTURE.fullmatch(file.content_type)
    }
    if not pictures:
        return said

    def brought(found: re.Match[str]) -> str:
        file = pictures[found[0]]
        data = b64encode(session.get_one(EmailBlob, file.sha256).data).decode()
        return f"data:{file.content_type};base64,{data}"

    # The longest first: `cid:logo` is the beginning of `cid:logo2`.
    return re.sub("|".join(map(re.escape, sorted(pictures, key=len, reverse=True))), brought, said)


def _settings() -> AppSettings:
    return cast("AppSettings", current_app.extensions["settings"])
