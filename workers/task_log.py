"""What tasks and the log have to do with each other: the request's id goes with each task, and each task has its lines.

A task that a request asks for, and those that it asks for in turn, run on behalf of that request, also when they are
tried again. One that beat starts has its own id for that, which Flower shows: it is what its mails and its children
bear. So has every drain: whoever nudged it, it serves all that is due. Each mail is logged under its own row's id.
"""

import logging
import time
from contextvars import ContextVar
from typing import Any

from celery import Task, signals
from celery.app.trace import LOG_FAILURE, LOG_RECEIVED, LOG_RETRY, LOG_SUCCESS

from app.celery_app import REQUEST_ID
from app.logs import set_up_celery
from app.queues import DRAIN, PUBLISH_EVENTS, REAP, SEND_EMAILS, WATCH
from app.settings import AppSettings
from outbox.logs import request_id, tell

log = logging.getLogger(__name__)

_ROUTINE = {DRAIN, SEND_EMAILS, REAP, WATCH, PUBLISH_EVENTS}
"""They run every few seconds and have lines of their own, if there was anything to do."""

_TOLD = {LOG_RECEIVED, LOG_SUCCESS, LOG_FAILURE, LOG_RETRY}
"""Celery's own lines of what we tell. They have a task's result in them, and its arguments."""

_began: ContextVar[float] = ContextVar("began", default=0.0)


def listen(settings: AppSettings) -> None:
    """Connect all this to the process's Celery; for its whole life, and so not weakly."""

    def set_up(loglevel: int, logfile: str | None, **_: Any) -> None:
        set_up_celery(settings, loglevel, logfile)

    for name in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(name).addFilter(_is_not_told)
    signals.setup_logging.connect(set_up, weak=False)
    signals.worker_ready.connect(_ready)
    signals.task_prerun.connect(_begin)
    signals.task_success.connect(_succeed)
    signals.task_retry.connect(_retry)
    signals.task_failure.connect(_fail)
    signals.task_postrun.connect(_forget)


def _ready(sender: Any, **_: Any) -> None:
    queues = ", ".join(sorted(sender.app.amqp.queues.consume_from))
    tell(
        log, logging.INFO, "worker.ready", "%(worker)s: %(threads)d threads take from %(queues)s",
        worker=sender.hostname, threads=sender.pool.limit, queues=queues,
    )  # fmt: skip


def _begin(task_id: str, task: Task, **_: Any) -> None:
    _began.set(time.perf_counter())
    request_id.set((task.request.headers or {}).get(REQUEST_ID) or task_id)
    tell(
        log, _level(task), "task.started", "task %(task)s begins",
        task=task.name, task_id=task_id, tries=task.request.retries + 1,
    )  # fmt: skip


def _succeed(sender: Task, **_: Any) -> None:
    tell(
        log, _level(sender), "task.succeeded", "task %(task)s is done after %(seconds).3f s",
        task=sender.name, task_id=sender.request.id, seconds=_seconds(),
    )  # fmt: skip


def _retry(sender: Task, request: Any, reason: Any, **_: Any) -> None:
    tell(
        log, logging.WARNING, "task.retried", "task %(task)s will be tried again: %(why)s",
        task=sender.name, task_id=request.id, tries=request.retries + 1, seconds=_seconds(), why=str(reason),
    )  # fmt: skip


def _fail(sender: Task, task_id: str, exception: BaseException, **_: Any) -> None:
    tell(
        log, logging.ERROR, "task.failed", "task %(task)s failed after %(seconds).3f s: %(why)s",
        exc_info=exception, task=sender.name, task_id=task_id, seconds=_seconds(), why=repr(exception),
    )  # fmt: skip


def _forget(**_: Any) -> None:
    request_id.set(None)  # the thread works for others


def _level(task: Task) -> int:
    return logging.DEBUG if task.name in _ROUTINE else logging.INFO


def _seconds() -> float:
    return round(time.perf_counter() - _began.get(), 3)


def _is_not_told(record: logging.LogRecord) -> bool:
    return record.msg not in _TOLD
