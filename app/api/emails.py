"""The mails of the API: queue one, see how it stands, call it back, search."""

from typing import Any, cast

import sqlalchemy as sa
from flask import Blueprint, Response, current_app, jsonify, make_response, request, url_for
from sqlalchemy.orm import Session, joinedload
from werkzeug.exceptions import Conflict, NotFound

from app.accounts.tokens import Scope
from app.api import bounds
from app.api.access import asker, needs
from app.api.documents import (
    Attempt,
    Email,
    EmailInFull,
    Emails,
    Keyed,
    NewEmail,
    Problem,
    Queued,
    Recipient,
    Told,
    Wanted,
)
from app.api.openapi import answers, document, secured
from app.database import request_session
from app.settings import AppSettings
from outbox import auditing, feedback, operations, searching
from outbox.errors import IdempotencyConflict
from outbox.explaining import explain
from outbox.models import EmailContent, QueuedEmail
from outbox.service import EmailService
from outbox.states import Kind, Priority, Status

JSON_ESCAPES = 1_000_000
"""Bytes of a request beyond OUTBOX_MAX_MESSAGE_BYTES: names, quotes and escapes. A file is shorter in JSON's base64
than in a mail's, which has line ends."""

emails = Blueprint("emails", __name__, url_prefix="/emails")


@emails.post("")
@needs(Scope.SEND)
@document.validate(
    resp=answers(
        HTTP_201=Queued, HTTP_200=Queued, HTTP_400=Problem, HTTP_409=Problem, HTTP_413=Problem, HTTP_415=Problem
    ),
    security=secured(Scope.SEND),
    tags=["emails"],
)
def queue(json: NewEmail, headers: Keyed) -> Response:
    """Queue a mail.

    201: it is queued, and will be sent. 200: the same mail was queued before with this `Idempotency-Key`. Each of its
    recipients has an id, and a fate, of its own. Somebody who must not get mail is among them, as `dead`.
    """
    bounds.check_depth()
    session = request_session()
    service = EmailService(session, _settings())
    own = f"api:{asker().user_id}:"
    """What keeps apart the keys of two users, and theirs from the application's."""
    key = headers.idempotency_key and f"{own}{headers.idempotency_key}"
    is_known = key is not None and key in service.taken([key])
    try:
        row = service.queue_email(**json.arguments(), idempotency_key=key)
    except IdempotencyConflict as conflict:
        raise Conflict(f"{conflict}.".replace(own, "", 1)) from conflict
    session.flush()
    queued = _queued(row.content)
    session.commit()
    response = make_response(jsonify(queued.model_dump(mode="json")), 200 if is_known else 201)
    response.headers["Location"] = queued.recipients[0].url
    return response


@emails.get("/<int:id_>")
@needs(Scope.READ)
@document.validate(resp=answers(HTTP_200=EmailInFull, HTTP_404=Problem), security=secured(Scope.READ), tags=["emails"])
def show(id_: int) -> EmailInFull:
    """See how a mail to one recipient stands, what was tried, and what was told of it afterwards."""
    return _in_full(request_session(), id_)


@emails.post("/<int:id_>/cancel")
@needs(Scope.CANCEL)
@document.validate(
    resp=answers(HTTP_200=EmailInFull, HTTP_404=Problem, HTTP_409=Problem),
    security=secured(Scope.CANCEL),
    tags=["emails"],
)
def cancel(id_: int) -> EmailInFull:
    """Call a mail to one recipient back. 409: it is not pending any more."""
    session = request_session()
    connection = session.connection()
    who = f"{asker().user.username} (API token {asker().id})"
    if not auditing.cancel(connection, [id_], who):
        refusal = operations.refusal(connection, id_, "cancelled")
        raise _missing(id_) if session.get(QueuedEmail, id_) is None else refusal
    cancelled = _in_full(session, id_)
    session.commit()
    return cancelled


@emails.get("")
@needs(Scope.READ)
@document.validate(resp=answers(HTTP_200=Emails), security=secured(Scope.READ), tags=["emails"])
def search(query: Wanted) -> Emails:
    """Search the mails, newest first, whoever queued them."""
    page = searching.page(request_session(), query.filter(), before=query.before, limit=query.limit)
    contents = sa.select(EmailContent.id, EmailContent.message_id)
    wanted = contents.where(EmailContent.id.in_({mail.content_id for mail in page.mails}))
    message_ids = {row.id: row.message_id for row in request_session().execute(wanted)}
    return Emails(
        emails=[Email(**_fields(mail, message_ids[mail.content_id])) for mail in page.mails],
        next=page.next_before,
        searched_to=page.searched_to,
    )


@emails.before_request
def _bound_the_body() -> None:
    request.max_content_length = _settings().outbox_max_message_bytes + JSON_ESCAPES


def _queued(content: EmailContent) -> Queued:
    recipients = [
        Recipient(id=row.id, recipient=row.recipient, kind=Kind(row.kind), status=Status(row.status), url=_url(row.id))
        for row in content.recipients
    ]
    return Queued(message_id=content.message_id, recipients=recipients)


def _in_full(session: Session, id_: int) -> EmailInFull:
    row = session.get(QueuedEmail, id_, options=[joinedload(QueuedEmail.content).load_only(EmailContent.message_id)])
    if row is None:
        raise _missing(id_)
    connection = session.connection()
    return EmailInFull(
        **_fields(row, row.content.message_id),
        why=explain(connection, _settings(), id_),
        tried=[Attempt.model_validate(attempt) for attempt in row.tries],
        feedback=[Told.model_validate(told) for told in feedback.of_mail(connection, id_)],
    )


def _fields(row: QueuedEmail, message_id: str) -> dict[str, Any]:
    fields = {name: getattr(row, name, None) for name in Email.model_fields}
    is_pending = row.status == Status.PENDING
    return fields | {
        "message_id": message_id,
        "priority": Priority(row.priority).label,
        "next_attempt_at": row.next_attempt_at if is_pending else None,  # else of the past, and without a meaning
    }


def _missing(id_: int) -> NotFound:
    return NotFound(f"There is no mail {id_}.")


def _url(id_: int) -> str:
    return url_for("api.emails.show", id_=id_)


def _settings() -> AppSettings:
    return cast("AppSettings", current_app.extensions["settings"])
