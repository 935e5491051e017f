"""The Flask application: puts engine, sessions, Celery and the nudge together, in one place."""

from flask import Flask
from sqlalchemy.orm import sessionmaker

from app.celery_app import create_celery
from app.database import close_sessions
from app.logs import set_up
from app.notifications.wakes import Wakes
from app.nudge import Nudge, connect
from app.queues import DRAIN
from app.rates import create_rates
from app.settings import AppSettings
from app.watch import Watch
from outbox.database import create_engine


def create_app(settings: AppSettings | None = None, *, pages: bool = True) -> Flask:
    """The application, from the environment unless `settings` are given. Nothing is connected to yet.

    Who gives no settings has it for the process's application, and gets the log that they say, too. A worker does
    without the pages: to import them is a quarter of its start.

    `app.extensions` holds `settings`, `engine`, `sessions` (a sessionmaker whose commits wake a drain), `celery`,
    `nudge`, `rates`, `wakes` (of open pages) and `watch`; with pages, what `app.pages` says, too.
    """
    if settings is None:
        settings = AppSettings.load()
        set_up(settings)
    app = Flask(__name__)
    celery = create_celery(app, settings)
    nudge = Nudge(connect(settings.redis_url), lambda: celery.send_task(DRAIN, ignore_result=True))
    engine = create_engine(settings.database_url)
    app.extensions.update(
        settings=settings,
        engine=engine,
        sessions=sessionmaker(engine, info={"outbox_wake": nudge}),
        nudge=nudge,
        rates=create_rates(settings),
        wakes=Wakes(settings.redis_url),
        watch=Watch(engine, settings, celery),
    )
    close_sessions(app)
    if pages:
        from app.pages import add_pages  # noqa: PLC0415 - see above

        add_pages(app)
    return app
