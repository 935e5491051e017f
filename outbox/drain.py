"""Due rows -> claimed chunks, published; and leases that ran out -> back.

What publishes is the caller's: Celery in the workers, a plain call in `outbox drain`.
"""

import logging
import random
from collections.abc import Callable

import sqlalchemy as sa

from outbox import claims, retry
from outbox.chunk import standing
from outbox.claims import Claim, Release
from outbox.database import reading
from outbox.settings import Settings
from outbox.settlement import Attempt, Settlement, settle
from outbox.states import Outcome, Priority, Stage

log = logging.getLogger(__name__)

Publish = Callable[[Priority, list[int], str], None]
"""`publish(priority, ids, token)`: have these rows delivered, by whomever, soon."""

REAP_BATCH = 500
"""Rows in one transaction of the reaper: short enough that nobody waits for its locks."""


def drain(engine: sa.Engine, settings: Settings, worker: str, publish: Publish) -> int:
    """Claim what is due, chunk by chunk, and publish it. Returns the number of rows.

    At most `OUTBOX_IN_FLIGHT` rows of each lane are claimed or sending at a time (a few more when two drains count at
    once): the rest waits in the table, where it can be cancelled, rather than in a broker. If `publish` fails, the
    claim is released at once and the error raised.
    """
    with reading(engine) as connection:
        lanes = claims.due_lanes(connection)
        if not lanes:
            return 0
        busy = claims.in_flight(connection)
    room = {lane: settings.outbox_in_flight - busy[lane] if lane in lanes else 0 for lane in Priority}
    published = 0
    while any(left > 0 for left in room.values()):
        quotas = {lane: max(0, min(left, settings.outbox_chunk)) for lane, left in room.items()}
        with engine.begin() as connection:
            claim = claims.claim(connection, quotas, worker, settings.outbox_lease_seconds)
        _publish(engine, claim, publish)
        for lane, ids in claim.ids.items():
            published += len(ids)
            room[lane] = room[lane] - len(ids) if len(ids) == quotas[lane] else 0
    return published


def wants_more(engine: sa.Engine, settings: Settings) -> bool:
    """Whether a lane runs low while more is due in it: then the next drain need not wait for the beat."""
    with reading(engine) as connection:
        lanes = claims.due_lanes(connection)
        if not lanes:
            return False
        busy = claims.in_flight(connection)
    return any(busy[lane] <= settings.outbox_in_flight / 2 for lane in lanes)


def reap(engine: sa.Engine, settings: Settings) -> int:
    """Take back the rows whose lease ran out. Returns their number.

    What was only claimed goes back to `pending`. What was `sending` may have been delivered before its worker died: it
    gets an `uncertain` attempt, and `on_uncertain` decides.
    """
    reaped = 0
    while True:
        with engine.begin() as connection:
            returned = claims.return_unbegun(connection, REAP_BATCH)
        # In a transaction of its own: what cannot be settled must not hold back what was never sent.
        with engine.begin() as connection:
            settled = _settle_lapsed(connection, settings)
        reaped += len(returned) + settled
        if len(returned) < REAP_BATCH and settled < REAP_BATCH:
            return reaped


def _publish(engine: sa.Engine, claim: Claim, publish: Publish) -> None:
    waiting = {lane: list(ids) for lane, ids in claim.ids.items() if ids}
    try:
        for lane in list(waiting):
            publish(lane, waiting[lane], claim.token)
            del waiting[lane]
    finally:
        if waiting:
            with engine.begin() as connection:
                claims.release(connection, [Release(id_, claim.token) for ids in waiting.values() for id_ in ids])


def _settle_lapsed(connection: sa.Connection, settings: Settings) -> int:
    policy = retry.Policy.of(settings)
    settlements = []
    for row in claims.find_lapsed_sendings(connection, REAP_BATCH):
        verdict = retry.decide(Outcome.UNCERTAIN, standing(row), policy, random.uniform(-1, 1))  # noqa: S311
        attempt = Attempt(
            id=row.id,
            number=row.claims,
            seconds=settings.outbox_lease_seconds + row.overdue,
            outcome=Outcome.UNCERTAIN,
            stage=Stage.DOT,
            code=None,
            reply=f"{row.claimed_by} vanished while it was sending",
            relay=settings.endpoints[0].name,
            worker=row.claimed_by,
        )
        log.warning("reap: mail %d: %s; now %s", row.id, attempt.reply, verdict.status)
        settlements.append(Settlement.of(row.claim_token, verdict, attempt))
    if settlements:
        settle(connection, settlements)
    return len(settlements)
