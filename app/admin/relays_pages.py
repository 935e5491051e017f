"""The relays: whether mail goes to them, and if not, why, since when, and on whose word."""

from datetime import datetime, timedelta
from typing import cast

import sqlalchemy as sa
from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response

from app.admin.telling import who
from app.database import request_session
from app.fields import Fields
from app.settings import AppSettings
from outbox import auditing, breaker
from outbox.breaker import Standing
from outbox.database import utcnow

_LONGEST = 500
"""Characters of a reason."""

relays_pages = Blueprint("relays", __name__, url_prefix="/relays")


@relays_pages.get("/")
def index() -> str:
    """All of the settings, in order of preference."""
    connection = request_session().connection()
    now = connection.execute(sa.select(utcnow())).scalar_one()
    standings = breaker.standings(connection, _settings().endpoints)
    listed = [(standing, _until(standing, now)) for standing in standings.values()]
    return render_template("admin/relays.html", listed=listed, longest=_LONGEST)


@relays_pages.post("/pause")
def pause() -> Response:
    """Send nothing there until it is resumed."""
    relay, reason = _known(), Fields().line("reason", _LONGEST)
    session = request_session()
    auditing.pause(session.connection(), relay, reason, who())
    session.commit()
    flash(f"No mail goes to {relay} until it is resumed. Every worker knows of it within five seconds.")
    return redirect(url_for(".index"), 303)


@relays_pages.post("/resume")
def resume() -> Response:
    """Send there again, whoever or whatever had stopped that."""
    relay = _known()
    session = request_session()
    resumed = auditing.resume(session.connection(), relay, who())
    session.commit()
    current_app.extensions["nudge"]()
    flash(f"Mail goes to {relay} again." if resumed else f"Nothing had stopped mail to {relay}.")
    return redirect(url_for(".index"), 303)


def _until(standing: Standing, now: datetime) -> datetime | None:
    return now + timedelta(seconds=standing.seconds_left) if standing.resting and standing.seconds_left else None


def _known() -> str:
    names = [endpoint.name for endpoint in _settings().endpoints]
    relay = request.form.get("relay", "")
    if relay not in names:
        raise BadRequest(f"relay={relay[:100]!r}: choose from {', '.join(names)}.")
    return relay


def _settings() -> AppSettings:
    return cast("AppSettings", current_app.extensions["settings"])
