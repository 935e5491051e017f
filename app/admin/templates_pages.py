"""Every template of a mail with its sample: what it looks like, what it weighs, and a test of it to an address.

Templates are read anew for each request, so that an author sees what has just been written.
"""

from typing import Any, cast

from flask import Blueprint, Response, abort, current_app, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.admin.framing import framed
from app.database import request_session
from app.settings import AppSettings
from outbox.errors import InvalidEmail, SettingsError
from outbox.preview import Preview, facts, preview
from outbox.service import EmailService
from outbox.templates import Templates

_UNPROCESSABLE = 422

templates_pages = Blueprint("templates", __name__, url_prefix="/templates")


@templates_pages.get("/")
def index() -> tuple[str, int]:
    """All of them; or why they cannot be listed."""
    templates = _templates()
    try:
        listed = [(name, templates.locales(name)) for name in templates.names()]
    except (InvalidEmail, SettingsError) as error:
        return render_template("admin/templates.html", listed=[], problem=str(error)), _UNPROCESSABLE
    return render_template("admin/templates.html", listed=listed, problem=None), 200


@templates_pages.get("/<name>")
def show(name: str) -> tuple[str, int]:
    """One of them, in one locale; or what is wrong with it."""
    return _page(name, _locale(request.args))


@templates_pages.get("/<name>/html")
def html(name: str) -> Response:
    """The HTML alone, for the frames."""
    try:
        body = _preview(name, _locale(request.args)).html
    except (InvalidEmail, SettingsError):
        abort(_UNPROCESSABLE)
    if body is None:
        abort(404)
    return framed(body)


@templates_pages.post("/<name>/test")
def send_test(name: str) -> AnyResponse | tuple[str, int]:
    """Queue it to the address given."""
    locale = _locale(request.form)
    session = request_session()
    try:
        shown = _preview(name, locale)
        mail = EmailService(session, _settings()).queue_email(request.form.get("to", ""), **shown.test_mail)
        session.flush()
        flash(f"Mail {mail.id} to {mail.recipient} is queued. What becomes of it: outbox why {mail.id}")
        session.commit()
    except (InvalidEmail, SettingsError) as error:
        return _page(name, locale, refused=str(error))
    return redirect(url_for(".show", name=name, locale=locale), 303)


def _page(name: str, locale: str | None, refused: str | None = None) -> tuple[str, int]:
    values: dict[str, Any] = {"name": name, "locale": locale, "locales": [], "refused": refused}
    try:
        values["locales"] = _locales(name)
        shown = _preview(name, locale)
    except (InvalidEmail, SettingsError) as error:
        return render_template("admin/template.html", shown=None, problem=str(error), **values), _UNPROCESSABLE
    page = render_template("admin/template.html", shown=shown, facts=facts(shown), problem=None, **values)
    return page, _UNPROCESSABLE if refused else 200


def _preview(name: str, locale: str | None) -> Preview:
    return preview(_templates(), name, locale, _settings())


def _locales(name: str) -> list[str]:
    templates = _templates()
    if name not in templates.names():
        abort(404)
    return templates.locales(name)


def _locale(given: Any) -> str | None:
    return given.get("locale") or None


def _templates() -> Templates:
    return Templates(_settings().outbox_templates)


def _settings() -> AppSettings:
    return cast("AppSettings", current_app.extensions["settings"])
