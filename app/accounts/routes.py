"""Log in and out, and what a user sets for themself."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast
from zoneinfo import available_timezones

import sqlalchemy as sa
from flask import Blueprint, abort, current_app, flash, redirect, render_template, request, session, url_for
from flask_login import current_user, login_required, login_user, logout_user
from sqlalchemy.orm import Session
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response

from app.accounts import passwords, tokens
from app.accounts.access import has_bearer, me
from app.accounts.models import User
from app.accounts.throttle import Throttle
from app.database import request_session
from app.settings import AppSettings
from outbox import subscriptions
from outbox.database import reading_engine

_REFUSED = 422
_TOO_MANY = 429

_WRONG = "There is no account with this name and password."
_ANOTHER = "the current password is another one"
_OFTEN = "too many attempts; please wait a quarter of an hour"

_SCOPES = {
    tokens.Scope.SEND: "queue mail",
    tokens.Scope.READ: "read what became of mail",
    tokens.Scope.CANCEL: "cancel mail",
}
"""As the page calls them."""

accounts = Blueprint("accounts", __name__)

Page = tuple[str, int]


@accounts.before_request
def _people_only() -> None:
    """Whoever finds a token must not be able to take the account over: to change its password, to make more tokens."""
    if has_bearer():
        abort(403, "An API token does not open the pages of the account: log in with a browser.")


@accounts.get("/login")
def login() -> Response | Page:
    """The form."""
    if current_user.is_authenticated:
        return redirect(_ours(request.args.get("next")))
    return _login_page()


@accounts.post("/login")
def log_in() -> Response | Page:
    """Begin a session, by username or e-mail address."""
    name, password = request.form.get("name", "").strip().lower(), request.form.get("password", "")
    user = _find(name)
    # By what was typed: counted together, the names of one person would say that there is such a person.
    if not _throttle().takes(name, request.remote_addr):
        return _login_page(f"{_OFTEN.capitalize()}.", _TOO_MANY)
    if not passwords.verify(user, password):
        return _login_page(_WRONG, _REFUSED)
    assert user is not None
    _throttle().forget(name, request.remote_addr)
    renewed = passwords.hash_password(password) if passwords.is_outdated(user) else user.password_hash
    return _begin(user, renewed)


def _find(name: str) -> User | None:
    """Detached, read in a transaction of its own: none is open while the password is hashed."""
    if "\0" in name:  # no text to PostgreSQL
        return None
    column = User.email if "@" in name else User.username
    with Session(reading_engine(current_app.extensions["engine"]), expire_on_commit=False) as reader:
        return reader.scalar(sa.select(User).where(column == name))


def _begin(user: User, password_hash: str) -> Response | Page:
    """Write the login down; unless the password was changed while we looked at it."""
    written = _write(user, password_hash=password_hash, last_login_at=datetime.now(UTC))
    if written is None:
        return _login_page(_WRONG, _REFUSED)
    _enter(written)
    request_session().commit()
    return redirect(_ours(request.form.get("next")), 303)


def _write(user: User, **values: Any) -> User | None:
    """None if their password is another one by now."""
    unchanged = sa.update(User).where(User.id == user.id, User.password_hash == user.password_hash)
    return request_session().scalar(unchanged.values(values).returning(User))


def _enter(user: User) -> None:
    """Begin a session that has nothing of the one before: whoever planted that must not share this one."""
    session.clear()
    login_user(user)


@accounts.post("/logout")
def logout() -> Response:
    """End the session, and the streams of pages that are still open."""
    with suppress(ServiceUnavailable):  # the streams end by themselves then
        logout_user()
    session.clear()
    flash("You are logged out.")
    return redirect(url_for(".login"), 303)


@accounts.get("/preferences")
def preferences() -> Response:
    """What mails link to."""
    return redirect(url_for(".account", _anchor="mail"))


@accounts.get("/account")
@login_required  # type: ignore[untyped-decorator]
def account() -> Page:
    """All that can be set."""
    return _account_page()


@accounts.post("/account")
@login_required  # type: ignore[untyped-decorator]
def save() -> Response | Page:
    """Name and time zone."""
    try:
        me().name = request.form.get("name", "")
        me().time_zone = request.form.get("time_zone", "").strip()
    except ValueError as error:
        return _refused(str(error))
    request_session().commit()
    return _saved("Saved.", "about")


@accounts.post("/account/mail")
@login_required  # type: ignore[untyped-decorator]
def choose() -> Response:
    """Want what is ticked, and nothing else."""
    email, settings = me().email, _settings()
    if email is not None:
        wanted = set(request.form.getlist("wanted")).intersection(settings.outbox_subscriptions)
        subscriptions.prefer(request_session().connection(), settings, email, wanted, "account page")
        request_session().commit()
    return _saved("Saved.", "mail")


@accounts.post("/account/password")
@login_required  # type: ignore[untyped-decorator]
def change_password() -> Response | Page:
    """And end every other session of theirs."""
    name, new = me().username, request.form.get("new", "")
    try:
        passwords.check_new(new)
    except ValueError as error:
        return _refused(str(error))
    if new != request.form.get("again"):
        return _refused("the new password was not the same twice")
    if not _throttle().takes(name, request.remote_addr):
        return _refused(_OFTEN, _TOO_MANY)
    user = _find(name)
    request_session().rollback()  # on SQLite nobody else could write while passwords are hashed
    if user is None or not passwords.verify(user, request.form.get("current", "")):
        return _refused(_ANOTHER)
    _throttle().forget(name, request.remote_addr)
    written = _write(user, password_hash=passwords.hash_password(new))
    if written is None:
        return _refused(_ANOTHER)
    _enter(written)
    request_session().commit()
    return _saved("Your password is changed, and all other sessions are over. API tokens go on.", "password")


@accounts.post("/account/tokens")
@login_required  # type: ignore[untyped-decorator]
def make_token() -> Response | Page:
    """Shown in this answer and never again: no redirect, which would have to keep it somewhere."""
    name, scopes = request.form.get("name", ""), request.form.getlist("scope")
    try:
        token = tokens.issue(request_session(), me(), name, scopes)
    except ValueError as error:
        return _refused(str(error))
    request_session().commit()
    return render_template("accounts/token.html", name=name, token=token, scopes=scopes), 200


@accounts.post("/account/tokens/<int:id_>/revoke")
@login_required  # type: ignore[untyped-decorator]
def revoke_token(id_: int) -> Response:
    """End it."""
    if not tokens.revoke(request_session(), me(), id_):
        abort(404)
    request_session().commit()
    return _saved("The token is revoked.", "tokens")


def _login_page(problem: str | None = None, status: int = 200) -> Page:
    back = _ours(request.values.get("next"))
    name = request.form.get("name", "")
    return render_template("accounts/login.html", problem=problem, next=back, name=name), status


def _refused(problem: str, status: int = _REFUSED) -> Page:
    """Nothing of what was asked is written."""
    request_session().rollback()
    return _account_page(problem, status)


def _account_page(problem: str | None = None, status: int = 200) -> Page:
    user, database, settings = me(), request_session(), _settings()
    held = subscriptions.hindered(database.connection(), settings, user.email) if user.email else set()
    wanted = user.email_preferences
    page = render_template(
        "accounts/account.html",
        user=user,
        problem=problem,
        zones=sorted(available_timezones()),
        tokens=tokens.of(database, user),
        scopes=_SCOPES if user.is_admin else {},
        choices=[(name, wants, name in held) for name, wants in wanted.items()],
        nothing_goes=bool(wanted) and held >= wanted.keys(),
        shortest=passwords.SHORTEST,
    )
    return page, status


def _saved(what: str, part: str) -> Response:
    flash(what)
    return redirect(url_for(".account", _anchor=part), 303)


def _ours(target: str | None) -> str:
    """A path of this application, to go on to; the landing page instead of anything else.

    Browsers read `//x` and `/\\x` as another host, and drop control characters before they look.
    """
    if target and target.startswith("/") and target.isprintable() and target[1:2] != "/" and "\\" not in target:
        return target
    return url_for("status.index")


def _settings() -> AppSettings:
    return cast("AppSettings", current_app.extensions["settings"])


def _throttle() -> Throttle:
    return cast("Throttle", current_app.extensions["throttle"])
