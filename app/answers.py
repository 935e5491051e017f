"""What all answers of the application have in common: their security headers, and how they say what went wrong."""

import logging

import sqlalchemy as sa
from flask import Flask, Response, g, json, render_template
from werkzeug.exceptions import Forbidden, HTTPException, NotFound, ServiceUnavailable
from werkzeug.wrappers import Response as AnyResponse

from app.accounts.access import wants_json
from outbox.logs import tell

log = logging.getLogger(__name__)

POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind} 'self'" for kind in ("style-src", "script-src", "img-src", "connect-src", "form-action")),
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""A page loads what lies beside it, has no style or script in itself, and stands in nobody's frame."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # the protection of forms looks for the referrer under https
    "Cache-Control": "no-store",  # most pages are somebody's own
}

_SERVERS_FAULT = 500

_IN_PLAIN_WORDS = {
    Forbidden: "Your account may not see or do this. If it should, ask an admin.",
    NotFound: "There is nothing at this address, or nothing that you may see. Perhaps the link is old, or incomplete.",
}
"""For people, instead of what Werkzeug says to developers. What a view says itself stands."""


def finish(app: Flask) -> None:
    """Give all answers their headers, unless the view has set its own, and all errors their words."""
    app.after_request(_with_headers)
    app.register_error_handler(HTTPException, _told)
    app.register_error_handler(sa.exc.OperationalError, _away)


def _with_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _told(error: HTTPException) -> AnyResponse:
    """`{"error": ...}` for a program, a page for a person; with the status and headers that the error has."""
    # A redirect is an HTTPException, too, and a response that somebody aborts with is finished.
    if error.response is not None or error.code is None or error.code < 400:  # noqa: PLR2004 - HTTP's own line
        return error.get_response()
    if wants_json():
        return in_json(error)
    response = error.get_response()
    if page := _page(error):
        response.data = page
    return response


def in_json(error: HTTPException, **further: str) -> AnyResponse:
    """`{"error": ...}`, for whoever is a program, whatever it says that it accepts."""
    response = error.get_response()
    if error.response is None:
        response.data = json.dumps({"error": error.description} | further)
        response.mimetype = "application/json"
    return response


def _page(error: HTTPException) -> str:
    """Empty if there is none to be had: what broke the view may break the frame, too, which shows its reader's name."""
    try:
        if error.code is not None and error.code >= _SERVERS_FAULT and "database_session" in g:
            g.database_session.rollback()
        return render_template("error.html", error=error, said=_said(error))
    except Exception:
        if error.code is None or error.code < _SERVERS_FAULT:
            raise
        sentence = "the page for %(error)s cannot be made"
        tell(log, logging.ERROR, "page.broken", sentence, exc_info=True, error=error.name)
        return ""


def _said(error: HTTPException) -> str | None:
    is_a_views_own = error.description != type(error).description
    return error.description if is_a_views_own else _IN_PLAIN_WORDS.get(type(error), error.description)


def _away(error: sa.exc.OperationalError) -> AnyResponse:
    """No connection, or a lock that nobody gives up: worth another try, which a plain 500 does not say."""
    tell(log, logging.ERROR, "database.away", "the database does not answer", exc_info=error)
    return _told(ServiceUnavailable("The database does not answer. Please try again in a minute.", retry_after=60))
