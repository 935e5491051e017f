"""A connection to the broker whose loss a worker survives.

With Celery and kombu 5.7.0 a worker ends with an AttributeError when Redis goes away while an `acks_late` task runs:
at once, cleaning up the lost connection, or when the task is acknowledged on a channel that was closed meanwhile.
(5.6.3 does not.) Both ask the closed channel for a client, and it has forgotten where to connect to. Said as the
connection error that it is, the callers handle it: the task's message stays with the broker and comes again.
"""

from typing import Any

import redis
from kombu.transport.redis import Channel as RedisChannel
from kombu.transport.redis import Transport as RedisTransport


class Channel(RedisChannel):
    """A channel that says so when it has been closed."""

    def _connparams(self, *args: Any, **kwargs: Any) -> Any:
        if self.connection is None or self.connection.client is None:
            raise redis.ConnectionError("this channel was closed when the connection to the broker was lost")
        return super()._connparams(*args, **kwargs)  # type: ignore[no-untyped-call]


class Transport(RedisTransport):
    """kombu's, with our channel."""

    Channel = Channel
