"""The nudge: after a commit, wake a drain, once for however many commits.

`SET outbox:nudge NX`; whoever set it publishes `outbox.drain`, and the drain deletes the key *before* it claims.

No commit is missed. A nudge follows its commit. If the SET fails, the key was there at that moment, so a drain has been
asked for that has not yet deleted it; that drain claims after it deletes, hence after the commit, and sees the row. If
the SET succeeds, this nudge asks for the drain itself. What can still break is the asking: the process dies between
the SET and the publishing, or Redis forgets the task. The key therefore ends by itself, and beat drains regardless:
with its next period, or, since it publishes through Redis, too, with the first one after Redis is back.
"""

import logging
import time
from collections.abc import Callable

import redis
from kombu.exceptions import KombuError
from redis.backoff import NoBackoff
from redis.retry import Retry

from outbox.logs import tell

log = logging.getLogger(__name__)

KEY = "outbox:nudge"
KEY_SECONDS = 60  # as long as the drain is at most away: beyond it, beat has drained anyway

TIMEOUT_SECONDS = 0.2  # what a commit may wait for a Redis that does not answer; one that does takes 0.2 ms
QUIET_SECONDS = 5.0  # after a failure no commit tries again for this long, so that a thousand do not each wait

_FAILURES = (redis.RedisError, KombuError, OSError)


def connect(url: str) -> redis.Redis:
    """A client that gives up at once. A pooled connection that Redis closed meanwhile is replaced, once."""
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        # Not for timeouts: those have already waited.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )


class Nudge:
    """Call it after a commit. It never raises: the mail is safe in its table, and beat comes by, once Redis is there.

    `publish` asks for one drain and raises if it cannot.
    """

    def __init__(self, client: redis.Redis, publish: Callable[[], object]) -> None:
        self._redis = client
        self._publish = publish
        self._failing = False
        self._quiet_until = 0.0

    def __call__(self) -> None:
        """Ask for a drain unless one is on its way."""
        if time.monotonic() < self._quiet_until:
            return
        try:
            if self._redis.set(KEY, "1", nx=True, ex=KEY_SECONDS):
                self._publish_or_take_back()
        except _FAILURES as error:
            self._be_quiet(error)
        else:
            self._be_well()

    def clear(self) -> None:
        """The drain's first act, before it claims: from now on a commit asks for another drain."""
        try:
            self._redis.delete(KEY)
        except _FAILURES as error:
            self._be_quiet(error)  # the key ends by itself

    def _publish_or_take_back(self) -> None:
        try:
            self._publish()
        except BaseException:
            self._redis.delete(KEY)  # else nobody would ask again while it stands
            raise

    def _be_quiet(self, error: Exception) -> None:
        self._quiet_until = time.monotonic() + QUIET_SECONDS
        if not self._failing:
            self._failing = True
            sentence = "nudge: Redis does not answer; mail waits for the first beat after it is back (%(why)s)"
            tell(log, logging.WARNING, "nudge.failed", sentence, why=str(error))

    def _be_well(self) -> None:
        if self._failing:
            self._failing = False
            tell(log, logging.INFO, "nudge.works", "nudge: Redis answers again")
