"""The tasks of the outbox. They are thin: what they do is in `outbox.drain` and `outbox.delivery`."""

import logging

from celery import shared_task
from flask import current_app
from sqlalchemy import Engine

import outbox.drain
from app.nudge import Nudge
from app.queues import DRAIN, REAP, SEND_EMAILS, queue_of
from app.settings import AppSettings
from outbox.delivery import Courier
from outbox.states import Priority

log = logging.getLogger(__name__)


@shared_task(name=DRAIN, ignore_result=True)
def drain() -> None:
    """Claim what is due and hand it out in chunks."""
    _nudge().clear()
    chunks = 0

    def publish(priority: Priority, ids: list[int], token: str) -> None:
        nonlocal chunks
        send_emails.apply_async((ids, token), queue=queue_of(priority))
        chunks += 1

    rows = outbox.drain.drain(_engine(), _settings(), _worker(), publish)
    if rows:
        log.info("drain: %d rows in %d chunks", rows, chunks)


@shared_task(name=SEND_EMAILS, ignore_result=True)
def send_emails(ids: list[int], token: str) -> None:
    """Deliver the rows that are still claimed under this token; none, if this task was delivered before."""
    outcomes = _courier().deliver(ids, token)
    log.info("send_emails: %s", ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items()) or "nothing to do")
    if outbox.drain.wants_more(_engine(), _settings()):
        _nudge()()


@shared_task(name=REAP, ignore_result=True)
def reap() -> None:
    """Take back the rows whose worker is gone."""
    if rows := outbox.drain.reap(_engine(), _settings()):
        log.warning("reap: %d rows came back from a worker that did not finish them in time", rows)
        _nudge()()


def _engine() -> Engine:
    engine: Engine = current_app.extensions["engine"]
    return engine


def _settings() -> AppSettings:
    settings: AppSettings = current_app.extensions["settings"]
    return settings


def _nudge() -> Nudge:
    nudge: Nudge = current_app.extensions["nudge"]
    return nudge


def _courier() -> Courier:
    courier: Courier = current_app.extensions["courier"]
    return courier
