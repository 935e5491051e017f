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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from outbox.database import Statement, UtcDateTime, Words
from outbox.endpoints import Endpoint
from outbox.states import RelayState


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


class Rest(NamedTuple):
    """How long a relay is to be left alone, in seconds: `base`, doubling with each rest in a row up to `most`."""

    state: RelayState  # `open`: one mail tries when it is over; `closed`: all may go then
    reason: str
    base: float
    most: float
    latched: bool = False


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


def give_probe_back(connection: sa.Connection, token: str) -> None:
    """half_open -> open, if it was this claim that should try: it learned nothing, and another may try at once."""
    _GIVE_PROBE_BACK(connection, token=token)


def rest(connection: sa.Connection, name: str, rest: Rest, token: str, worker: str) -> bool:
    """Leave a relay alone. False if somebody else has said so already, or a person has paused it."""
    changed = _PAUSE_FOR(connection, name=name, token=token, worker=worker, **rest._asdict())
    return changed.first() is not None


def recover(connection: sa.Connection, name: str, token: str, worker: str) -> bool:
    """The relay answers: its probe says so or, where it only rested, anybody."""
    return _RECOVER(connection, name=name, token=token, worker=worker).first() is not None


def pause(connection: sa.Connection, name: str, reason: str, who: str) -> None:
    """Nothing goes to this relay until a person resumes it."""
    _PAUSE(connection, name=name, reason=reason, who=who)


def resume(connection: sa.Connection, name: str, who: str) -> bool:
    """Whatever held it back, mail may go to this relay again. False if nothing did."""
    return _RESUME(connection, name=name, who=who).first() is not None
