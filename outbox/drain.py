"""Due rows -> claimed chunks, published.

What publishes is the caller's: Celery in the workers, a plain call in `outbox drain`.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable

import sqlalchemy as sa

from outbox import breaker, claims, fence, signals
from outbox.claims import Claim, Release
from outbox.database import by_index, reading
from outbox.errors import NotRecorded
from outbox.logs import tell
from outbox.settings import Settings
from outbox.states import Priority, RelayState

log = logging.getLogger(__name__)

Publish = Callable[[Priority, list[int], str], None]
"""`publish(priority, ids, token)`: have these rows delivered, by whomever, soon."""

CLAIM_LEASE = 120.0
"""Seconds that a claimed row waits for its task, and a chunk may take. `begin` gives a mail `OUTBOX_LEASE_SECONDS`; so
long nothing that was only claimed need wait when Redis forgets its task."""


def drain(engine: sa.Engine, settings: Settings, worker: str, publish: Publish) -> int:
    """Claim what is due, chunk by chunk, and publish it. Returns the number of rows.

    Nothing is claimed while no relay takes mail, or while the database's mail is not ours to send (`obstacle` says so);
    but a relay whose pause is over gets one mail to try. At most `OUTBOX_IN_FLIGHT` rows of each lane are claimed or
    sending at a time (a few more when two drains count at once): the rest waits in the table, where it can be
    cancelled, rather than in a broker. If `publish` fails, the claim is released at once and the error raised.
    """
    began = time.monotonic()
    published: Counter[Priority] = Counter()

    def counted(priority: Priority, ids: list[int], token: str) -> None:
        publish(priority, ids, token)
        published[priority] += len(ids)

    try:
        _drain(engine, settings, worker, counted)
    finally:
        signals.announce(signals.drained, None, rows=published, seconds=time.monotonic() - began)
    return published.total()


def _drain(engine: sa.Engine, settings: Settings, worker: str, publish: Publish) -> None:
    with reading(engine) as connection:
        lanes = claims.due_lanes(connection)
        if not lanes:
            return
        by_index(connection)
        busy = claims.in_flight(connection)
        relays = breaker.standings(connection, settings.endpoints).values()
        unowned = fence.owner(connection) is None
        why = fence.whose(connection, settings)
    if unowned:
        with engine.begin() as connection:
            fence.take_unowned(connection, settings, worker)
            why = fence.whose(connection, settings)
    if why:
        tell(log, logging.ERROR, "drain.held", "drain: %(why)s", why=why)
        return
    for relay in relays:
        if relay.wants_probe:
            # The lane with the most patience; but who serves it may be why nothing was heard of a probe before.
            lane = max(lanes) if relay.state is RelayState.OPEN else min(lanes)
            _probe(engine, settings, worker, publish, relay.name, lane)
    if not any(relay.available for relay in relays):
        return
    room = {lane: settings.outbox_in_flight - busy[lane] if lane in lanes else 0 for lane in Priority}
    while any(left > 0 for left in room.values()):
        quotas = {lane: max(0, min(left, settings.outbox_chunk)) for lane, left in room.items()}
        with engine.begin() as connection:
            by_index(connection)
            claim = claims.claim(connection, quotas, worker, _claim_lease(settings))
        _publish(engine, claim, publish)
        for lane, ids in claim.ids.items():
            room[lane] = room[lane] - len(ids) if len(ids) == quotas[lane] else 0


def is_due(engine: sa.Engine) -> bool:
    """Whether any mail waits for nothing but a worker."""
    with reading(engine) as connection:
        return bool(claims.due_lanes(connection))


def obstacle(engine: sa.Engine, settings: Settings) -> str | None:
    """Why nothing is sent at all, in a sentence; None if nothing stands in the way."""
    with reading(engine) as connection:
        if why := fence.whose(connection, settings):
            return why
        relays = breaker.standings(connection, settings.endpoints).values()
    if any(relay.available for relay in relays):
        return None
    return f"no relay takes mail: {'; '.join(str(relay) for relay in relays)}"


def next_look(engine: sa.Engine, settings: Settings) -> float | None:
    """Seconds until a drain would find something to do: 0 if it would now; None if nobody can tell.

    A lane counts when less than half of what may be in flight is: a drain for each chunk would be too many.
    """
    with reading(engine) as connection:
        first_due = claims.first_due(connection)
        if not first_due or fence.whose(connection, settings):
            return None
        by_index(connection)
        busy = claims.in_flight(connection)
        relays = breaker.standings(connection, settings.endpoints).values()
    low = [seconds for lane, seconds in first_due.items() if busy[lane] <= settings.outbox_in_flight / 2]
    open_in = [relay.seconds_left or 0 for relay in relays if relay.state is not RelayState.PAUSED]
    return max(0, min(low), min(open_in)) if low and open_in else None


def _claim_lease(settings: Settings) -> float:
    return min(CLAIM_LEASE, settings.outbox_lease_seconds)


def _probe(  # noqa: PLR0917
    engine: sa.Engine, settings: Settings, worker: str, publish: Publish, relay: str, lane: Priority
) -> None:
    """Have one mail of the lane try a relay. Of two drains at once, one does it."""
    quotas = {priority: int(priority is lane) for priority in Priority}
    with engine.begin() as connection, connection.begin_nested() as claiming:
        by_index(connection)
        claim = claims.claim(connection, quotas, worker, _claim_lease(settings))
        if not claim.ids[lane] or not breaker.take_probe(connection, relay, claim.token, _claim_lease(settings)):
            claiming.rollback()
            return
    sentence = "drain: mail %(mail_id)d tries the relay %(relay)s"
    tell(log, logging.INFO, "relay.probed", sentence, mail_id=claim.ids[lane][0], relay=relay)
    _publish(engine, claim, publish)


def _publish(engine: sa.Engine, claim: Claim, publish: Publish) -> None:
    waiting = {lane: list(ids) for lane, ids in claim.ids.items() if ids}
    try:
        for lane in list(waiting):
            publish(lane, waiting[lane], claim.token)
            del waiting[lane]
    except NotRecorded:
        # Delivered by this very process, which has waited for the database long enough: the lease will end.
        waiting.clear()
        raise
    finally:
        if waiting:
            with engine.begin() as connection:
                claims.release(connection, [Release(id_, claim.token) for ids in waiting.values() for id_ in ids])
