"""`workers.health_check`: whether what a worker needs is there."""

import logging
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from celery import shared_task
from flask import current_app
from kombu.exceptions import KombuError

import migrations
from app.queues import HEALTH_CHECK
from outbox.database import reading
from outbox.journal import Journal
from outbox.logs import tell
from outbox.times import duration
from outbox.watching import late_after, oldest_due

log = logging.getLogger(__name__)

BROKER_SECONDS = 5
"""That the broker may take to answer."""


class Unhealthy(Exception):
    """What a check found, in words."""


@shared_task(name=HEALTH_CHECK)
def health_check() -> dict[str, Any]:
    """`{"healthy": bool, "checks": {"database": {"healthy": bool, "said": str}, ...}}`; what is not is logged."""
    checks = {check.__name__.removeprefix("_"): _result(check) for check in (_database, _broker, _oldest_due, _journal)}
    for name, result in checks.items():
        if not result["healthy"]:
            sentence = "health: %(check)s: %(why)s"
            tell(log, logging.WARNING, "health.failed", sentence, check=name, why=result["said"])
    return {"healthy": all(result["healthy"] for result in checks.values()), "checks": checks}


def _result(check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"healthy": True, "said": check()}
    except Unhealthy as found:
        return {"healthy": False, "said": str(found)}
    except (sa.exc.SQLAlchemyError, KombuError, OSError) as error:
        cause = getattr(error, "orig", None) or error  # without the statement
        return {"healthy": False, "said": f"does not answer: {str(cause).strip().partition(chr(10))[0]}"}


def _database() -> str:
    with reading(current_app.extensions["engine"]) as connection:
        missing = migrations.missing(connection)
    if missing:
        raise Unhealthy(f"lacks migrations ({', '.join(sorted(missing))}): run `python -m alembic upgrade heads`")
    return "answers, and is at the head of its migrations"


def _broker() -> str:
    with current_app.extensions["celery"].connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=BROKER_SECONDS)
        connection.channel().close()  # asks it something
    return "answers"


def _oldest_due() -> str:
    parts = current_app.extensions
    with reading(parts["engine"]) as connection:
        waited = oldest_due(connection)
    if waited > late_after(parts["settings"]):
        raise Unhealthy(
            f"the oldest due mail has waited for {duration(waited)}: see `outbox stats` and `outbox relays`"
        )
    return f"the oldest due mail has waited for {duration(waited)}" if waited else "no mail is due"


def _journal() -> str:
    journal = Journal(current_app.extensions["settings"].outbox_journal)
    if journal.exists:
        raise Unhealthy(f"{journal.path} holds what the database was not told yet: the next reap brings it there")
    return "is empty"
