"""What stands between a claimed mail and the relay: may it go, through which relay, and if not, why and until when."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from outbox import fence, suppressions
from outbox.breaker import Breaker
from outbox.chunk import Mail
from outbox.endpoints import Endpoint
from outbox.rates import Rates
from outbox.relay import Report
from outbox.settings import Settings
from outbox.states import DeadReason, Outcome, Status

FENCE_SECONDS = 900
"""How long a mail waits whose recipient may not be written to: what changes that is a setting, and so a restart."""

PATIENCE = 5.0
"""Seconds that a conversation waits for its turn at the relay's rate. What takes longer waits in the table."""


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


class Gate:
    """One for a process."""

    def __init__(
        self, engine: sa.Engine, settings: Settings, worker: str, rates: Rates, stopping: threading.Event
    ) -> None:
        self.breaker = Breaker(engine, settings, worker)
        self._settings = settings
        self._rates = rates
        self._stopping = stopping
        self._names = {endpoint.name for endpoint in settings.endpoints}

    def prepare(self, connection: sa.Connection, mails: Iterable[Mail]) -> bool:
        """Look at the relays, and note who of a chunk is suppressed. False if the database is not ours to send from."""
        mails = list(mails)
        self.breaker.look(connection)  # this claim may be a probe
        found = suppressions.find(connection, {mail.recipient for mail in mails})
        for mail in mails:
            mail.suppressed = found.get(mail.recipient)
        return fence.whose(connection, self._settings) is None

    def check(self, mail: Mail, token: str) -> Endpoint | End | Hold | Shut:
        """`token`: the claim's, which may be a probe. Waits, for a few seconds, for the relay's rate."""
        if mail.expired:
            return End(Status.DEAD, "expired before its turn came", DeadReason.EXPIRED)
        if mail.suppressed is not None:
            return End(Status.DEAD, mail.suppressed, DeadReason.SUPPRESSED)
        if why := fence.held(self._settings, mail.recipient):
            return Hold(FENCE_SECONDS, why)
        if mail.relay is not None and mail.relay not in self._names:
            return End(
                Status.UNCERTAIN, f"relay {mail.relay} is no longer in the settings, and no other may have this mail"
            )
        return self._find_relay(mail, token)

    def learn(self, mail: Mail, endpoint: Endpoint, report: Report, token: str) -> None:
        """What a conversation says about its relay, and about the recipient's domain there."""
        self.breaker.learn(endpoint, report, token)
        if report.of_a_domain:
            self._rates.penalise(endpoint, self._domain(mail))
        elif report.outcome is Outcome.SENT:
            self._rates.forgive(endpoint, self._domain(mail))

    def _find_relay(self, mail: Mail, token: str) -> Endpoint | Hold | Shut:
        while endpoint := self.breaker.choose(token, mail.relay):
            wait = self._rates.wait(endpoint, self._domain(mail))
            if wait is None:
                return endpoint
            if wait.domain is not None:
                return Hold(wait.seconds, wait.why)
            if wait.seconds > PATIENCE:
                self.breaker.rest(endpoint, wait.seconds, wait.why, token)
            elif self._stopping.wait(wait.seconds):
                return Shut()
        if mail.relay is None:
            return Shut()
        why, seconds = self.breaker.why_not(mail.relay)
        return Hold(seconds, f"{why}; it may have sent this mail already, so no other relay may")

    def _domain(self, mail: Mail) -> str:
        recipient = self._settings.outbox_redirect_to or mail.recipient
        return recipient.rpartition("@")[2].lower()
