"""The rates that all workers share, counted in Redis."""

from contextlib import suppress

import redis
from limits.storage import RedisStorage

from app.nudge import connect
from app.settings import AppSettings
from outbox.rates import Rates


class RedisWindows(RedisStorage):
    """The library's, which counts with scripts that Redis keeps, and hands them in again when it has forgotten them."""

    DEPENDENCIES = ["redis"]  # noqa: RUF012 - the library's. Its own would import the client of Valkey as well.

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
