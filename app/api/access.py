"""Who may use the API: whoever shows an admin's token that allows it. Cookies are not looked at.

Looked up for each request, and in a transaction of its own that only reads: what follows may be 25 MB of attachments,
and on SQLite nobody else could write meanwhile.
"""

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

import sqlalchemy as sa
from flask import current_app, g, request
from sqlalchemy.orm import Session
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, ServiceUnavailable, Unauthorized

from app.accounts import tokens
from app.accounts.access import ask_nobody, has_bearer
from app.accounts.models import ApiToken
from app.accounts.tokens import Scope
from app.api import bounds
from outbox.database import reading_engine
from outbox.logs import tell

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


def needs(scope: Scope) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a view be asked only with a token that has the scope, and not more often than that may."""

    def guard(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            ask_nobody()  # not even an error page is anybody's
            token = _find()
            bounds.check_rate(token)
            if not tokens.allows(token, scope):
                raise Forbidden(_refusal(token, scope))
            g.api_token = token
            return view(*args, **kwargs)

        return guarded

    return guard


def asker() -> ApiToken:
    """The token of the request, with its user; detached."""
    return cast("ApiToken", g.api_token)


def _find() -> ApiToken:
    shown = request.authorization.token if has_bearer() and request.authorization else None
    if shown is None:
        raise _unauthorized(
            "Send an API token: Authorization: Bearer obx_... The cookie of a browser does not do here."
        )
    try:
        with Session(reading_engine(current_app.extensions["engine"]), expire_on_commit=False) as reader:
            token = tokens.find(reader, shown)
    except sa.exc.SQLAlchemyError as error:
        tell(log, logging.ERROR, "tokens.away", "tokens cannot be looked up", exc_info=error)
        raise ServiceUnavailable(
            "The database does not answer. Please try again in a minute.", retry_after=60
        ) from error
    if token is None:
        raise _unauthorized("This API token is unknown or revoked.")
    return token


def _unauthorized(said: str) -> Unauthorized:
    return Unauthorized(said, www_authenticate=WWWAuthenticate("bearer"))


def _refusal(token: ApiToken, scope: Scope) -> str:
    if not token.user.is_admin:
        return "Mail is for admins' tokens: ask an admin for one."
    return f"This token has not the scope {scope}: make another one, on your account's page."
