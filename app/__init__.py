"""The Flask application: puts engine, sessions, Celery and the nudge together, in one place."""

import secrets

from flask import Flask
from flask_wtf import CSRFProtect
from sqlalchemy.orm import sessionmaker

from app.admin import admin
from app.celery_app import create_celery
from app.nudge import Nudge, connect
from app.queues import DRAIN
from app.rates import create_rates
from app.settings import AppSettings
from app.status import status
from app.unsubscribe import unsubscribing
from outbox.database import create_engine


def create_app(settings: AppSettings | None = None) -> Flask:
    """The application, from the environment unless `settings` are given. Nothing is connected to yet.

    `app.extensions` holds `settings`, `engine`, `sessions` (a sessionmaker whose commits wake a drain), `celery`,
    `nudge`, `rates` and `csrf` (Flask-WTF's: every form has its token; a view that must do without is exempted there).
    """
    settings = settings or AppSettings.load()
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=settings.secret_key.get_secret_value() if settings.secret_key else secrets.token_bytes(32),
        SESSION_COOKIE_SAMESITE="Lax",
    )
    csrf = CSRFProtect(app)
    csrf.exempt(unsubscribing)  # its signed links are the authority, and mail programs POST to them
    celery = create_celery(app, settings)
    nudge = Nudge(connect(settings.redis_url), lambda: celery.send_task(DRAIN, ignore_result=True))
    engine = create_engine(settings.database_url)
    app.extensions.update(
        settings=settings,
        engine=engine,
        sessions=sessionmaker(engine, info={"outbox_wake": nudge}),
        nudge=nudge,
        rates=create_rates(settings),
    )
    app.register_blueprint(status)
    app.register_blueprint(unsubscribing)
    app.register_blueprint(admin)
    return app
