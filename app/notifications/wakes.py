"""A word over Redis to the pages that are open: look into the table. It carries nothing else, and may be lost."""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.nudge import QUIET_SECONDS, TIMEOUT_SECONDS, connect
from outbox.logs import tell

log = logging.getLogger(__name__)

LOOK = "look"
LEAVE = "leave"
"""The user has logged out somewhere: who is still logged in comes back at once."""

POLL_SECONDS = 3.0
"""While Redis is away, how long a notification may be on its way."""

_GLANCE_SECONDS = 1.0
"""How often a listener is asked whether its page is still there: a closed one gives its thread back that soon."""

_FAILURES = (redis.RedisError, OSError)


def channel_of_user(user_id: int) -> str:
    """Where streams of that user listen."""
    return f"outbox:notifications:user:{user_id}"


def channel_of_organisation(organisation_id: int) -> str:
    """Where streams of all of its users listen: a broadcast says one word, not a hundred thousand."""
    return f"outbox:notifications:organisation:{organisation_id}"


class Wakes:
    """Says it. Never raises, and gives up at once while Redis is away: open pages look by themselves then."""

    def __init__(self, redis_url: str) -> None:
        self._speaking = connect(redis_url)
        # No second try: after a lost connection a listener must look into the table, and so has to hear of the loss.
        self._listening = redis.Redis.from_url(
            redis_url,
            socket_connect_timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        self._quiet_until = 0.0

    def __call__(self, channels: Collection[str], word: str = LOOK) -> None:
        """Say `word` on every channel, in one round trip."""
        if time.monotonic() < self._quiet_until:
            return
        try:
            with self._speaking.pipeline(transaction=False) as pipeline:
                for channel in channels:
                    pipeline.publish(channel, word)
                pipeline.execute()
        except _FAILURES as error:
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            tell(
                log, logging.WARNING, "notifications.polled",
                "notifications: Redis does not answer; open pages look every %(seconds)g s (%(why)s)",
                seconds=POLL_SECONDS, why=str(error),
            )  # fmt: skip

    @contextmanager
    def listen(self, channels: Collection[str]) -> Iterator["Ear"]:
        """Hears every word that is said from here on, as long as Redis is there."""
        ear = Ear(self._listening, channels)
        try:
            yield ear
        finally:
            ear.close()


class Ear:
    """Listens on some channels; over a connection of its own, which holds no thread but its caller's."""

    def __init__(self, client: redis.Redis, channels: Collection[str]) -> None:
        self._client = client
        self._channels = channels
        self._pubsub: redis.client.PubSub | None = None
        self._subscribe()

    def wait(self, seconds: float, gone: Callable[[], bool]) -> str:
        """The next word, or LOOK when it is time to look without one: after `seconds`, or sooner while Redis is away.

        LEAVE as soon as `gone` says that nobody is there to be told.
        """
        if self._pubsub is None and self._subscribe():
            return LOOK  # at what was said meanwhile
        end = time.monotonic() + (seconds if self._pubsub else POLL_SECONDS)
        while (left := end - time.monotonic()) > 0:
            if gone():
                return LEAVE
            if word := self._word(min(left, _GLANCE_SECONDS)):
                return word
        return LOOK

    def close(self) -> None:
        """Hear no more."""
        if self._pubsub is not None:
            self._pubsub.close()
            self._pubsub = None

    def _subscribe(self) -> bool:
        """Whether all channels are heard: Redis has confirmed each."""
        self._pubsub = self._client.pubsub()  # type: ignore[no-untyped-call]
        try:
            self._pubsub.subscribe(*self._channels)
            for _ in self._channels:
                if self._pubsub.get_message(timeout=TIMEOUT_SECONDS) is None:
                    raise redis.TimeoutError("the subscription was not confirmed")
        except _FAILURES:
            self.close()
        return self._pubsub is not None

    def _word(self, seconds: float) -> str | None:
        if self._pubsub is None:
            time.sleep(seconds)
            return None
        try:
            message = self._pubsub.get_message(ignore_subscribe_messages=True, timeout=seconds)
        except _FAILURES:
            self.close()
            return LOOK
        return message and str(message["data"])
