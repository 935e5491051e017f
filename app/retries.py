"""Which task is tried again by itself, how often and when, after a failure that may pass.

A database, a broker or a disk that is away is back in a while: the task waits, for twice as long each time. A bug, or
arguments that make no sense, fail the same way an hour later: such a task has failed for good at once, and is kept
(`workers.dead_letters`). Never tried again: what carries mail, for on Redis a delayed task repeats or vanishes, and the
row has its own `next_attempt_at`; and what beat sends every few minutes, whose next run is the retry.

All others do their work once however often they run, so a delay that repeats does no harm.
"""

import random
from contextlib import suppress
from dataclasses import dataclass

import redis
import sqlalchemy as sa
from celery import Task
from celery.exceptions import Reject
from kombu.exceptions import KombuError

from app import queues
from outbox.retry import SPREAD

PASSING = (
    sa.exc.OperationalError,
    sa.exc.InterfaceError,
    sa.exc.TimeoutError,  # no connection of the pool came free
    redis.RedisError,
    KombuError,
    OSError,
)
"""What may be over in a while."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Times in seconds."""

    attempts: int = 5
    base: float = 60
    cap: float = 600
    """With its spread, less than the 900 s after which Redis takes a task that waits for lost, and has it run twice."""

    def delay(self, attempt: int, spread: float) -> float:
        """To wait after the given attempt (the first is 1) failed. `spread`: a random number between -1 and 1."""
        return float(min(self.base * 2 ** (attempt - 1), self.cap) * (1 + SPREAD * spread))


ONCE = Policy(attempts=1)
"""Its next run comes by itself."""

ASKED_FOR = Policy()
"""After 1, 2, 4 and 8 minutes: somebody waits for it, and hears of a failure rather sooner."""

OF_THE_DAY = Policy(attempts=8)
"""And three times every 10 minutes more: it comes once a day, a week or a month, and waits out a longer outage."""

POLICIES = {
    queues.SEND_EMAILS: ONCE,
    queues.DRAIN: ONCE,
    queues.REAP: ONCE,
    queues.WATCH: ONCE,
    queues.PUBLISH_EVENTS: ONCE,
    queues.HEALTH_CHECK: ONCE,
    queues.PURGE: OF_THE_DAY,
    queues.SEND_DAILY_REMINDERS: OF_THE_DAY,
    queues.SEND_MONTHLY_REPORTS: OF_THE_DAY,
    queues.GENERATE_TASK_REPORT: OF_THE_DAY,
    queues.SEND_TASK_REMINDERS: OF_THE_DAY,
    queues.SEND_OVERDUE_ALERTS: OF_THE_DAY,
    queues.SEND_WEEKLY_SUMMARY: OF_THE_DAY,
    queues.CLEANUP_COMPLETED_TASKS: OF_THE_DAY,
    queues.CLEANUP_FILES: OF_THE_DAY,
    queues.GENERATE_THUMBNAILS: ASKED_FOR,
    queues.GENERATE_USER_EXPORT: ASKED_FOR,
    queues.UPDATE_TASK_STATUS: ASKED_FOR,
    queues.SEND_NOTIFICATION: ASKED_FOR,
    queues.BROADCAST_NOTIFICATION: ASKED_FOR,
}
"""By the task's name. A test holds that every task has its line."""


def try_later(task: Task, error: Exception) -> None:
    """Have the task come again, which raises Celery's `Retry`; return if it shall not, and has failed for good.

    It waits in the worker's memory, and no thread with it; a worker that is stopped gives it back to Redis. With a
    broker that is away it is not tried again, but kept.
    """
    request, policy = task.request, POLICIES.get(task.name, ASKED_FOR)
    attempt = request.retries + 1
    if request.called_directly or request.is_eager or attempt >= policy.attempts:
        return  # who runs it by hand sees it fail
    delay = policy.delay(attempt, random.uniform(-1, 1))  # noqa: S311 - no secret
    # Celery raises Reject, and drops the task, if the broker does not take it again.
    with suppress(Reject):
        raise task.retry(exc=error, countdown=delay, max_retries=policy.attempts - 1)
