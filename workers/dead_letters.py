"""Whatever fails for good is kept in `dead_tasks`: one hook for all the ways in which Celery says so.

`task_failure`        it raised what is not tried again, or its last try failed; it ran out of time; its process died
`task_internal_error` it ran, and Celery failed around it: as when its result could not be stored
`task_unknown`        no worker has a task of that name: it was renamed, or its worker runs an older version
`task_rejected`       the message is none of Celery's

Not kept are the tasks that move mail. `send_emails` is a hint: the rows that it names are released or reaped, drained
again, and say themselves what became of them; sent once more, it would find its claim gone. Drain, reap and watch are
sent every minute and publish_events every 15 seconds, whatever became of the one before: an outage of an hour would be
hundreds of lines of what has long been made up for. The daily purge does have a line.

What no hook sees: a message that is not even JSON (Celery logs it whole, CRITICAL, and drops it); a worker process of
threads that dies altogether, whose tasks Redis gives to another; a task that waited until it expired, whose successor
is on its way.
"""

import json
import logging
import traceback
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from celery import Task, signals

from app import dead_tasks
from app.celery_app import REQUEST_ID
from app.dead_tasks import Failure
from app.queues import DEFAULT_QUEUE, DRAIN, PUBLISH_EVENTS, REAP, SEND_EMAILS, WATCH
from outbox.logs import tell

log = logging.getLogger(__name__)

OF_MAIL = frozenset({SEND_EMAILS, DRAIN, REAP, WATCH, PUBLISH_EVENTS})

LARGEST_ARGUMENTS = 100_000
"""Characters, as JSON. Ours are a few numbers; what is longer is not kept, rather than in part: half of them cannot be
sent once more."""

LONGEST_WORDS = 2_000
LONGEST_TRACEBACK = 20_000
"""Characters. What is longer loses its middle: where it began and where it broke is told at the ends."""


class DeadLetters:
    """Keeps what failed. Nothing here raises: it is called by Celery, between a failure and its acknowledgement."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def connect(self) -> None:
        """From now on, for all of this process."""
        for signal, hook in (
            (signals.task_failure, self.failed),
            (signals.task_internal_error, self.failed),
            (signals.task_unknown, self.unknown),
            (signals.task_rejected, self.rejected),
            (signals.task_success, self.succeeded),
        ):
            signal.connect(hook, weak=False)

    def failed(
        self, *, sender: Task, task_id: str, exception: Exception, args: Any, kwargs: Any, einfo: Any, **_: Any
    ) -> None:
        """A task ran, and failed for good."""
        if sender.name in OF_MAIL or sender.request.is_eager:  # whoever runs it by hand sees it fail
            return
        # Celery has put it away when it ran out of time, or it failed outside of it.
        request = sender.request if sender.request.id == task_id else None
        self._keep(
            task_id=task_id,
            name=sender.name,
            queue=_queue(request and request.delivery_info),
            args=list(args or ()),
            kwargs=dict(kwargs or {}),
            exception=_words(exception),
            trace=str(einfo.traceback) if einfo else "".join(traceback.format_exception(exception)),
            tries=request.retries + 1 if request else 1,
            request_id=request and request.get(REQUEST_ID),
        )

    def unknown(self, *, message: Any, name: str, id: str, **_: Any) -> None:  # noqa: A002 - Celery's name
        """No worker has such a task. Sent once more when one has, it runs."""
        args, kwargs = _arguments(message)
        self._keep(
            task_id=id,
            name=name,
            queue=_queue(message.delivery_info),
            args=args,
            kwargs=kwargs,
            exception=f"NotRegistered: this worker has no task {name!r}",
            trace="",
            tries=1,
            request_id=message.headers.get(REQUEST_ID),
        )

    def rejected(self, *, message: Any, exc: Exception | None, **_: Any) -> None:
        """A message that no task can be made of."""
        headers = message.headers or {}
        self._keep(
            task_id=str(headers.get("id") or message.delivery_tag),
            name=str(headers.get("task") or "(no task)"),
            queue=_queue(message.delivery_info),
            args=None,
            kwargs=None,
            exception=_words(exc) if exc else "the message is none of Celery's",
            trace=f"It says: {message.body!r}",
            tries=1,
            request_id=None,
        )

    def succeeded(self, *, sender: Task, **_: Any) -> None:
        """Whatever was known against this task is over."""
        request = sender.request
        if sender.name in OF_MAIL or request.is_eager:
            return
        try:
            if dead_tasks.forget(self._engine, request.id):
                sentence = "task %(task)s has succeeded, and is no dead task any more"
                tell(log, logging.INFO, "task.mended", sentence, task=sender.name, task_id=request.id)
        except sa.exc.SQLAlchemyError as error:
            sentence = "task %(task)s has succeeded, and may still be listed as dead: %(why)s"
            tell(
                log, logging.WARNING, "task.still_listed", sentence,
                task=sender.name, task_id=request.id, why=_words(error),
            )  # fmt: skip

    def _keep(
        self, *, args: list[Any] | None, kwargs: dict[str, Any] | None, exception: str, trace: str, **known: Any
    ) -> None:
        said = json.dumps([args, kwargs], default=repr)
        if len(said) > LARGEST_ARGUMENTS:
            args = kwargs = None
            trace += f"\nIts arguments are {len(said):,} characters and were not kept. They begin: {said[:500]}"
        failure = Failure(
            args=args,
            kwargs=kwargs,
            exception=_text(exception, LONGEST_WORDS),
            traceback=_text(trace, LONGEST_TRACEBACK),
            **known,
        )
        try:
            with self._engine.begin() as connection:
                id_ = dead_tasks.keep(connection, failure)
        except Exception as error:  # noqa: BLE001 - whatever it is, the task would be lost with it
            sentence = "task %(task)s failed for good and cannot be kept (%(why)s): %(all)s"
            tell(
                log, logging.ERROR, "task.not_kept", sentence,
                task=failure.name, task_id=failure.task_id, why=_words(error),
                all=json.dumps(failure._asdict(), default=repr),
            )  # fmt: skip
        else:
            sentence = "task %(task)s failed for good at try %(tries)d, and is dead task %(dead_task)d: %(why)s"
            tell(
                log, logging.WARNING, "task.kept", sentence,
                task=failure.name, task_id=failure.task_id, dead_task=id_, tries=failure.tries, why=failure.exception,
            )  # fmt: skip


def _arguments(message: Any) -> tuple[list[Any] | None, dict[str, Any] | None]:
    match message.payload:
        case [list(args), dict(kwargs), *_]:
            return args, kwargs
    return None, None


def _queue(delivery: Mapping[str, Any] | None) -> str:
    return str((delivery or {}).get("routing_key") or DEFAULT_QUEUE)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _text(text: str, most: int) -> str:
    """As PostgreSQL takes it, without NUL and halves of characters, and not longer."""
    text = text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    if len(text) <= most:
        return text
    note = f"\n[... {len(text) - most:,} characters ...]\n"
    half = (most - len(note)) // 2
    return f"{text[:half]}{note}{text[-half:]}"
