"""The rates that all workers, and all web processes, share: counted in Redis."""

import logging
import math
import time
from contextlib import suppress

import redis
from limits import RateLimitItem
from limits.errors import StorageError
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter

from app.nudge import connect
from app.settings import AppSettings
from outbox.logs import tell
from outbox.rates import Rates

log = logging.getLogger(__name__)


class RedisWindows(RedisStorage):
    """The library's, which counts with scripts that Redis keeps, and hands them in again when it has forgotten them."""

    DEPENDENCIES = {"redis": None}  # noqa: RUF012 - as the library has it: there, Valkey's client is imported, too

    def __init__(self, url: str) -> None:
        self._client = connect(url)  # which gives up after a fraction of a second
        pool = self._client.connection_pool
        super().__init__(url, connection_pool=pool, key_prefix="outbox:rate", wrap_exceptions=True)

    def give_back(self, key: str) -> None:
        """Take the newest entry out again. If that fails, it stays for its time, and one mail fewer goes."""
        with suppress(redis.RedisError):
            self._client.lpop(self.prefixed_key(key))


def create_rates(settings: AppSettings) -> Rates:
    """Nothing is connected to yet."""
    return Rates(RedisWindows(settings.redis_url), base=settings.throttle_seconds)


class Allowance:
    """How often somebody may do something. While Redis is away they may: a lost hint must not keep anybody out."""

    def __init__(self, redis_url: str, what: str) -> None:
        """`what` is counted, for the log."""
        self._windows = MovingWindowRateLimiter(RedisWindows(redis_url))
        self._what = what
        self._failing = False

    def takes(self, rate: RateLimitItem, *who: str) -> bool:
        """Count once more; False: it is one too many."""
        try:
            return self._counted(self._windows.hit(rate, *who))
        except (StorageError, OSError) as error:
            return self._uncounted(error)

    def has_room(self, rate: RateLimitItem, *who: str) -> bool:
        """Whether one more would be taken; it is not counted."""
        try:
            return self._counted(self._windows.test(rate, *who))
        except (StorageError, OSError) as error:
            return self._uncounted(error)

    def forget(self, rate: RateLimitItem, *who: str) -> None:
        """Begin to count anew."""
        try:
            self._windows.clear(rate, *who)
        except (StorageError, OSError) as error:
            self._uncounted(error)

    def seconds_left(self, rate: RateLimitItem, *who: str) -> int:
        """Until one more is taken, after one was not."""
        try:
            ends = self._windows.get_window_stats(rate, *who).reset_time
        except (StorageError, OSError):
            return 1
        return max(1, math.ceil(ends - time.time()))

    def _counted(self, answer: bool) -> bool:
        if self._failing:
            self._failing = False
            tell(log, logging.INFO, "allowance.works", "%(what)s are counted again", what=self._what)
        return answer

    def _uncounted(self, error: Exception) -> bool:
        if not self._failing:  # once, and not with each of a thousand requests
            self._failing = True
            sentence = "%(what)s are not counted: Redis does not answer (%(why)s)"
            tell(log, logging.WARNING, "allowance.failed", sentence, what=self._what, why=str(error))
        return True
