"""Rows whose lease ran out -> back to the queue, or to their end."""

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from outbox import claims, retry, signals, wiping
from outbox.chunk import standing
from outbox.database import by_index, reading
from outbox.journal import Journal
from outbox.logs import tell
from outbox.settings import Settings
from outbox.settlement import Attempt, Settlement, settle
from outbox.states import Outcome, Stage
from outbox.writer import is_refused

log = logging.getLogger(__name__)

REAP_BATCH = 500
"""Rows in one transaction of the reaper: short enough that nobody waits for its locks."""


def reap(engine: sa.Engine, settings: Settings) -> int:
    """Take back the rows whose lease ran out. Returns their number.

    What was only claimed goes back to `pending`. What was `sending` may have been delivered before its worker died: it
    gets an `uncertain` attempt, and `on_uncertain` decides. First comes what this host knows better: its journal. If
    the database fails in the middle of that, nothing is reaped.
    """
    journal = Journal(settings.outbox_journal)
    if journal.exists:
        journal.replay(engine)
    _wipe_forgotten(engine)
    rows = _return_unbegun(engine) + _settle_lapsed(engine, settings)
    if rows:
        signals.announce(signals.reaped, None, rows=rows)
    return rows


def _wipe_forgotten(engine: sa.Engine) -> None:
    with reading(engine) as connection:
        contents = wiping.forgotten(connection)
    if contents:
        with engine.begin() as connection:
            wiping.wipe_forgotten(connection, contents)


def _return_unbegun(engine: sa.Engine) -> int:
    returned = 0
    while True:
        with engine.begin() as connection:
            by_index(connection)
            batch = len(claims.return_unbegun(connection, REAP_BATCH))
        returned += batch
        if batch < REAP_BATCH:
            return returned


def _settle_lapsed(engine: sa.Engine, settings: Settings) -> int:
    policy = retry.Policy.of(settings)
    settled, last = 0, 0
    while True:
        with engine.begin() as connection:
            by_index(connection)
            rows = claims.find_lapsed_sendings(connection, REAP_BATCH, last)
            settlements = [_post_mortem(row, policy, settings) for row in rows]
            done = _settle_each(connection, settlements, {row.id: row.request_id for row in rows})
        signals.tell_of(engine, done)
        settled += len(done)
        if len(rows) < REAP_BATCH:
            return settled
        last = rows[-1].id  # rows that cannot be settled stay; those behind them have their turn all the same


def _settle_each(
    connection: sa.Connection, settlements: Sequence[Settlement], asked_by: Mapping[int, str | None]
) -> Sequence[Settlement]:
    """All together or, where the database refuses one of them, each by itself. Returns those that are on record."""
    if not settlements:
        return []
    try:
        with connection.begin_nested():
            settle(connection, settlements)
    except sa.exc.DBAPIError as error:
        if not is_refused(error):
            raise
        if len(settlements) > 1:
            return [done for settlement in settlements for done in _settle_each(connection, [settlement], asked_by)]
        id_ = settlements[0].id
        tell(
            log, logging.ERROR, "reap.failed", "reap: mail %(mail_id)d cannot be settled, a person must look: %(why)s",
            mail_id=id_, why=str(error.orig), request_id=asked_by[id_],
        )  # fmt: skip
        return []
    for settlement in settlements:
        tell(
            log, logging.WARNING, "mail.reaped", "reap: mail %(mail_id)d: %(why)s; now %(status)s",
            mail_id=settlement.id, why=settlement.last_error, status=settlement.status,
            request_id=asked_by[settlement.id],
        )  # fmt: skip
    return settlements


def _post_mortem(row: sa.Row[Any], policy: retry.Policy, settings: Settings) -> Settlement:
    spread = random.uniform(-1, 1)  # noqa: S311 - not a secret
    if row.relay is None:
        # Nobody had been spoken to yet, nor is there a doubt from before: `begin` would have left it there.
        outcome, stage, doing = Outcome.DEFERRED, Stage.COMPOSE, "composing this mail"
        verdict = retry.after_death(standing(row), row.compositions, policy, spread)
    else:
        outcome, stage, doing = Outcome.UNCERTAIN, Stage.DOT, "sending"
        verdict = retry.decide(outcome, standing(row), policy, spread)
    attempt = Attempt(
        id=row.id,
        number=row.claims,
        seconds=settings.outbox_lease_seconds + row.overdue,
        outcome=outcome,
        stage=stage,
        code=None,
        reply=f"{row.claimed_by} vanished while it was {doing}",
        relay=row.relay or "",
        worker=row.claimed_by,
    )
    return Settlement.of(row.claim_token, verdict, attempt, sensitive=True)
