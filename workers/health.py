"""`workers.health_check`: whether what a worker needs is there."""

import logging
from typing import Any

from celery import shared_task
from flask import current_app

from app import checks
from app.queues import HEALTH_CHECK
from outbox.logs import tell

log = logging.getLogger(__name__)


@shared_task(name=HEALTH_CHECK)
def health_check() -> dict[str, Any]:
    """`{"healthy": bool, "checks": {"database": {"healthy": bool, "said": str}, ...}}`; what is not is logged."""
    found = checks.every(current_app.extensions)
    for name, finding in found.items():
        if not finding.healthy:
            sentence = "health: %(check)s: %(why)s"
            tell(log, logging.WARNING, "health.failed", sentence, check=name, why=finding.said)
    healthy = all(finding.healthy for finding in found.values())
    return {"healthy": healthy, "checks": {name: finding.as_json() for name, finding in found.items()}}
