"""A word over Redis to the pages that are open: look into the table. It carries nothing else, and may be lost."""

import logging
import time
from collections.abc import Collection

import redis

from app.nudge import QUIET_SECONDS, connect

log = logging.getLogger(__name__)

LOOK = "look"
LEAVE = "leave"
"""The user has logged out somewhere: who is still logged in comes back at once."""

FAILURES = (redis.RedisError, OSError)


def channel_of_user(user_id: int) -> str:
    """Where streams of that user listen."""
    return f"outbox:notifications:user:{user_id}"


def channel_of_organisation(organisation_id: int) -> str:
    """Where streams of all of its users listen: a broadcast says one word, not a hundred thousand."""
    return f"outbox:notifications:organisation:{organisation_id}"


class Wakes:
    """Says it. Never raises, and gives up at once while Redis is away: open pages look by themselves then."""

    def __init__(self, redis_url: str) -> None:
        self.redis = connect(redis_url)
        self._quiet_until = 0.0

    def __call__(self, channels: Collection[str], word: str = LOOK) -> None:
        """Say `word` on every channel, in one round trip."""
        if time.monotonic() < self._quiet_until:
            return
        try:
            with self.redis.pipeline(transaction=False) as pipeline:
                for channel in channels:
                    pipeline.publish(channel, word)
                pipeline.execute()
        except FAILURES as error:
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            log.warning("notifications: Redis does not answer; open pages look every few seconds (%s)", error)
