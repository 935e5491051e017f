"""The Celery side: `celery -A workers worker`, `beat` or `flower`.

The Flask application is not named `app` here: Celery would take that for its own.
"""

import os
import socket
from typing import Any

from celery.signals import beat_init, worker_shutdown, worker_shutting_down

from app import create_app
from app.celery_app import wait_for_broker
from outbox.delivery import Courier
from outbox.errors import SettingsError
from workers.schedule import beat_schedule

try:
    flask_app = create_app()
except SettingsError as error:
    raise SystemExit(f"The settings are wrong: {error}. Correct the environment or the file .env.") from error

_settings = flask_app.extensions["settings"]

# Who holds a row: `email_queue.claimed_by` and `email_attempts.worker`.
name = flask_app.extensions["worker"] = f"{socket.gethostname()}:{os.getpid()}"
courier = flask_app.extensions["courier"] = Courier(flask_app.extensions["engine"], _settings, name)

celery = flask_app.extensions["celery"]
wait_for_broker(celery, _settings)
celery.conf.update(
    include=["workers.outbox_tasks"],
    broker_transport="workers.broker:Transport" if _settings.celery_broker_url.startswith("redis") else None,
    beat_schedule=beat_schedule(_settings),
)


@beat_init.connect
def _drain_at_once(**_: Any) -> None:
    """Beat starts after a downtime, or Redis was flushed: what is due need not wait for the first period."""
    flask_app.extensions["nudge"]()


@worker_shutting_down.connect
def _begin_no_further_mail(**_: Any) -> None:
    """SIGTERM: the mail in hand is finished, and the rest of each chunk is anybody's at once.

    Celery calls this from within its signal handler; `stop` does no more than leave a note.
    """
    courier.stop()


@worker_shutdown.connect
def _close(**_: Any) -> None:
    """All tasks have ended."""
    courier.close()
