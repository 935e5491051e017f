"""The watch as this application does it: what the library finds in the database, and whether the broker answers."""

import logging
from typing import Any

import sqlalchemy as sa
from celery import Celery

from app import checks
from app.settings import AppSettings
from outbox import alerting
from outbox.database import reading
from outbox.logs import tell
from outbox.watching import Trouble

log = logging.getLogger(__name__)


class Watch:
    """One a process: it remembers whether the webhook answers."""

    def __init__(self, engine: sa.Engine, settings: AppSettings, celery: Celery) -> None:
        self._engine = engine
        self._settings = settings
        self._celery = celery
        self._webhook = alerting.AlertWebhook(settings.outbox_alert_webhook)

    def __call__(self, *, unless_within: float) -> list[Trouble]:
        """All that is wrong. What is new is told, unless somebody has watched in so many seconds."""
        broker = checks.broker(self._celery)
        also = [] if broker.healthy else [Trouble("broker", _WITHOUT_BROKER.format(broker.said))]
        return alerting.watch(self._engine, self._settings, self._webhook, also, unless_within=unless_within)

    def relieve(self, late: float) -> None:
        """Watch, if nobody has for so many seconds."""
        with reading(self._engine) as connection:
            since = alerting.since_the_last(connection)
        if since is None or since >= late:
            self(unless_within=late)

    def alert(self, sentence: str, *, over: bool = False, **more: Any) -> bool:
        """Tell of what cannot be written down, the database being away. False if it was not taken."""
        tell(log, logging.WARNING, "watch.unwritten", "watch: %(why)s", why=sentence)
        text = f"{'Over' if over else 'Trouble'} ({self._settings.outbox_environment}): {sentence}"
        return self._webhook.post({"text": text, "environment": self._settings.outbox_environment} | more)


_WITHOUT_BROKER = (
    "the broker {}: commits wake nobody, beat's tasks reach no worker; no mail is lost, and `outbox drain` sends it"
)
