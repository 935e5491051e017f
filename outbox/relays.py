"""What a process knows of its relays: which one takes the next mail, and what each conversation says about it.

It reads `email_relays` with every chunk, and writes to it only when there is trouble, or when it is over.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import sqlalchemy as sa

from outbox import breaker
from outbox.breaker import Rest, Standing, standings
from outbox.database import reading
from outbox.endpoints import Endpoint
from outbox.logs import tell
from outbox.relay import Report
from outbox.settings import Settings
from outbox.states import Outcome, RelayState, Stage

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""For how long a process believes what it read: so soon all of them know of a pause."""

REFUSED_SENDERS = 3
"""Mails in a row whose sender the relay refuses: then it is not the mails', it is the login's or the relay's fault."""

_LONGEST = 10
_MISCONFIGURED = 15


class Relays:
    """Shared by the threads of a process."""

    def __init__(self, engine: sa.Engine, settings: Settings, worker: str) -> None:
        self._engine = engine
        self._endpoints = settings.endpoints
        self._base = settings.outbox_retry_base_seconds
        self._throttle = settings.throttle_seconds
        self._worker = worker
        self._lock = threading.Lock()
        self._standings: Mapping[str, Standing] = {}
        self._read_at: float | None = None
        self._all_well = False
        self._refused_senders: Counter[str] = Counter()

    def choose(self, token: str, bound: str | None) -> Endpoint | None:
        """The relay for a mail of the claim `token`: the first that is available; None if none is.

        A claim that is a probe tries its relay and no other. `bound`: the one relay that may have had the mail already;
        as a probe of another relay it is of no use, and takes its own way.
        """
        standings = self._current()
        if self._all_well and bound is None:
            return self._endpoints[0]
        allowed = [e for e in self._endpoints if bound in (None, e.name)]
        probed = [e for e in allowed if standings[e.name].probe_token == token]
        return next(iter(probed or [e for e in allowed if standings[e.name].available]), None)

    def why_not(self, name: str) -> tuple[str, float]:
        """Why a relay takes no mail, and seconds until it is worth asking again."""
        standing = self._current()[name]
        seconds = standing.seconds_left if standing.resting else None
        return str(standing), seconds or self._base

    def weigh(self, endpoint: Endpoint, report: Report) -> Report:
        """The report, seen with those before it: the sender of the third mail in a row is not the mail's fault."""
        with self._lock:
            if not report.sender_refused:
                if self._refused_senders and report.stage in {Stage.RCPT, Stage.DATA, Stage.DOT}:
                    del self._refused_senders[endpoint.name]
                return report
            self._refused_senders[endpoint.name] += 1
            if self._refused_senders[endpoint.name] < REFUSED_SENDERS:
                return report
        return replace(report, outcome=Outcome.RELAY_MISCONFIGURED)

    def learn(self, endpoint: Endpoint, report: Report, token: str) -> None:
        """What a conversation says about its relay."""
        code = "" if report.code is None else f"{report.code} "
        said = f"{report.stage}: {code}{report.reply}"
        down = Rest(RelayState.OPEN, said, self._base, self._base * _LONGEST)
        match report.outcome:
            case Outcome.RELAY_DOWN:
                self._rest(endpoint, down, token)
            case Outcome.RELAY_MISCONFIGURED:
                seconds = self._base * _MISCONFIGURED
                self._rest(endpoint, Rest(RelayState.OPEN, said, seconds, seconds, latched=True), token)
            case Outcome.THROTTLED if not report.of_a_domain:
                self._rest(endpoint, down._replace(state=RelayState.CLOSED, base=self._throttle), token)
            case Outcome.REJECTED if report.code is None:
                pass  # it was not asked: what it does not offer to one mail says nothing about the others
            case _ if report.code is None and self.is_probe(token, endpoint):
                # It got in and was left without an answer. Tried again at once, each mail would pay for it.
                self._rest(endpoint, down, token)
            case _:
                self._recover(endpoint, token, answered=report.code is not None)

    def rest(self, endpoint: Endpoint, seconds: float, why: str, token: str) -> None:
        """Leave a relay alone for a while, although nothing is wrong with it."""
        self._rest(endpoint, Rest(RelayState.CLOSED, why, seconds, seconds), token)

    def is_probe(self, token: str, endpoint: Endpoint) -> bool:
        """Whether the claim's one mail is to try this relay."""
        standing = self._standings.get(endpoint.name)
        return standing is not None and standing.probe_token == token

    def give_probe_back(self, token: str) -> None:
        """If this claim was a probe that learned nothing, another may try at once."""
        if any(self.is_probe(token, endpoint) for endpoint in self._endpoints):
            with self._engine.begin() as connection:
                breaker.give_probe_back(connection, token)
                self.look(connection)

    def look(self, connection: sa.Connection) -> None:
        """Read how the relays stand."""
        began = time.monotonic()
        found = standings(connection, self._endpoints)
        with self._lock:
            if self._read_at is None or began > self._read_at:  # a thread that is slow must not bring back the past
                self._standings, self._read_at = found, began
                self._all_well = all(there.available and there.probe_token is None for there in found.values())

    def _current(self) -> Mapping[str, Standing]:
        if self._read_at is None or time.monotonic() - self._read_at > LOOK_SECONDS:
            with reading(self._engine) as connection:
                self.look(connection)
        return self._standings

    def _rest(self, endpoint: Endpoint, rest: Rest, token: str) -> None:
        with self._engine.begin() as connection:
            changed = breaker.rest(connection, endpoint.name, rest, token, self._worker)
            self.look(connection)
        if changed:
            tell(
                log, logging.WARNING, "relay.paused", "relay %(relay)s: no mail goes there for a while: %(why)s",
                relay=endpoint.name, why=rest.reason, latched=rest.latched,
            )  # fmt: skip

    def _recover(self, endpoint: Endpoint, token: str, *, answered: bool) -> None:
        standing = self._standings.get(endpoint.name)
        troubled = standing is not None and (standing.failures or standing.probe_token)
        if not (troubled and answered):
            return
        with self._engine.begin() as connection:
            changed = breaker.recover(connection, endpoint.name, token, self._worker)
            self.look(connection)
        if changed:
            tell(log, logging.INFO, "relay.resumed", "relay %(relay)s: mail goes there again", relay=endpoint.name)
