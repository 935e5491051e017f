"""Celery's configuration, for the application that publishes and for the workers that consume."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.signals import before_task_publish
from flask import Flask
from kombu.entity import Queue

from app import redaction
from app.queues import DEFAULT_QUEUE, DRAIN, QUEUES
from app.retries import PASSING, try_later
from app.settings import AppSettings
from outbox.logs import request_id

BEAT_SCHEDULE = Path("var/celerybeat-schedule")

_PUBLISH_SECONDS = 0.2
"""What a web request may wait for a broker that does not answer: connecting, and then each reply."""

_ONCE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
"""And at once: a pooled connection that the broker closed meanwhile is replaced. Anything more would be waiting."""


REQUEST_ID = "request_id"
"""The header of a task's message with the id of the request that it is run for."""


class _Celery(Celery):  # type: ignore[misc]  # Celery ships no types
    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Publish a task. Everything that publishes one comes here; what monitors are told of its arguments is ours."""
        shown = {"argsrepr": redaction.arguments(args or ()), "kwargsrepr": redaction.keywords(kwargs or {})}
        return super().send_task(name, args, kwargs, **shown | options)


def create_celery(app: Flask, settings: AppSettings) -> Celery:
    """The Celery application that belongs to a Flask application, and the current one of the process.

    It fails fast: whoever publishes from a web request is told within `_PUBLISH_SECONDS` that the broker is away.
    A worker must be patient instead; `wait_for_broker` makes it so.
    """

    class FlaskTask(Task):  # type: ignore[misc]  # Celery ships no types
        """A task runs in the application's context: `current_app` and its extensions are at hand.

        What it raises may be over in a while: then it is tried again, as `app.retries` has it.
        """

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with app.app_context():
                try:
                    return self.run(*args, **kwargs)
                except PASSING as error:
                    try_later(self, error)
                    raise

    celery = _Celery(app.name, task_cls=FlaskTask)
    celery.conf.update(_settings(settings))
    celery.conf.update(
        broker_connection_timeout=_PUBLISH_SECONDS,
        broker_transport_options=_transport(settings, connect_seconds=_PUBLISH_SECONDS, reply_seconds=_PUBLISH_SECONDS),
        # When a task is published whose result is kept, the result backend is asked to watch for it: the same patience.
        redis_socket_connect_timeout=_PUBLISH_SECONDS,
        redis_socket_timeout=_PUBLISH_SECONDS,
        result_backend_transport_options={"retry_policy": {"max_retries": 0}},
    )
    celery.set_default()
    app.extensions["celery"] = celery
    return celery


def wait_for_broker(celery: Celery, settings: AppSettings) -> None:
    """A worker's or beat's patience: a broker that is away for a while is waited for, for as long as it takes."""
    celery.conf.update(
        broker_connection_timeout=5,
        # Without a reply timeout a half-open connection hung a worker for good; with 10 s it is back in 25-35 s.
        broker_transport_options=_transport(settings, connect_seconds=5, reply_seconds=10),
        redis_socket_connect_timeout=5,
        redis_socket_timeout=10,
        result_backend_transport_options={},
    )


@before_task_publish.connect  # type: ignore[untyped-decorator]  # Celery ships no types
def _send_request_id(sender: str, headers: dict[str, Any], **_: Any) -> None:
    """Along with each task, but not with a drain: whoever's commit asked for it, it serves everybody."""
    id_ = request_id.get()
    if id_ is not None and sender != DRAIN:
        headers.setdefault(REQUEST_ID, id_)


def _settings(settings: AppSettings) -> dict[str, Any]:
    return {
        "broker_url": settings.celery_broker_url,
        "result_backend": settings.celery_result_backend,
        "timezone": settings.celery_timezone,
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "result_expires": timedelta(days=1),
        "task_default_queue": DEFAULT_QUEUE,
        "task_queues": [Queue(name, routing_key=name) for name in QUEUES],
        # A task is acknowledged when it is done, so that a dead worker's tasks come back. Twice is harmless: the rows
        # it names are moved under a token, and the second run finds none.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        # They wait for a relay: 32 threads sent 5 times the mail of 8 processes, in an eighth of the memory.
        "worker_pool": "threads",
        "worker_concurrency": settings.celery_worker_concurrency,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        # The tasks in hand when the broker goes away are finished, not cancelled: their rows are ours.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # for ever; the default of 100 would end a worker after an hour
        "broker_pool_acquire_timeout": 10,
        "task_publish_retry": True,
        "task_publish_retry_policy": _ONCE_MORE,
        "beat_schedule_filename": str(BEAT_SCHEDULE),
        "beat_max_loop_interval": 30,
        # It answers `inspect ping` as long as it ticks. Unknown before Celery 5.7, which then ignores it.
        "beat_enable_remote_control": True,
    }


def _transport(settings: AppSettings, *, connect_seconds: float, reply_seconds: float) -> dict[str, Any]:
    return {
        # When an unacknowledged task is given to somebody else. Should its worker still be at it, that does no harm:
        # the rows are moved under a token, and the second run finds none that it may begin.
        "visibility_timeout": max(900, int(settings.outbox_lease_seconds)),
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,  # look every interval; the default of every tenth took 93 s
        "socket_connect_timeout": connect_seconds,
        "socket_timeout": reply_seconds,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "max_connections": 50,
        # How kombu opens a connection to publish with; its default sleeps for 2 s before it says that it cannot.
        **_ONCE_MORE,
    }
