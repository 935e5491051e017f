"""The Flask application: puts engine, sessions, Celery and the nudge together, in one place."""

import secrets

from flask import Flask
from sqlalchemy.orm import sessionmaker

from app.accounts.access import admit
from app.accounts.cli import users
from app.accounts.throttle import Throttle
from app.accounts.times import tell_times
from app.answers import finish
from app.celery_app import create_celery
from app.database import Id, close_sessions
from app.logs import set_up
from app.nudge import Nudge, connect
from app.queues import DRAIN
from app.rates import create_rates
from app.requests import identify
from app.rooms import ROOMS
from app.seed import command as seed_command
from app.settings import AppSettings
from app.watch import Watch
from outbox.database import create_engine

LARGEST_BODY = 1_000_000
"""Bytes of a request: more than the longest form of ours. A view that takes more, or less, says so itself."""


def create_app(settings: AppSettings | None = None) -> Flask:
    """The application, from the environment unless `settings` are given. Nothing is connected to yet.

    Who gives no settings has it for the process's application, and gets the log that they say, too.

    `app.extensions` holds `settings`, `engine`, `sessions` (a sessionmaker whose commits wake a drain), `celery`,
    `nudge`, `rates`, `throttle` (of logins), `watch` and `csrf` (Flask-WTF's: every form has its token; a view that
    must do without is exempted there).
    """
    if settings is None:
        settings = AppSettings.load()
        set_up(settings)
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=settings.secret_key.get_secret_value() if settings.secret_key else secrets.token_bytes(32),
        MAX_CONTENT_LENGTH=LARGEST_BODY,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=settings.app_url.startswith("https://"),
    )
    celery = create_celery(app, settings)
    nudge = Nudge(connect(settings.redis_url), lambda: celery.send_task(DRAIN, ignore_result=True))
    engine = create_engine(settings.database_url)
    app.extensions.update(
        settings=settings,
        engine=engine,
        sessions=sessionmaker(engine, info={"outbox_wake": nudge}),
        nudge=nudge,
        rates=create_rates(settings),
        throttle=Throttle(settings.redis_url),
        watch=Watch(engine, settings, celery),
    )
    app.url_map.converters["int"] = Id
    identify(app)
    admit(app)
    close_sessions(app)
    tell_times(app)
    finish(app)
    app.cli.add_command(users)
    app.cli.add_command(seed_command)
    for room in ROOMS:
        app.register_blueprint(room)
    return app
