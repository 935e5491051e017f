"""Whether mail may go to a relay: a circuit breaker for each, in `email_relays`, shared by all workers.

    closed --down, misconfigured--> open --paused_until--> half_open --its one mail was answered--> closed
      |  ^                           ^                         |
      |  +-- `paused_until`          +-- the mail found it down, got no answer, or was never heard of again
      +-- throttled: closed, but resting until `paused_until`
    paused by a person: nothing changes that but a person

Pauses double while nothing goes well between them. They are multiples of `OUTBOX_RETRY_BASE_SECONDS` (60): a relay that
is down rests 1, 2, 4, 8 and then always 10 of them; one that does not take our settings 15, for waiting does not mend
those; one that wants less of us a sixth, doubling up to 10.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa

from outbox.database import Statement, UtcDateTime, Words, reading
from outbox.endpoints import Endpoint
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
_THROTTLED = 1 / 6


@dataclass(frozen=True, slots=True)
class Standing:
    """A line of `email_relays`. `seconds_left`: until `paused_until`, by the database's clock."""

    name: str
    state: RelayState = RelayState.CLOSED
    reason: str | None = None
    latched: bool = False
    failures: int = 0
    seconds_left: float | None = None
    probe_token: str | None = None
    changed_at: datetime | None = None
    changed_by: str | None = None

    def __str__(self) -> str:
        """`mx.example:25 is down (connect: refused)`."""
        if self.state is RelayState.PAUSED:
            how = f"was paused by {self.changed_by}"
        elif self.state is RelayState.CLOSED:
            how = "rests" if self.resting else "takes mail"
        else:
            how = "is misconfigured" if self.latched else "is down"
        return f"{self.name} {how}" + (f" ({self.reason})" if self.reason else "")

    @property
    def resting(self) -> bool:
        """Waits for its time, in whatever state."""
        return self.seconds_left is not None and self.seconds_left > 0

    @property
    def available(self) -> bool:
        """Mail may go there."""
        return self.state is RelayState.CLOSED and not self.resting

    @property
    def wants_probe(self) -> bool:
        """Its pause is over, or the mail that was to try was never heard of again."""
        return self.state in {RelayState.OPEN, RelayState.HALF_OPEN} and not self.resting


def _standings(sql: Words) -> str:
    return f"""
SELECT name, state, reason, latched, failures, -({sql.seconds_since("paused_until")}) AS seconds_left, probe_token,
       changed_at, changed_by
  FROM email_relays"""


def _pause_for(sql: Words) -> str:
    # Only one of the many conversations that meet the same trouble at once changes the row: whoever comes first.
    seconds = ":base * CASE WHEN email_relays.failures < 6 THEN 1 << email_relays.failures ELSE 64 END"
    return f"""
INSERT INTO email_relays (name, state, reason, latched, failures, paused_until, changed_at, changed_by)
VALUES (:name, :state, :reason, CAST(:latched AS boolean), 1, {sql.after(":base")}, {sql.now}, :worker)
ON CONFLICT (name) DO UPDATE
   SET state = excluded.state, reason = excluded.reason, latched = excluded.latched,
       failures = email_relays.failures + 1, probe_token = NULL,
       paused_until = {sql.after(f"CASE WHEN {seconds} > :most THEN :most ELSE {seconds} END")},
       changed_at = excluded.changed_at, changed_by = excluded.changed_by
 WHERE (email_relays.state = 'closed' AND (email_relays.paused_until IS NULL OR email_relays.paused_until <= {sql.now}))
    OR (email_relays.state IN ('closed', 'open') AND excluded.latched AND NOT email_relays.latched)
    OR (email_relays.state = 'half_open' AND email_relays.probe_token = :token)
RETURNING name"""


def _take_probe(sql: Words) -> str:
    return f"""
UPDATE email_relays SET state = 'half_open', probe_token = :token, paused_until = {sql.after(":lease")}
 WHERE name = :name AND state IN ('open', 'half_open') AND paused_until <= {sql.now}
RETURNING name"""


def _give_probe_back(sql: Words) -> str:
    return f"""
UPDATE email_relays SET state = 'open', probe_token = NULL, paused_until = {sql.now}
 WHERE state = 'half_open' AND probe_token = :token"""


def _recover(sql: Words) -> str:
    return f"""
UPDATE email_relays
   SET state = 'closed', reason = NULL, latched = CAST(0 AS boolean), failures = 0, paused_until = NULL,
       probe_token = NULL, changed_at = {sql.now}, changed_by = :worker
 WHERE name = :name AND ((state = 'half_open' AND probe_token = :token)
    OR (state = 'closed' AND failures > 0 AND (paused_until IS NULL OR paused_until <= {sql.now})))
RETURNING name"""


def _pause(sql: Words) -> str:
    return f"""
INSERT INTO email_relays (name, state, reason, latched, failures, changed_at, changed_by)
VALUES (:name, 'paused', :reason, CAST(0 AS boolean), 0, {sql.now}, :who)
ON CONFLICT (name) DO UPDATE
   SET state = 'paused', reason = excluded.reason, latched = excluded.latched, failures = 0, paused_until = NULL,
       probe_token = NULL, changed_at = excluded.changed_at, changed_by = excluded.changed_by"""


def _resume(sql: Words) -> str:
    return f"""
UPDATE email_relays
   SET state = 'closed', reason = NULL, latched = CAST(0 AS boolean), failures = 0, paused_until = NULL,
       probe_token = NULL, changed_at = {sql.now}, changed_by = :who
 WHERE name = :name AND (state <> 'closed' OR paused_until > {sql.now})
RETURNING name"""


_STANDINGS = Statement(_standings, latched=sa.Boolean(), changed_at=UtcDateTime())
_PAUSE_FOR = Statement(_pause_for)
_TAKE_PROBE = Statement(_take_probe)
_GIVE_PROBE_BACK = Statement(_give_probe_back)
_RECOVER = Statement(_recover)
_PAUSE = Statement(_pause)
_RESUME = Statement(_resume)


def standings(connection: sa.Connection, endpoints: Sequence[Endpoint]) -> dict[str, Standing]:
    """How each relay of the settings stands, by name, in their order. One that never had trouble has no row."""
    found = {row.name: Standing(**row._mapping) for row in _STANDINGS(connection)}  # noqa: SLF001 - its public name
    return {
        endpoint.name: replace(there, state=RelayState(there.state))
        if (there := found.get(endpoint.name))
        else Standing(endpoint.name)
        for endpoint in endpoints
    }


def take_probe(connection: sa.Connection, name: str, token: str, lease: float) -> bool:
    """open -> half_open: the claim `token` may try the relay. For `lease` seconds; then another may."""
    return _TAKE_PROBE(connection, name=name, token=token, lease=lease).first() is not None


def pause(connection: sa.Connection, name: str, reason: str, who: str) -> None:
    """Nothing goes to this relay until a person resumes it."""
    _PAUSE(connection, name=name, reason=reason, who=who)


def resume(connection: sa.Connection, name: str, who: str) -> bool:
    """Whatever held it back, mail may go to this relay again. False if nothing did."""
    return _RESUME(connection, name=name, who=who).first() is not None


class Breaker:
    """What a process knows of its relays, and what it learns. Shared by its threads."""

    def __init__(self, engine: sa.Engine, settings: Settings, worker: str) -> None:
        self._engine = engine
        self._endpoints = settings.endpoints
        self._base = settings.outbox_retry_base_seconds
        self._worker = worker
        self._lock = threading.Lock()
        self._standings: Mapping[str, Standing] = {}
        self._read_at: float | None = None
        self._refused_senders: Counter[str] = Counter()

    def choose(self, token: str, bound: str | None) -> Endpoint | None:
        """The relay for a mail of the claim `token`: the first that is available; None if none is.

        A claim that is a probe tries its relay and no other. `bound`: the one relay that may have had the mail already;
        as a probe of another relay it is of no use, and takes its own way.
        """
        standings = self._current()
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
        said = f"{report.stage}: {report.reply}"
        match report.outcome:
            case Outcome.RELAY_DOWN:
                self._rest(endpoint, RelayState.OPEN, said, token, self._base, self._base * _LONGEST)
            case Outcome.RELAY_MISCONFIGURED:
                seconds = self._base * _MISCONFIGURED
                self._rest(endpoint, RelayState.OPEN, said, token, seconds, seconds, latched=True)
            case Outcome.THROTTLED if not report.of_a_domain:
                self._rest(endpoint, RelayState.CLOSED, said, token, self._base * _THROTTLED, self._base * _LONGEST)
            case _ if report.code is None and self._is_probe(token, endpoint.name):
                # It got in and was left without an answer. Tried again at once, each mail would pay for it.
                self._rest(endpoint, RelayState.OPEN, said, token, self._base, self._base * _LONGEST)
            case _:
                self._recover(endpoint, token, answered=report.code is not None)

    def rest(self, endpoint: Endpoint, seconds: float, why: str, token: str) -> None:
        """Leave a relay alone for a while, although nothing is wrong with it."""
        self._rest(endpoint, RelayState.CLOSED, why, token, seconds, seconds)

    def give_probe_back(self, token: str) -> None:
        """If this claim was a probe that learned nothing, another may try at once."""
        if any(standing.probe_token == token for standing in self._standings.values()):
            with self._engine.begin() as connection:
                _GIVE_PROBE_BACK(connection, token=token)
                self.look(connection)

    def look(self, connection: sa.Connection) -> None:
        """Read how the relays stand."""
        self._standings = standings(connection, self._endpoints)
        self._read_at = time.monotonic()

    def _is_probe(self, token: str, name: str) -> bool:
        standing = self._standings.get(name)
        return standing is not None and standing.probe_token == token

    def _current(self) -> Mapping[str, Standing]:
        if self._read_at is None or time.monotonic() - self._read_at > LOOK_SECONDS:
            with reading(self._engine) as connection:
                self.look(connection)
        return self._standings

    def _rest(  # noqa: PLR0917
        self,
        endpoint: Endpoint,
        state: RelayState,
        reason: str,
        token: str,
        base: float,
        most: float,
        *,
        latched: bool = False,
    ) -> None:
        with self._engine.begin() as connection:
            changed = _PAUSE_FOR(
                connection, name=endpoint.name, state=state, reason=reason, latched=latched, token=token,
                base=base, most=most, worker=self._worker,
            ).first()  # fmt: skip
            self.look(connection)
        if changed:
            log.warning("relay %s: no mail goes there for a while: %s", endpoint.name, reason)

    def _recover(self, endpoint: Endpoint, token: str, *, answered: bool) -> None:
        standing = self._standings.get(endpoint.name)
        troubled = standing is not None and (standing.failures or standing.probe_token)
        if not (troubled and answered):
            return
        with self._engine.begin() as connection:
            changed = _RECOVER(connection, name=endpoint.name, token=token, worker=self._worker).first()
            self.look(connection)
        if changed:
            log.info("relay %s: mail goes there again", endpoint.name)
