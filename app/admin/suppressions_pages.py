"""Who must not get mail: looked up, added, removed."""

from typing import cast

from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response

from app.accounts.access import me
from app.admin.telling import plain, who
from app.database import request_session
from app.fields import Fields
from app.settings import AppSettings
from outbox import auditing, suppressions
from outbox.errors import InvalidEmail

_PAGE = 50
_LONGEST = 320
"""Characters of an address."""
_LONGEST_REASON = 500

suppressions_pages = Blueprint("suppressions", __name__, url_prefix="/suppressions")


@suppressions_pages.get("/")
def index() -> str:
    """By name, a page of them."""
    fields = Fields(request.args)
    wanted, target = fields.text("q", _LONGEST), fields.text("target", _LONGEST)
    after = (target, fields.text("category", _LONGEST)) if target else None
    found = suppressions.page(request_session().connection(), wanted, after=after, limit=_PAGE + 1)
    return render_template(
        "admin/suppressions.html",
        found=found[:_PAGE],
        last=found[_PAGE - 1] if found[_PAGE:] else None,
        wanted=wanted,
        after=after,
        subscriptions=_subscriptions(),
        longest=_LONGEST_REASON,
    )


@suppressions_pages.post("/")
def add() -> Response:
    """An address or a domain, for good or for a while. What is there gets the new reason and end."""
    fields = Fields()
    category = fields.text("category", _LONGEST)
    if category and category not in _subscriptions():
        raise BadRequest(f"category={category[:100]!r}: nobody can unsubscribe from it; suppress all mail instead.")
    target, reason = fields.line("target", _LONGEST), fields.line("reason", _LONGEST_REASON)
    until, session = fields.moment("until", me()), request_session()
    try:
        added = auditing.suppress(session.connection(), target, reason, who(), until, category=category)
    except InvalidEmail as error:
        raise BadRequest(f"{error}.") from error
    session.commit()
    flash(f"{_mail(category)} goes to {plain(added.target)} any more.")
    return redirect(url_for(".index", q=added.target), 303)


@suppressions_pages.post("/remove")
def remove() -> Response:
    """That one line."""
    fields, session = Fields(), request_session()
    target, category = fields.line("target", _LONGEST), fields.text("category", _LONGEST)
    try:
        removed = auditing.unsuppress(session.connection(), target, who(), category=category)
    except InvalidEmail as error:
        raise BadRequest(f"{error}.") from error
    session.commit()
    if removed:
        flash(f"{plain(target)} is not suppressed any more. What died of it can be requeued.")
    else:
        flash(f"{plain(target)} was not suppressed.", "trouble")
    return redirect(url_for(".index"), 303)


def _mail(category: str) -> str:
    return f"No mail of {plain(category)!r}" if category else "No mail"


def _subscriptions() -> tuple[str, ...]:
    return tuple(_settings().outbox_subscriptions)


def _settings() -> AppSettings:
    return cast("AppSettings", current_app.extensions["settings"])
