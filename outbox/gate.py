"""What stands between a claimed mail and the relay: may it go, through which relay, and if not, why and until when."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from outbox import fence, subscriptions, suppressions
from outbox.chunk import Mail
from outbox.endpoints import Endpoint
from outbox.rates import Rates
from outbox.relay import Report
from outbox.relays import Relays
from outbox.settings import Settings
from outbox.states import DeadReason, Outcome, Status
from outbox.superseding import SUPERSEDED

FENCE_SECONDS = 900
"""How long a mail waits whose recipient may not be written to, or whose key is missing: what changes that is a setting,
and so a restart."""

PATIENCE = 5.0
"""Seconds that a conversation waits for its turn at the relay's rate. What takes longer waits in the table."""


LAST_TURN = 600.0
"""Seconds over which the mails of a domain that has to wait are spread: then the next round begins."""

APART = 0.1
"""Seconds between the mails of a domain that the relay wants to have more slowly, without saying how slowly."""


@dataclass(frozen=True, slots=True)
class End:
    """It is not to be sent at all."""

    status: Status
    why: str
    dead_reason: DeadReason | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Not now: the mail goes back for so many seconds, and those behind it need not wait."""

    seconds: float
    why: str


class Shut:
    """No relay takes mail: this one, and all that follow, go back and keep their places."""


class Turns:
    """When the mails of a domain that have to wait come back: one after the other.

    Told the same moment, a whole backlog would come back at once, to be told the next, over and over.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], float] = {}

    def next(self, key: tuple[str, str], seconds: float, apart: float) -> float:
        """Seconds until the turn of one more mail, for which `seconds` is the least, `apart` from the one before."""
        now = time.monotonic()
        first = now + seconds
        turn = max(first, self._last.get(key, 0) + apart)
        if turn > first + LAST_TURN:
            turn = first
        self._last = {other: last for other, last in self._last.items() if last > now} | {key: turn}
        return turn - now


class Gate:
    """One for a process."""

    def __init__(
        self, engine: sa.Engine, settings: Settings, worker: str, rates: Rates, stopping: threading.Event
    ) -> None:
        self.relays = Relays(engine, settings, worker)
        self._settings = settings
        self._rates = rates
        self._stopping = stopping
        self._turns = Turns()
        self._names = {endpoint.name for endpoint in settings.endpoints}

    def prepare(self, connection: sa.Connection, mails: Iterable[Mail]) -> bool:
        """Look at the relays, and note who of a chunk is suppressed. False if the database is not ours to send from."""
        mails = list(mails)
        self.relays.look(connection)  # this claim may be a probe
        questions = [(mail.recipient, subscriptions.declared(self._settings, mail.category)) for mail in mails]
        found = suppressions.find(connection, questions)
        for mail, question in zip(mails, questions, strict=True):
            mail.suppressed = found.get(question)
        return fence.whose(connection, self._settings) is None

    def check(self, mail: Mail, token: str, until: float) -> Endpoint | End | Hold | Shut:
        """`token`: the claim's, which may be a probe. Waits for the relay's rate, not beyond `until`.

        That is a `time.monotonic()`. Each wait is short, but when it is over another may be faster, time and again.
        """
        if end := _stale(mail):
            return end
        if mail.suppressed is not None:
            return End(Status.DEAD, mail.suppressed, DeadReason.SUPPRESSED)
        if why := mail.unreadable or fence.held(self._settings, mail.recipient):
            return Hold(FENCE_SECONDS, why)
        if mail.relay is not None and mail.relay not in self._names:
            return End(
                Status.UNCERTAIN, f"relay {mail.relay} is no longer in the settings, and no other may have this mail"
            )
        return self._find_relay(mail, token, until)

    def learn(self, mail: Mail, endpoint: Endpoint, report: Report, token: str) -> None:
        """What a conversation says about its relay, and about the recipient's domain there."""
        self.relays.learn(endpoint, report, token)
        if report.of_a_domain:
            self._rates.penalise(endpoint, self._domain(mail))
        elif report.outcome is Outcome.SENT:
            self._rates.forgive(endpoint, self._domain(mail))

    def _find_relay(self, mail: Mail, token: str, until: float) -> Endpoint | Hold | Shut:
        while endpoint := self.relays.choose(token, mail.relay):
            wait = self._rates.wait(endpoint, self._domain(mail))
            if wait is None:
                return endpoint
            if wait.domain is not None:
                apart = wait.rate.get_expiry() / wait.rate.amount if wait.rate else APART
                return Hold(self._turns.next((endpoint.name, wait.domain), wait.seconds, apart), wait.why)
            if wait.seconds > PATIENCE and self.relays.is_probe(token, endpoint):
                return Shut()  # the probe goes back, and the relay stays as it was
            if wait.seconds > PATIENCE:
                self.relays.rest(endpoint, wait.seconds, wait.why, token)
            elif time.monotonic() + wait.seconds > until or self._stopping.wait(wait.seconds):
                return Shut()
        if mail.relay is None:
            return Shut()
        why, seconds = self.relays.why_not(mail.relay)
        return Hold(seconds, f"{why}; it may have sent this mail already, so no other relay may")

    def _domain(self, mail: Mail) -> str:
        recipient = self._settings.outbox_redirect_to or mail.recipient
        return recipient.rpartition("@")[2].lower()


def _stale(mail: Mail) -> End | None:
    """It is too late for this mail: cancelled or dead, unless a relay may have sent it before."""
    if mail.expired:
        why, end = "expired", End(Status.DEAD, "expired before its turn came", DeadReason.EXPIRED)
    elif mail.superseded_by is not None:
        why = f"{SUPERSEDED} ({mail.superseded_by})"
        end = End(Status.CANCELLED, why)
    else:
        return None
    return end if mail.relay is None else End(Status.UNCERTAIN, f"{why}, and {mail.relay} may have sent it")
