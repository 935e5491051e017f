"""The tasks of the outbox. They are thin: what they do is in `outbox.drain` and `outbox.delivery`."""

import logging
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from celery import shared_task
from flask import current_app

import outbox.drain
import outbox.publishing
import outbox.purging
import outbox.reaper
from app import dead_tasks
from app.queues import DRAIN, PUBLISH_EVENTS, PURGE, REAP, SEND_EMAILS, WATCH, queue_of
from outbox.logs import tell
from outbox.states import Priority

log = logging.getLogger(__name__)

_WATCHED_SECONDS = 20.0
"""Of two watches in so many seconds, as of two beats, one tells what is new."""


@shared_task(name=DRAIN, ignore_result=True)
def drain() -> str:
    """Claim what is due and hand it out in chunks. Says how many, to whoever watches: no result is kept."""
    parts = current_app.extensions
    parts["nudge"].clear()
    if parts["courier"].stopping:
        # What we claimed would wait for others: they shall drain. Celery takes nothing more from the broker once it
        # has seen the signal, at its next turn, so this does not come back to us over and over.
        parts["nudge"]()
        return "left to another worker: this one stops"
    chunks, lanes = 0, Counter[str]()

    def publish(priority: Priority, ids: list[int], token: str) -> None:
        nonlocal chunks
        send_emails.apply_async((ids, token), queue=queue_of(priority))
        chunks += 1
        lanes[priority.label] += len(ids)

    rows = outbox.drain.drain(parts["engine"], parts["settings"], parts["worker"], publish)
    if not rows:
        _look_again()
        return "nothing due"
    tell(log, logging.INFO, "drain.claimed", "drain: %(rows)d rows in %(chunks)d chunks", rows=rows, chunks=chunks)
    return f"{rows} mails in {chunks} chunks: {', '.join(f'{count} {lane}' for lane, count in lanes.items())}"


@shared_task(name=SEND_EMAILS, ignore_result=True)
def send_emails(ids: list[int], token: str) -> str:
    """Deliver the rows that are still claimed under this token; none, if this task was delivered before.

    Says what became of them, to whoever watches.
    """
    parts = current_app.extensions
    statuses = parts["courier"].deliver(ids, token)
    became = ", ".join(f"{count} {status}" for status, count in statuses.items()) or "none"
    tell(log, logging.INFO, "chunk.done", "send_emails: %(became)s of %(rows)d rows", rows=len(ids), became=became)
    if not parts["courier"].stopping and _look_again() == 0:
        parts["nudge"]()
    return became


@shared_task(name=REAP, ignore_result=True)
def reap() -> str:
    """Take back the rows whose worker is gone. Says how many, to whoever watches."""
    parts = current_app.extensions
    if rows := outbox.reaper.reap(parts["engine"], parts["settings"]):
        sentence = "reap: %(rows)d rows came back from workers that did not finish them in time"
        tell(log, logging.WARNING, "reap.returned", sentence, rows=rows)
        parts["nudge"]()
    return f"{rows} mails came back" if rows else "nothing to take back"


@shared_task(name=PURGE)
def purge() -> dict[str, int]:
    """Delete what is past its retention."""
    parts = current_app.extensions
    engine, settings = parts["engine"], parts["settings"]
    purged = asdict(outbox.purging.purge(engine, settings))
    retention = timedelta(days=settings.outbox_retention_days)
    purged["dead_tasks"] = dead_tasks.purge(engine, datetime.now(UTC) - retention)
    tell(
        log, logging.INFO, "purge.done",
        "purge: %(mails)d mails, the bodies of %(bodies)d more, %(files)d files of %(bytes)d bytes, "
        "%(lines)d lines of the record, %(dead_tasks)d dead tasks", **purged,
    )  # fmt: skip
    return purged


@shared_task(name=PUBLISH_EVENTS, ignore_result=True)
def publish_events() -> None:
    """Tell the webhook what became of mails since the last time."""
    parts = current_app.extensions
    published = outbox.publishing.publish(parts["engine"], parts["settings"])
    if published.events:
        tell(log, logging.INFO, "events.told", "events: %(events)d told", events=published.events)
    if published.problem and published.tried:
        sentence = "events: %(why)s; they are kept, and it is tried again"
        tell(log, logging.ERROR, "events.failed", sentence, why=published.problem)


@shared_task(name=WATCH)
def watch() -> list[str]:
    """Say what is wrong: to the log and the webhook when it begins and when it is over, and each time in the result."""
    return [trouble.sentence for trouble in current_app.extensions["watch"](unless_within=_WATCHED_SECONDS)]


def _look_again() -> float | None:
    """Set the alarm for the next mail that is due, if that is before the beat comes by."""
    parts = current_app.extensions
    seconds = outbox.drain.next_look(parts["engine"], parts["settings"])
    if seconds and seconds < parts["settings"].outbox_drain_seconds:
        parts["alarm"].set(seconds)
    return seconds
