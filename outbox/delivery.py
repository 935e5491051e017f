"""Claimed ids -> gate -> send -> settle.

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
from dataclasses import dataclass
from functools import partial
from itertools import count

import sqlalchemy as sa
from tenacity import stop_after_delay

from outbox import fence, retry, signals
from outbox.chunk import Composer, Mail, load
from outbox.claims import Begin, Release
from outbox.conversation import Envelope
from outbox.database import by_index, reading
from outbox.endpoints import Endpoint
from outbox.errors import InvalidAddress, LeaseLost, NotRecorded
from outbox.gate import End, Gate, Hold, Shut
from outbox.journal import Journal
from outbox.ledger import Ledger
from outbox.logs import request_id, tell
from outbox.rates import Rates
from outbox.recording import Recording
from outbox.relay import Relay, Report
from outbox.sealing import Safe
from outbox.settings import Settings
from outbox.settlement import Attempt, Settlement
from outbox.signing import Signer
from outbox.states import DeadReason, Outcome, Status
from outbox.writer import is_passing, patient

log = logging.getLogger(__name__)

LOAD_PATIENCE = 30
"""Seconds that a task waits for a database that is away; a server that restarts is back in less."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What one `deliver` has in hand: the first of `rest` is the next mail."""

    token: str
    rest: deque[Mail]
    composer: Composer
    recording: Recording


class Courier:
    """Delivers chunks, from as many threads as call it. Raises SettingsError for a DKIM key that signs nothing.

    `rates` counts what goes to each relay: in Redis for all workers together, or, by default, for this process alone.
    `ledger` and `open_relay` are the seams for `outbox.testing`: a writer without a thread, a relay without a network.
    """

    def __init__(
        self,
        engine: sa.Engine,
        settings: Settings,
        worker: str,
        rates: Rates | None = None,
        *,
        ledger: Ledger | None = None,
        open_relay: Callable[[Endpoint, Settings], Relay] = Relay,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._worker = worker
        self._signer = Signer.of(settings)
        self._journal = Journal(settings.outbox_journal)
        self._ledger = ledger or Ledger(engine, settings.outbox_lease_seconds, self._journal)
        self._open_relay = open_relay
        self._policy = retry.Policy.of(settings)
        self._safe = Safe.of(settings)
        self._stopping = threading.Event()
        self._gate = Gate(engine, settings, worker, rates or Rates(base=settings.throttle_seconds), self._stopping)
        # What tells this process's conversations from those of others with the same chunk.
        self._name, self._numbers = secrets.token_hex(4), count()
        self._relays: dict[tuple[int, str], Relay] = {}  # by thread: a relay is one conversation, and has no lock

    def deliver(self, ids: Sequence[int], token: str) -> Counter[Status]:
        """Send the mails of a chunk that are still claimed under its token. Returns what became of them.

        Every mail is settled by itself. What was not begun when no relay took mail any more, when `stop` was called, or
        when half of the lease was over (the relay is slow, and others may be free) is handed back at once.
        """
        rest = deque(self._prepare(ids, token))
        chunk = _Chunk(token, rest, Composer(self._engine, rest, self._signer), Recording(self._ledger))
        statuses: Counter[Status] = Counter()
        held: list[Release] = []
        asked_by = request_id.get()
        half_time = time.monotonic() + min((mail.lease_left for mail in rest), default=0) / 2
        try:
            while rest and time.monotonic() < half_time and not self._stopping.is_set():
                request_id.set(rest[0].request_id)
                match self._gate.check(rest[0], token, half_time):
                    case Shut():
                        break
                    case Hold(seconds, why):
                        held.append(Release(rest[0].id, token, seconds, why))
                        status = Status.PENDING
                    case End() as end:
                        status = _end(rest[0], end, chunk.recording)
                    case Endpoint() as endpoint:
                        status = self._deliver(chunk, endpoint)
                rest.popleft()
                statuses[status] += 1
        except LeaseLost as lost:
            tell(log, logging.WARNING, "lease.lost", "delivery: chunk given up: %(why)s", why=str(lost))
            signals.announce(signals.lease_lost, None, why=str(lost))
            if lost.taken:
                # The same chunk is being delivered elsewhere, or was taken back: its rest is not ours to release.
                rest.clear()
        except Exception:
            # Whatever it was, the mail in hand must not come first again at once, and take its chunk with it again.
            # Under the chunk's token: it may have been begun and even sent.
            if rest:
                held.append(Release(rest.popleft().id, token, self._policy.base))
            raise
        finally:
            request_id.set(asked_by)
            self._finish(chunk, held)
        return statuses

    def stop(self) -> None:
        """Begin no further mail: each `deliver` finishes the one in hand, hands back the rest and returns."""
        self._stopping.set()
        self._ledger.hurry()

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
            for endpoint in self._settings.endpoints:
                self._relay(endpoint)
            if self._journal.exists:
                self._journal.replay(self._engine)
            mails, ours = patient(stop=stop_after_delay(LOAD_PATIENCE))(self._load, ids, token)
        except Exception:
            self._ledger.release([Release(id_, token) for id_ in ids])
            raise
        if not ours:
            self._ledger.release([Release(mail.id, token) for mail in mails])
            return []
        return mails

    def _load(self, ids: Sequence[int], token: str) -> tuple[list[Mail], bool]:
        with reading(self._engine) as connection:
            by_index(connection)
            mails = load(connection, ids, token, self._safe)
            return mails, self._gate.prepare(connection, mails)

    def _finish(self, chunk: _Chunk, held: Sequence[Release]) -> None:
        """What was sent goes on record, and what was not back into the queue."""
        for endpoint in self._settings.endpoints:
            self._relay(endpoint).withdraw()
        try:
            chunk.recording.finish()
        finally:
            self._ledger.release([*held, *(Release(mail.id, chunk.token) for mail in chunk.rest)])
            self._gate.relays.give_probe_back(chunk.token)

    def _deliver(self, chunk: _Chunk, endpoint: Endpoint) -> Status:
        """Compose, converse, settle the chunk's next mail. Raises LeaseLost or NotRecorded, when nothing was sent."""
        mail = chunk.rest[0]
        try:
            data = self._compose(chunk, endpoint)
            started = time.monotonic()
            report = self._converse(chunk, endpoint, data)
        except InvalidAddress as error:
            return _end(mail, End(Status.DEAD, str(error), DeadReason.INVALID), chunk.recording)
        except (LeaseLost, NotRecorded):
            # Certainly unsent. If the database did not answer, it may know the row by either token.
            tokens = {mail.token, mail.next_token or mail.token}
            self._ledger.release([Release(mail.id, known, relay=mail.relay) for known in tokens])
            raise
        except (ValueError, LookupError, TypeError, AttributeError, sa.exc.NoResultFound) as error:
            # What it says cannot be a message. Other errors are the database's or the machine's: no mail dies of them.
            sentence = "delivery: mail %(mail_id)d cannot be composed"
            tell(log, logging.ERROR, "mail.not_composed", sentence, exc_info=True, mail_id=mail.id)
            return _end(mail, End(Status.DEAD, f"cannot be composed: {error!r}", DeadReason.INVALID), chunk.recording)
        status = self._settle(mail, endpoint, report, time.monotonic() - started, chunk.recording)
        self._gate.learn(mail, endpoint, report, chunk.token)
        return status

    def _compose(self, chunk: _Chunk, endpoint: Endpoint) -> bytes:
        mail = chunk.rest[0]
        if not chunk.composer.has(mail):
            # A mail that kills this worker by being composed must leave no other in doubt.
            chunk.recording.finish()
            if not mail.loaded.deaths:
                chunk.composer.compose_ahead(chunk.rest)
            # With a connection at hand: a worker that dies while it waits for one does not die of this mail.
            elif self._relay(endpoint).reach():
                # Workers died before they could say a word about this mail. Should it kill this one, its row shows it.
                self._begin(mail, None)()
        try:
            return chunk.composer.compose(mail)
        except Exception as error:
            if is_passing(error):
                # The database went away over an attachment: no death, and to be taken back while we know the token.
                self._ledger.release([Release(mail.id, mail.token, self._policy.base, relay=mail.relay)])
            raise

    def _converse(self, chunk: _Chunk, endpoint: Endpoint, data: bytes) -> Report:
        mail = chunk.rest[0]
        deadline = time.monotonic() + self._settings.outbox_lease_seconds - self._settings.smtp_dot_timeout
        recipient, data = fence.redirected(self._settings, mail.recipient, data)

        def begin() -> Callable[[], None]:
            wait = self._begin(mail, endpoint.name)

            def wait_until_durable() -> None:
                wait()
                chunk.recording.finish()

            return wait_until_durable

        following = partial(self._following, chunk, endpoint)
        report = self._relay(endpoint).send(mail.sender, recipient, data, begin, deadline, following)
        return self._gate.relays.weigh(endpoint, report)

    def _following(self, chunk: _Chunk, endpoint: Endpoint) -> Envelope | None:
        """The mail behind the chunk's next, if it is to go through the same relay at once.

        What else becomes of it is found out when it is its turn, and so is what is wrong with it.
        """
        if len(chunk.rest) == 1 or self._stopping.is_set() or endpoint.rate or endpoint.domain_rate:
            return None  # a rate counts who asks, and may have him wait
        mail = chunk.rest[1]
        try:
            if not chunk.composer.has(mail) or self._gate.check(mail, chunk.token, 0) != endpoint:
                return None
            recipient, data = fence.redirected(self._settings, mail.recipient, chunk.composer.compose(mail))
        except Exception:  # noqa: BLE001 - whatever it is, the mail in hand has been begun, and must not suffer from it
            return None
        return Envelope.of(mail.sender, recipient, data) if f"{mail.sender}{recipient}".isprintable() else None

    def _begin(self, mail: Mail, relay: str | None) -> Callable[[], None]:
        own_token = mail.next_token = f"{mail.token.partition('.')[0]}.{self._name}{next(self._numbers):x}"
        wait = self._ledger.begin(Begin(mail.id, mail.token, own_token, relay))

        def wait_until_durable() -> None:
            wait()
            mail.token = own_token

        return wait_until_durable

    def _settle(self, mail: Mail, endpoint: Endpoint, report: Report, seconds: float, recording: Recording) -> Status:
        spread = random.uniform(-1, 1)  # noqa: S311 - against a stampede, not an adversary
        verdict = retry.decide(report.outcome, mail.standing, self._policy, spread, report.dead_reason)
        attempt = Attempt.of(mail.id, mail.number, report, seconds, endpoint.name, self._worker)
        # Where all mail is redirected, the relay spoke of that one address.
        suppress = report.suppress and not self._settings.outbox_redirect_to
        settlement = Settlement.of(
            mail.token, verdict, attempt, relay=mail.relay, suppress=suppress, sensitive=mail.sensitive
        )
        recording.enter(mail, settlement, report.marks)
        if report.outcome is not Outcome.SENT:
            recording.finish()  # what follows from it for the relay is told to the others, and must not come first
        return verdict.status

    def _relay(self, endpoint: Endpoint) -> Relay:
        key = (threading.get_ident(), endpoint.name)
        if key not in self._relays:
            self._relays[key] = self._open_relay(endpoint, self._settings)
        return self._relays[key]


def _end(mail: Mail, end: End, recording: Recording) -> Status:
    """Without a conversation."""
    settlement = Settlement(
        mail.id,
        mail.token,
        end.status,
        dead_reason=end.dead_reason,
        last_error=end.why,
        relay=mail.relay,
        sensitive=mail.sensitive,
    )
    recording.enter(mail, settlement)
    recording.finish()
    return end.status
