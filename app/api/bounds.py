"""How much the API takes: requests of a token in a time, and mails while the queue is long. Answers 429 beyond it."""

import threading
import time
from typing import cast

import sqlalchemy as sa
from flask import current_app
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import TooManyRequests

from app.accounts.models import ApiToken
from app.rates import Allowance
from app.settings import AppSettings
from outbox import stats
from outbox.database import reading

DEPTH_SECONDS = 5.0
"""For which an answer about the queue's depth holds: however many requests come, few of them ask."""

BACKLOG_SECONDS = 30
"""What `Retry-After` says then: a worker sends some thousands in that time."""


class Depth:
    """Whether more mail is due than `most`, asked now and then by each process."""

    def __init__(self, engine: sa.Engine, most: int) -> None:
        self._engine = engine
        self._most = most
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._exceeded = False

    @property
    def exceeded(self) -> bool:
        """As of the last answer that still holds."""
        with self._lock:
            if time.monotonic() - self._asked_at > DEPTH_SECONDS:
                with reading(self._engine) as connection:
                    self._exceeded = stats.is_deeper_than(connection, self._most)
                self._asked_at = time.monotonic()
            return self._exceeded


def prepare(state: BlueprintSetupState) -> None:
    """Nothing is connected to yet."""
    extensions = state.app.extensions
    settings: AppSettings = extensions["settings"]
    extensions["api_allowance"] = Allowance(settings.redis_url, "requests of the API")
    extensions["api_depth"] = Depth(extensions["engine"], settings.api_max_queue)


def check_rate(token: ApiToken) -> None:
    """Count the request."""
    allowance: Allowance = current_app.extensions["api_allowance"]
    rate = _settings().api_rate
    who = ("api", str(token.id))
    if not allowance.takes(rate, *who):
        raise TooManyRequests(
            f"This token has made as many requests as it may ({rate}): wait as long as Retry-After says.",
            retry_after=allowance.seconds_left(rate, *who),
        )


def check_depth() -> None:
    """Before a mail is taken."""
    depth: Depth = current_app.extensions["api_depth"]
    if depth.exceeded:
        raise TooManyRequests(
            f"More than {_settings().api_max_queue} mails are due and wait: try again when Retry-After is over.",
            retry_after=BACKLOG_SECONDS,
        )


def _settings() -> AppSettings:
    return cast("AppSettings", current_app.extensions["settings"])
