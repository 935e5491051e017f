"""The Celery side: `celery -A workers worker`, `beat` or `flower`.

The Flask application is not named `app` here: Celery would take that for its own.
"""

import gc

# A thousand modules come now, and none of them is garbage: to look for some took a fifth of the start.
gc.disable()

import atexit
import os
import socket
from contextlib import suppress
from typing import Any

from celery.signals import beat_init, worker_init, worker_ready, worker_shutdown, worker_shutting_down
from kombu.transport import TRANSPORT_ALIASES

from app import create_app
from app.celery_app import BEAT_SCHEDULE, wait_for_broker
from outbox.delivery import Courier
from outbox.errors import SettingsError
from workers import heartbeat
from workers.alarm import Alarm
from workers.dead_letters import DeadLetters
from workers.pulse import Pulse
from workers.schedule import beat_schedule
from workers.tally import Tally
from workers.task_log import listen

try:
    flask_app = create_app(pages=False)
    _settings = flask_app.extensions["settings"]
    # Who holds a row: `email_queue.claimed_by` and `email_attempts.worker`.
    name = flask_app.extensions["worker"] = f"{socket.gethostname()}:{os.getpid()}"
    courier = flask_app.extensions["courier"] = Courier(
        flask_app.extensions["engine"], _settings, name, flask_app.extensions["rates"]
    )
except SettingsError as error:
    raise SystemExit(f"The settings are wrong: {error}. Correct the environment or the file .env.") from error

flask_app.extensions["alarm"] = Alarm(flask_app.extensions["nudge"])

celery = flask_app.extensions["celery"]
listen(_settings)
wait_for_broker(celery, _settings)
celery.conf.update(
    include=[
        "workers.outbox_tasks",
        "workers.health",
        "workers.scheduled_tasks",
        "workers.file_tasks",
        "workers.notification_tasks",
    ],
    beat_schedule=beat_schedule(_settings),
    beat_scheduler="workers.beat:Beat",
)
celery.Task.Request = "workers.requests:Request"
DeadLetters(flask_app.extensions["engine"]).connect()
# What `redis://` means to Celery from here on: a connection whose loss a worker survives.
TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "workers.broker:Transport"))
with suppress(OSError):  # beat needs it, and says so; a worker in a read-only container does not
    BEAT_SCHEDULE.parent.mkdir(exist_ok=True)


@worker_init.connect
def _count(**_: Any) -> None:
    """For `/metrics`. Of workers alone: beat and all of `flask`'s commands import this file, too."""
    from workers import counting  # noqa: PLC0415

    counting.start(_settings.metrics_dir)


_pulses: list[Pulse] = []
"""The one of this process, if it is a worker or beat."""


@worker_ready.connect
def _live(sender: Any, **_: Any) -> None:
    tally = Tally()
    tally.listen()
    _pulses.append(heartbeat.of_worker(flask_app, sender, tally))
    _pulses[0].start()


@beat_init.connect
def _begin(sender: Any, **_: Any) -> None:
    """Beat starts after a downtime, or Redis was flushed: what is due need not wait for the first period."""
    _pulses.append(heartbeat.of_beat(flask_app, sender.scheduler.ticked_ago))
    _pulses[0].start()
    atexit.register(_pulses[0].stop)  # Celery has no signal for the end of beat
    flask_app.extensions["nudge"]()


@worker_shutting_down.connect
def _begin_no_further_mail(**_: Any) -> None:
    """SIGTERM: the mail in hand is finished, and the rest of each chunk handed back at once.

    Celery calls this from within its signal handler; `stop` does no more than leave a note.
    """
    courier.stop()


@worker_shutdown.connect
def _close(**_: Any) -> None:
    """All tasks have ended, and nothing more is taken: what was handed back is for the other workers, or the next."""
    courier.close()
    for pulse in _pulses:
        pulse.stop()
    flask_app.extensions["alarm"].stop()
    nudge = flask_app.extensions["nudge"]
    nudge.clear()
    nudge()


gc.freeze()  # nor will it ever be looked through again, whatever tasks leave behind
gc.enable()
