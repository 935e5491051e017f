"""The tasks of the outbox. They are thin: what they do is in `outbox.drain` and `outbox.delivery`."""

import logging
from dataclasses import asdict

from celery import shared_task
from flask import current_app

import outbox.drain
import outbox.publishing
import outbox.purging
import outbox.reaper
from app.queues import DRAIN, PUBLISH_EVENTS, PURGE, REAP, SEND_EMAILS, WATCH, queue_of
from outbox import watching
from outbox.database import reading
from outbox.states import Priority

log = logging.getLogger(__name__)

_watched = watching.Memory()


@shared_task(name=DRAIN, ignore_result=True)
def drain() -> None:
    """Claim what is due and hand it out in chunks."""
    parts = current_app.extensions
    parts["nudge"].clear()
    if parts["courier"].stopping:
        # What we claimed would wait for others: they shall drain. Celery takes nothing more from the broker once it
        # has seen the signal, at its next turn, so this does not come back to us over and over.
        parts["nudge"]()
        return
    chunks = 0

    def publish(priority: Priority, ids: list[int], token: str) -> None:
        nonlocal chunks
        send_emails.apply_async((ids, token), queue=queue_of(priority))
        chunks += 1

    rows = outbox.drain.drain(parts["engine"], parts["settings"], parts["worker"], publish)
    if rows:
        log.info("drain: %d rows in %d chunks", rows, chunks)
    else:
        _look_again()


@shared_task(name=SEND_EMAILS, ignore_result=True)
def send_emails(ids: list[int], token: str) -> None:
    """Deliver the rows that are still claimed under this token; none, if this task was delivered before."""
    parts = current_app.extensions
    statuses = parts["courier"].deliver(ids, token)
    became = ", ".join(f"{count} {status}" for status, count in statuses.items())
    log.info("send_emails: %s of %d rows", became or "none", len(ids))
    if not parts["courier"].stopping and _look_again() == 0:
        parts["nudge"]()


@shared_task(name=REAP, ignore_result=True)
def reap() -> None:
    """Take back the rows whose worker is gone."""
    parts = current_app.extensions
    if rows := outbox.reaper.reap(parts["engine"], parts["settings"]):
        log.warning("reap: %d rows came back from workers that did not finish them in time", rows)
        parts["nudge"]()


@shared_task(name=PURGE)
def purge() -> dict[str, int]:
    """Delete what is past its retention."""
    parts = current_app.extensions
    purged = asdict(outbox.purging.purge(parts["engine"], parts["settings"]))
    log.info("purge: %(mails)d mails, the bodies of %(bodies)d more, %(files)d files of %(bytes)d bytes", purged)
    return purged


@shared_task(name=PUBLISH_EVENTS, ignore_result=True)
def publish_events() -> None:
    """Tell the webhook what became of mails since the last time."""
    parts = current_app.extensions
    published = outbox.publishing.publish(parts["engine"], parts["settings"])
    if published.events:
        log.info("events: %d told", published.events)
    if published.problem and published.tried:
        log.error("events: %s; they are kept, and it is tried again", published.problem)


@shared_task(name=WATCH)
def watch() -> list[str]:
    """Say what is wrong: in the log when it begins and when it ends, and each time in the result."""
    parts = current_app.extensions
    with reading(parts["engine"]) as connection:
        troubles = watching.troubles(connection, parts["settings"])
    begun, ended = _watched.compare(troubles)
    for trouble in begun:
        log.warning("watch: %s", trouble.sentence)
    for trouble in ended:
        log.info("watch: over: %s", trouble.sentence)
    return [trouble.sentence for trouble in troubles]


def _look_again() -> float | None:
    """Set the alarm for the next mail that is due, if that is before the beat comes by."""
    parts = current_app.extensions
    seconds = outbox.drain.next_look(parts["engine"], parts["settings"])
    if seconds and seconds < parts["settings"].outbox_drain_seconds:
        parts["alarm"].set(seconds)
    return seconds
