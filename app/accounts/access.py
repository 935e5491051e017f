"""Who asks, and what they may do."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from flask import Flask, abort
from flask_login import LoginManager, current_user, login_required

from app.accounts.models import User
from app.database import request_session

P = ParamSpec("P")
R = TypeVar("R")

logins = LoginManager()


def admit(app: Flask) -> None:
    """Let the application know its users."""
    # Flask-Login's own context processor looks the user up for every page, even those that show none.
    logins.init_app(app, add_context_processor=False)
    app.jinja_env.globals["current_user"] = current_user


@logins.user_loader  # type: ignore[untyped-decorator]  # Flask-Login ships no types
def _load(id_: str) -> User | None:
    return request_session().get(User, int(id_))


def me() -> User:
    """The user who asks, in the request's session. For views that require a login."""
    return cast("User", current_user._get_current_object())  # noqa: SLF001 - documented by Werkzeug's proxies


def admin_required(view: Callable[P, R]) -> Callable[P, R]:
    """A login, and of an admin; 403 for others."""

    @login_required  # type: ignore[untyped-decorator]
    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        if not me().is_admin:
            abort(403)
        return view(*args, **kwargs)

    return cast("Callable[P, R]", guarded)
