"""Claimed ids -> send -> settle.

A `Courier` is a process's deliverer: one ledger for all its conversations, one relay connection a thread, kept open
between chunks.
"""

import logging
import random
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial

import sqlalchemy as sa
from tenacity import stop_after_delay

from outbox import retry
from outbox.chunk import Composer, Mail, load
from outbox.claims import Begin, Release
from outbox.database import reading
from outbox.errors import InvalidAddress, LeaseLost
from outbox.ledger import Ledger
from outbox.relay import Relay, Report
from outbox.settings import Settings
from outbox.settlement import Attempt, Settlement
from outbox.states import DeadReason, Outcome, Status
from outbox.writer import patient

log = logging.getLogger(__name__)

LOAD_PATIENCE = 30
"""Seconds that a task waits for a database that is away; a server that restarts is back in less."""


class Courier:
    """Delivers chunks, from as many threads as call it."""

    def __init__(self, engine: sa.Engine, settings: Settings, worker: str) -> None:
        self._engine = engine
        self._settings = settings
        self._worker = worker
        self._ledger = Ledger(engine, settings.outbox_lease_seconds)
        self._policy = retry.Policy.of(settings)
        self._stopping = threading.Event()
        self._relays: dict[int, Relay] = {}  # by thread: a relay is one conversation, and has no lock

    def deliver(self, ids: Sequence[int], token: str) -> Counter[Status]:
        """Send the mails of a chunk that are still claimed under its token. Returns what became of them.

        Every mail is settled by itself. What was not begun when the relay turned out to be down, when `stop` was
        called, or when half of the lease was over (the relay is slow, and others may be free) is handed back at once.
        """
        half_time = time.monotonic() + self._settings.outbox_lease_seconds / 2
        rest = deque(self._prepare(ids, token))
        composer = Composer(self._engine)
        statuses: Counter[Status] = Counter()
        pause = 0.0
        try:
            while rest and time.monotonic() < half_time and not self._stopping.is_set():
                settlement = self._deliver(rest[0], composer)
                rest.popleft()
                statuses[settlement.status] += 1
                if settlement.attempt is not None and settlement.attempt.outcome is Outcome.RELAY_DOWN:
                    pause = settlement.delay
                    break
        except LeaseLost as lost:
            log.warning("delivery: chunk given up: %s", lost)
            if lost.taken:
                # The same chunk is being delivered elsewhere, or was taken back: its rest is not ours to release.
                rest.clear()
        except Exception:
            # Whatever it was, the mail in hand must not come first again at once, and take its chunk with it again.
            # Under the chunk's token: it may have been begun and even sent.
            if rest:
                self._ledger.release([Release(rest.popleft().id, token, self._policy.base)])
            raise
        finally:
            self._ledger.release([Release(mail.id, token, pause) for mail in rest])
        return statuses

    def stop(self) -> None:
        """Begin no further mail: each `deliver` finishes the one in hand, hands back the rest and returns."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def close(self) -> None:
        """Leave the relays politely and end the ledger. To be called when no `deliver` runs any more."""
        for relay in self._relays.values():
            relay.close()
        self._relays.clear()
        self._ledger.close()

    def _prepare(self, ids: Sequence[int], token: str) -> list[Mail]:
        """The mails. What fails here, settings or a database that stays away, leaves them to anybody."""
        try:
            self._relay()
            return patient(stop=stop_after_delay(LOAD_PATIENCE))(self._load, ids, token)
        except Exception:
            self._ledger.release([Release(id_, token) for id_ in ids])
            raise

    def _load(self, ids: Sequence[int], token: str) -> list[Mail]:
        with reading(self._engine) as connection:
            return load(connection, ids, token)

    def _deliver(self, mail: Mail, composer: Composer) -> Settlement:
        """Compose, converse, settle. Raises LeaseLost, when nothing was sent."""
        if mail.expired:
            return self._bury(mail, DeadReason.EXPIRED, "expired before its turn came")
        try:
            data = composer.compose(mail)
        except (ValueError, LookupError, TypeError, AttributeError, sa.exc.NoResultFound) as error:
            # What it says cannot be a message. Other errors are the database's or the machine's: no mail dies of them.
            log.exception("delivery: mail %d cannot be composed", mail.id)
            return self._bury(mail, DeadReason.INVALID, f"cannot be composed: {error!r}")
        started = time.monotonic()
        deadline = started + self._settings.outbox_lease_seconds - self._settings.smtp_dot_timeout
        own_token = f"{mail.token}.{secrets.token_hex(4)}"
        try:
            report = self._relay().send(
                mail.sender, mail.recipient, data, partial(self._begin, mail, own_token), deadline=deadline
            )
        except InvalidAddress as error:
            return self._bury(mail, DeadReason.INVALID, str(error))
        except LeaseLost:
            # Certainly unsent. If the database did not answer, it may know the row by either token.
            self._ledger.release([Release(mail.id, token) for token in {mail.token, own_token}])
            raise
        return self._settle(mail, report, time.monotonic() - started)

    def _begin(self, mail: Mail, own_token: str) -> Callable[[], None]:
        wait = self._ledger.begin(Begin(mail.id, mail.token, own_token))

        def wait_until_durable() -> None:
            wait()
            mail.token = own_token

        return wait_until_durable

    def _settle(self, mail: Mail, report: Report, seconds: float) -> Settlement:
        verdict = retry.decide(report.outcome, mail.standing, self._policy, random.uniform(-1, 1))  # noqa: S311
        attempt = Attempt(
            id=mail.id,
            number=mail.number,
            seconds=seconds,
            outcome=report.outcome,
            stage=report.stage,
            code=report.code,
            reply=report.reply,
            relay=self._settings.endpoints[0].name,
            worker=self._worker,
        )
        settlement = Settlement.of(mail.token, verdict, attempt)
        if not self._ledger.settle(settlement):
            log.error("delivery: mail %d (%s) was not ours to settle any more", mail.id, report.outcome)
        elif verdict.status in {Status.DEAD, Status.UNCERTAIN}:
            log.warning("delivery: mail %d is %s after %s", mail.id, verdict.status, settlement.last_error)
        return settlement

    def _bury(self, mail: Mail, reason: DeadReason, error: str) -> Settlement:
        """Dead without a conversation."""
        settlement = Settlement(mail.id, mail.token, Status.DEAD, dead_reason=reason, last_error=error)
        self._ledger.settle(settlement)
        return settlement

    def _relay(self) -> Relay:
        thread = threading.get_ident()
        if thread not in self._relays:
            self._relays[thread] = Relay(self._settings)
        return self._relays[thread]
