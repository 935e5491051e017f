"""Random parts of a whole system die while mail flows; in the end the oracle says whether the promise held:

    python -m tests.faults.soak --kills 60 --seed 1 [--database postgresql|sqlite]

What dies, in which order and at which pace follows from the seed alone; what it is doing at that moment does not. Exit
status 1 if anything is lost, a duplicate is not on record or of a mail that was to be held, or mail that nobody refused
was given up.
"""

import argparse
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

import migrations
from outbox.database import reading
from outbox.models import QueuedEmail
from outbox.states import Status
from tests.faults.flow import DOOMED, HELD, Flow
from tests.faults.oracle import at_rest, judge
from tests.faults.pace import QUICK
from tests.faults.ruin import Ruin
from tests.servers import redis_server, restartable_postgresql
from tests.smtp_server import SmtpProcess
from tests.system import System, wait_until

SETTINGS = QUICK | {
    "CELERY_WORKER_CONCURRENCY": "8",  # as many connections and threads as a mail or two at a time can use
    "OUTBOX_RETRY_BASE_SECONDS": "0.2",
}

PAUSE = 0.5
"""Seconds between two kills, on average. A worker that starts takes 1.5 seconds of a processor."""

COMMIT_PAUSE = 0.1

REST_SECONDS = 90
"""For the last mails to come to rest: leases, back-off, a relay that is trusted again."""

LIKELIHOOD = {"worker": 30, "relay": 25, "redis": 15, "flushall": 10, "postgresql": 15, "beat": 5}


def soak(folder: Path, kills: int, seed: int, database: str) -> bool:
    """Run it and print the report. Returns whether the promise held."""
    started = time.monotonic()
    with _running(folder, database) as (system, ruin):
        flow = Flow(system, seed, COMMIT_PAUSE)
        flow.start()
        try:
            killed = _kill(ruin, kills, random.Random(seed))
        finally:
            flow.stop()
        flowing = time.monotonic() - started
        _come_to_rest(system.engine)
        resting = time.monotonic() - started - flowing
        _say(f"seed {seed}, {database}: {kills} kills ({', '.join(f'{n} {way}' for way, n in killed.most_common())})")
        _say(f"{flowing:.0f} s, and {resting:.0f} s until all was at rest; {flow.refusals} commits had to be repeated")
        verdict = judge(system.engine, flow.committed, system.relay.mails)
        resent = [recipient for recipient in verdict.doubled if HELD in recipient]
        given_up = _given_up(system.engine)
    _say(str(verdict))
    _say(f"{len(resent)} sent again though they were to be held {resent[:10] or ''}")
    _say(f"{len(given_up)} given up though nobody refused them {given_up[:10] or ''}")
    return verdict.holds and not resent and not given_up


def _kill(ruin: Ruin, kills: int, choice: random.Random) -> Counter[str]:
    """Returns how often each way was taken."""
    started = time.monotonic()
    ways = ruin.ways()
    killed: Counter[str] = Counter()
    for way in choice.choices(list(ways), [LIKELIHOOD[way] for way in ways], k=kills):
        time.sleep(choice.uniform(0, 2 * PAUSE))
        ways[way](choice)
        killed[way] += 1
        if not killed.total() % 100:
            _say(f"{killed.total()} kills, {time.monotonic() - started:.0f} s")
    return killed


def _come_to_rest(engine: sa.Engine) -> None:
    """What does not, the oracle will report as lost."""
    with suppress(AssertionError):
        wait_until(lambda: at_rest(engine), REST_SECONDS)


def _given_up(engine: sa.Engine) -> list[str]:
    """Dead mail that the relay would have taken."""
    query = sa.select(QueuedEmail.recipient, QueuedEmail.last_error).where(QueuedEmail.status == Status.DEAD)
    with reading(engine) as connection:
        dead = connection.execute(query).all()
    return [f"{row.recipient}: {row.last_error}" for row in dead if not row.recipient.startswith(DOOMED)]


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
    logging.disable(logging.WARNING)  # that Redis does not answer is no news here
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
