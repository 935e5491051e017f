"""Mail that keeps flowing: an application that commits single mails and small batches, whatever goes away meanwhile."""

import random
import threading
import time

import sqlalchemy as sa

from outbox.states import OnUncertain
from tests.system import System

WISHES = {
    "plain": 60,
    "slow-0.3-at-data": 8,
    "slow-0.3-at-dot": 8,
    "late-0.3-at-dot": 8,
    "defer-451": 2,
    "defer-451-times-1": 3,
    "defer-451-at-dot-times-2": 3,
    "drop-at-data-times-1": 2,
    "drop-at-dot-times-1": 2,
    "swallow-at-dot-times-1": 2,
    "reject-550": 1,
    "reject-550-at-dot": 1,
}
"""What becomes of a mail at the relay (`tests.smtp_script.by_recipient`), and how often of a hundred."""

DOOMED = ("reject-", "defer-451+")
"""Only these may come to be dead."""

HELD = "+hold-"
"""In the address of a mail whose sender would rather ask a person than send it twice."""

_HELD_OF_ALL = 0.2

_PRIORITIES = ("high", "normal", "normal", "low")

_BREATH = 0.05
"""Seconds until an application tries again what a database that is away refused."""


class Flow(threading.Thread):
    """Commits until it is stopped. `committed` are the recipients, each of one mail."""

    def __init__(self, system: System, seed: int, pause: float) -> None:
        """`pause`: seconds between two commits, on average."""
        super().__init__(name="flow")
        self.committed: list[str] = []
        self.refusals = 0
        """Commits that failed, or whose answer was lost."""
        self._system = system
        self._random = random.Random(seed)
        self._pause = pause
        self._number = 0
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(self._random.uniform(0, 2 * self._pause)):
            size = 1 if self._random.random() < 0.7 else self._random.randint(2, 8)
            self._commit([self._next_recipient() for _ in range(size)])

    def stop(self) -> None:
        """Returns when the last commit has its answer."""
        self._stopping.set()
        self.join()

    def _next_recipient(self) -> str:
        self._number += 1
        (wish,) = self._random.choices(list(WISHES), list(WISHES.values()))
        plus = HELD if self._random.random() < _HELD_OF_ALL else "+"
        return f"{wish}{plus}{self._number}@example.com"

    def _commit(self, recipients: list[str]) -> None:
        """All of them or none; again until it is known that they are there.

        A commit whose answer was lost may have succeeded. The key finds its mail: then nothing is queued again.
        """
        priority = self._random.choice(_PRIORITIES)
        while True:
            try:
                with self._system.sessions.begin() as session:
                    emails = self._system.emails(session)
                    for recipient in recipients:
                        emails.queue_email(
                            recipient,
                            "Hello",
                            text="Good day.",
                            priority=priority,
                            idempotency_key=recipient,
                            # A relay that was restarted has forgotten how often it has deferred a mail already.
                            max_attempts=3 if recipient.startswith(DOOMED) else 1_000,
                            on_uncertain=OnUncertain.HOLD if HELD in recipient else OnUncertain.RETRY,
                        )
            except sa.exc.DBAPIError:
                self.refusals += 1
                time.sleep(_BREATH)
            else:
                self.committed += recipients
                return
