"""Who asks, and what they may do.

A browser shows its session's cookie; a program shows an API token, `Authorization: Bearer obx_...`, and is judged by
that alone, whatever cookies come with it. No other site can make a browser send that header without asking us first
(CORS, to which we never agree), so such a request needs no CSRF token; every other that changes something does.
"""

import hmac
import logging
import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

import sqlalchemy as sa
from flask import Flask, Request, Response, abort, current_app, g, jsonify, make_response, redirect, request, url_for
from flask_login import LoginManager, current_user, login_required
from flask_wtf import CSRFProtect
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import ServiceUnavailable, Unauthorized

from app.accounts import tokens
from app.accounts.models import User
from app.database import request_session
from outbox.logs import tell

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_SESSION_ID = re.compile(r"([0-9]{1,18}):[0-9a-f]{32}")
"""What `User.get_id` makes. Another application with the same secret key, or an older release, made others."""

logins = LoginManager()
# Its check that a session stays with one address and browser would log out every phone that leaves the house.
logins.session_protection = None


class FormProtection(CSRFProtect):  # type: ignore[misc]  # Flask-WTF ships no types
    """Asks every form for its token, and no program for one."""

    def _error_response(self, reason: str) -> None:
        super()._error_response(f"{reason} Nothing was changed: load the page again, and send it from there.")

    def protect(self, apply_exemptions: bool = False) -> None:
        """Refuse the request (400) unless it has the token of the session, and comes from a page of ours.

        The token alone would do. The origin is asked for, too, since a token can be lost in ways that a page's address
        cannot be forged in: under http no referrer is looked at.
        """
        if has_bearer() or (apply_exemptions and self._is_exempt()):
            return
        super().protect(apply_exemptions=apply_exemptions)
        if request.method in current_app.config["WTF_CSRF_METHODS"] and not _comes_from_us():
            self._error_response("The form was sent from another site.")


def _comes_from_us() -> bool:
    """Judged by the `Origin` that every browser of today sends with a form; programs and old browsers send none.

    Ours are that of `APP_URL` and the host that was asked, whichever of http and https a proxy has made of it.
    """
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    ours = urlsplit(current_app.extensions["settings"].app_url)
    return origin.partition("://")[2] == request.host or origin == f"{ours.scheme}://{ours.netloc}"


def admit(app: Flask) -> None:
    """Let the application know its users, and protect its forms."""
    # A quiz may lie open for longer than the hour that is the default: the token holds as long as the session.
    app.config["WTF_CSRF_TIME_LIMIT"] = None
    FormProtection(app)
    logins.init_app(app)


def has_bearer() -> bool:
    """Whether the request shows a token, right or wrong: then nothing else says who asks."""
    return request.authorization is not None and request.authorization.type == "bearer"


def wants_json() -> bool:
    """Whether a program asks, rather than a browser for a page."""
    accepted = request.accept_mimetypes
    takes_no_page = bool(accepted) and accepted["text/html"] <= 0
    return has_bearer() or request.is_json or takes_no_page or accepted["application/json"] > accepted["text/html"]


@logins.user_loader  # type: ignore[untyped-decorator]  # Flask-Login ships no types
def _of_session(session_id: str) -> User | None:
    if has_bearer():
        return None
    ours = _SESSION_ID.fullmatch(session_id)
    user = _asked(lambda: request_session().get(User, int(ours[1]))) if ours else None
    return user if user is not None and user.get_id() == session_id else None


@logins.request_loader  # type: ignore[untyped-decorator]
def _of_token(request: Request) -> User | None:
    if not has_bearer():
        return None
    assert request.authorization is not None
    return _asked(lambda: _stood_in_for(request.authorization.token or ""))  # type: ignore[union-attr]


def _stood_in_for(token: str) -> User | None:
    """Nobody, if it has scopes: those are the mail API's, which asks for them itself."""
    found = tokens.find(request_session(), token)
    return found.user if found is not None and not found.scopes else None


def ask_nobody() -> None:
    """Let the rest of the request be nobody's, whatever it shows, and look no user up for it."""
    g.asks_nobody = True


def _asked(question: Callable[[], User | None]) -> User | None:
    """503 while the database does not answer. Once: the page that says so is somebody's, too, and must not fail."""
    if "asks_nobody" in g:
        return None
    try:
        return question()
    except sa.exc.SQLAlchemyError as error:
        ask_nobody()
        tell(log, logging.ERROR, "users.away", "users cannot be looked up", exc_info=error)
        raise ServiceUnavailable(
            "The database does not answer. Please try again in a minute.", retry_after=60
        ) from error


def log_in_first() -> Response:
    """What somebody gets who is nobody yet: people the page where they log in, programs 401."""
    if wants_json():
        said = "Log in, or send an API token."
        if has_bearer():
            said = "This API token is unknown or revoked, or has scopes, which are for the mail API alone."
        response = make_response(jsonify(error=said), 401)
        response.headers["WWW-Authenticate"] = "Bearer"
        return response
    # What was posted is lost anyway; its address may not even be one that can be looked at.
    back = request.full_path.removesuffix("?") if request.method in {"GET", "HEAD"} else None
    return cast("Response", redirect(url_for("accounts.login", next=back)))


logins.unauthorized_handler(log_in_first)


def me() -> User:
    """The user who asks, in the request's session. For views that require a login."""
    return cast("User", current_user._get_current_object())  # noqa: SLF001 - documented by Werkzeug's proxies


def is_admin() -> bool:
    """Whether an admin asks. For views that anybody may see."""
    return bool(current_user.is_authenticated and current_user.is_admin)


def admin_required(view: Callable[P, R]) -> Callable[P, R]:
    """A login, and of an admin; 403 for others."""

    @login_required  # type: ignore[untyped-decorator]
    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        if not me().is_admin:
            abort(403)
        return view(*args, **kwargs)

    return cast("Callable[P, R]", guarded)


def monitoring_required(view: Callable[P, R]) -> Callable[P, R]:
    """METRICS_TOKEN, as a bearer token; or an admin.

    The token is the setting's and no user's: it opens what says how the mail fares while the database is away, too.
    Who does not ask for a page by name gets no login page: Prometheus and curl take anything, and would take that.
    """
    for_admins = admin_required(view)

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        if _shows_metrics_token():
            return view(*args, **kwargs)
        if not current_user.is_authenticated and "text/html" not in request.accept_mimetypes.values():
            raise Unauthorized("Send METRICS_TOKEN as a bearer token.", www_authenticate=WWWAuthenticate("bearer"))
        return for_admins(*args, **kwargs)

    return guarded


def _shows_metrics_token() -> bool:
    """Then the request is nobody else's, and the database is not asked who that may be."""
    token = current_app.extensions["settings"].metrics_token
    if token is None or not has_bearer():
        return False
    assert request.authorization is not None
    shown = (request.authorization.token or "").encode()
    if not hmac.compare_digest(shown, token.get_secret_value().encode()):
        return False
    ask_nobody()
    return True
