"""The pages behind the links of subscription mail: unsubscribe, think again, choose.

The token in the path is the whole authority: its signature proves that we wrote the link into a mail to that address,
and whoever has the mail has the address's own rights here, without a login. So no cookie is read or set, and a CSRF
token would protect nothing: there is no session to ride on, and the mail programs that POST for their user
(RFC 8058) could not have one. The blueprint therefore exempts itself from the application's CSRF protection.

GET shows and changes nothing, because the scanners that look for malware follow every link of a mail.
"""

import logging

import sqlalchemy as sa
from flask import Blueprint, Response, current_app, render_template, request
from flask.blueprints import BlueprintSetupState

from app.accounts.access import ask_nobody
from outbox import subscriptions
from outbox.database import reading
from outbox.errors import InvalidLink
from outbox.logs import tell
from outbox.settings import Settings
from outbox.subscriptions import Subscription

log = logging.getLogger(__name__)

LONGEST_BODY = 16_384
"""Bytes of a POST: a few words, whoever sends it."""

Page = tuple[str, int]

unsubscribing = Blueprint("unsubscribing", __name__)


@unsubscribing.record
def _exempt(state: BlueprintSetupState) -> None:
    csrf = state.app.extensions.get("csrf")  # Flask-WTF's, where an application has it
    if csrf is not None:
        csrf.exempt(unsubscribing)


@unsubscribing.get("/unsubscribe/<token>")
def ask(token: str) -> Page:
    """How it stands, with a button that changes it."""
    subscription = subscriptions.read(_settings(), token)
    with reading(_engine()) as connection:
        return _subscription_page(connection, subscription, token)


@unsubscribing.post("/unsubscribe/<token>")
def record(token: str) -> Page:
    """Unsubscribe; or with the field `undo`, subscribe again.

    A mail program sends `List-Unsubscribe=One-Click` and must be answered at once, without a redirect. Any other POST
    to this address means the same: whoever sends one wants out.
    """
    subscription = subscriptions.read(_settings(), token)
    with _engine().begin() as connection:
        if "undo" in request.form:
            subscriptions.resubscribe(connection, subscription)
        else:
            one_click = request.form.get("List-Unsubscribe") == "One-Click"
            subscriptions.unsubscribe(connection, subscription, "one-click" if one_click else "unsubscribe page")
        return _subscription_page(connection, subscription, token, undone="undo" in request.form)


@unsubscribing.get("/preferences/<token>")
def choices(token: str) -> Page:
    """Every subscription, and whether the address wants it."""
    address = subscriptions.read(_settings(), token).address
    with reading(_engine()) as connection:
        return _preference_page(connection, address)


@unsubscribing.post("/preferences/<token>")
def choose(token: str) -> Page:
    """Want what is ticked, and nothing else. What has no box on the page stays as it is."""
    address = subscriptions.read(_settings(), token).address
    wanted = set(request.form.getlist("wanted")).intersection(_settings().outbox_subscriptions)
    with _engine().begin() as connection:
        subscriptions.prefer(connection, _settings(), address, wanted, "preference page")
        return _preference_page(connection, address, saved=True)


@unsubscribing.before_request
def _without_a_login() -> None:
    request.max_content_length = LONGEST_BODY
    ask_nobody()


@unsubscribing.after_request
def _keep_it_private(response: Response) -> Response:
    """The address of the page is a key: no other site, cache or search engine may learn it."""
    response.headers.update(
        {
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "X-Robots-Tag": "noindex",
            "Content-Security-Policy": (
                "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
                "frame-ancestors 'none'"
            ),
        }
    )
    return response


@unsubscribing.errorhandler(InvalidLink)
def _invalid(error: InvalidLink) -> Page:
    # Not the path, which may be a good link but for a key.
    tell(log, logging.INFO, "link.refused", "%(endpoint)s: %(why)s", endpoint=request.endpoint, why=str(error))
    return render_template("unsubscribe/invalid.html"), 404


@unsubscribing.errorhandler(sa.exc.SQLAlchemyError)
def _away(error: sa.exc.SQLAlchemyError) -> tuple[str, int, dict[str, str]]:
    """A mail program that gets 503 may try again; with a 200 it would tell its user that all is done."""
    sentence = "email_suppressions cannot be read or written"
    tell(log, logging.ERROR, "suppressions.away", sentence, exc_info=error)
    return render_template("unsubscribe/away.html"), 503, {"Retry-After": "60"}


def _subscription_page(
    connection: sa.Connection, subscription: Subscription, token: str, *, undone: bool = False
) -> Page:
    page = render_template(
        "unsubscribe/subscription.html",
        address=subscription.address,
        category=title(subscription.category),
        wanted=subscriptions.wants(connection, subscription),
        undone=undone,
        choosable=bool(_settings().outbox_subscriptions),
        token=token,
    )
    return page, 200


def _preference_page(connection: sa.Connection, address: str, *, saved: bool = False) -> Page:
    wanted = subscriptions.preferences(connection, _settings(), address)
    hindered = subscriptions.hindered(connection, _settings(), address)
    page = render_template(
        "unsubscribe/preferences.html",
        address=address,
        choices=[(name, title(name), wants, name in hindered) for name, wants in wanted.items()],
        nothing_goes=bool(wanted) and hindered >= wanted.keys(),
        saved=saved,
    )
    return page, 200


def title(category: str) -> str:
    """`product-news` -> `product news`: a category is named for people already, and needs no second name."""
    return category.replace("_", " ").replace("-", " ")


def _settings() -> Settings:
    settings: Settings = current_app.extensions["settings"]
    return settings


def _engine() -> sa.Engine:
    engine: sa.Engine = current_app.extensions["engine"]
    return engine
