"""What a browser, or a program that speaks HTTP, meets; and the commands of `flask` that know the accounts.

The blueprints are gathered here and not in `app`, whose names for its packages theirs would take.
"""

import secrets

from flask import Flask

from app.accounts.access import admit
from app.accounts.cli import users
from app.accounts.routes import accounts
from app.accounts.throttle import Throttle
from app.accounts.times import tell_times
from app.admin import admin
from app.answers import finish
from app.api import api
from app.database import Id
from app.exports.routes import exports
from app.files.routes import files
from app.health import health
from app.hooks import hooks
from app.metrics import metrics
from app.notifications.routes import notifications
from app.projects.routes import projects
from app.quizzes.routes import quizzes
from app.requests import identify
from app.seed import command as seed_command
from app.status import status
from app.unsubscribe import unsubscribing

LARGEST_BODY = 1_000_000
"""Bytes of a request: more than the longest form of ours. A view that takes more, or less, says so itself."""

_ROOMS = (
    status, health, metrics, unsubscribing, admin, accounts, quizzes, projects, files, exports, notifications,
    api, hooks,
)  # fmt: skip


def add_pages(app: Flask) -> None:
    """Let `app`, which `create_app` has made, answer requests.

    `app.extensions` gets `throttle` (of logins), `csrf` (Flask-WTF's: every form has its token; a view that must do
    without is exempted there), and what the rooms set up for themselves.
    """
    settings = app.extensions["settings"]
    app.config.update(
        SECRET_KEY=settings.secret_key.get_secret_value() if settings.secret_key else secrets.token_bytes(32),
        MAX_CONTENT_LENGTH=LARGEST_BODY,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=settings.app_url.startswith("https://"),
    )
    app.extensions["throttle"] = Throttle(settings.redis_url)
    app.url_map.converters["int"] = Id
    identify(app)
    admit(app)
    tell_times(app)
    finish(app)
    app.cli.add_command(users)
    app.cli.add_command(seed_command)
    for room in _ROOMS:
        app.register_blueprint(room)
