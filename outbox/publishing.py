"""Events, to the program at `OUTBOX_EVENT_WEBHOOK`: at least once, in order, and in nobody's way.

The cursor (`email_cursors`) moves when the receiver has said 2xx. Whoever dies between the two leaves the batch to be
told again, under the same ids. One publisher sends at a time, for whom the cursor is leased; no transaction is open
while it waits for the receiver. One that does not answer is left alone, for longer each time: what happens meanwhile
stays where it is, in the tables, until `OUTBOX_RETENTION_DAYS`.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
import urllib3

from outbox import events, standard_webhooks, webhooks
from outbox.database import insert, reading, utcnow
from outbox.errors import SettingsError
from outbox.events import Event
from outbox.models import EmailCursor
from outbox.settings import Settings

CURSOR = "events"

RUN_SECONDS = 45.0
"""After which a run leaves the rest to the next: a backlog of days must not keep one thread for hours."""

_TIMEOUT = urllib3.Timeout(connect=5.0, read=15.0)
"""Seconds, the usual of webhooks. A receiver puts the events aside and answers; what it does with them is for later."""

_LEASE = timedelta(seconds=60)
"""Longer than the receiver may take. Who dies with it delays the next publisher by as much."""

_FIRST_PAUSE, _LONGEST_PAUSE = 15.0, 600.0
"""Seconds for which a receiver that fails is left alone; they double."""

_GONE = 410


class Published(NamedTuple):
    """What a run came to."""

    events: int
    problem: str | None = None
    """Why it ended before there was nothing more to tell."""
    tried: bool = True
    """False: another publisher is at it, or the receiver is left alone for now."""


class Standing(NamedTuple):
    """How far the events have been told."""

    told_until: datetime | None
    """None: nothing has been published from this database yet."""
    waiting_since: datetime | None
    """The time of the first that the receiver does not know; None: it knows all."""
    failures: int
    """In a row."""
    problem: str | None
    retry_at: datetime | None


def publish(engine: sa.Engine, settings: Settings, seconds: float = RUN_SECONDS) -> Published:
    """Tell what is to be told; for at most so long. The first run of all begins with what happens from then on."""
    if settings.outbox_event_webhook is None:
        raise SettingsError("OUTBOX_EVENT_WEBHOOK is empty: it names who takes the events")
    holder = secrets.token_hex(8)
    until = time.monotonic() + seconds
    state = _take(engine, holder)
    if "events" not in state:
        return Published(0, state["problem"], tried=False)
    told, problem = 0, None
    with urllib3.PoolManager(num_pools=1, timeout=_TIMEOUT) as pool:
        while problem is None and time.monotonic() < until:
            batch, reached = events.read(engine, state["events"], events.BATCH)
            if batch and (problem := _post(pool, settings, batch)):
                _rest(engine, holder, state, problem)
                break
            state |= {"events": reached, "failures": 0, "problem": None, "retry_at": None}
            if not _store(engine, holder, state, lease=_LEASE):
                return Published(told, "another publisher has taken over")
            told += len(batch)
            if len(batch) < events.BATCH:
                break
    if problem is None:
        _store(engine, holder, state)
    return Published(told, problem)


def standing(engine: sa.Engine) -> Standing:
    """What the cursor says, and what lies behind it."""
    with reading(engine) as connection:
        state = connection.scalar(sa.select(EmailCursor.position).where(EmailCursor.name == CURSOR))
    if state is None:
        return Standing(None, None, 0, None, None)
    told_until = min(datetime.fromisoformat(key[0]) for key in state["events"].values())
    waiting, _ = events.read(engine, state["events"], limit=1)
    since = waiting[0].at if waiting else None
    return Standing(told_until, since, state["failures"], state["problem"], _time(state["retry_at"]))


def _take(engine: sa.Engine, holder: str) -> dict[str, Any]:
    """The cursor, for us; without `events` in it, why not."""
    start = events.beginning(events.horizon(engine))
    new = {"events": start, "failures": 0, "problem": None, "retry_at": None, "holder": None, "leased_until": None}
    with engine.begin() as connection:
        connection.execute(insert(EmailCursor, connection).values(name=CURSOR, position=new).on_conflict_do_nothing())
        state, now = _locked(connection)
        if (leased := _time(state["leased_until"])) and leased > now:
            return {"problem": "another publisher is at it"}
        if (retry_at := _time(state["retry_at"])) and retry_at > now:
            return {"problem": f"{state['problem']}; tried again at {retry_at.astimezone():%H:%M:%S}"}
        _write(connection, state, holder, now + _LEASE)
    return state


def _store(engine: sa.Engine, holder: str, state: dict[str, Any], lease: timedelta | None = None) -> bool:
    """Move the cursor, if it still is ours; without `lease`, let go of it. Whether it was."""
    with engine.begin() as connection:
        now_there, now = _locked(connection)
        if now_there["holder"] != holder:
            return False
        _write(connection, state, holder if lease else None, now + lease if lease else None)
    return True


def _rest(engine: sa.Engine, holder: str, state: dict[str, Any], problem: str) -> None:
    """Let go of the cursor, where it is, and leave the receiver alone: by the clock that everybody goes by."""
    failures = state["failures"] + 1
    gone = problem.endswith(str(_GONE))
    pause = _LONGEST_PAUSE if gone else min(_FIRST_PAUSE * 2 ** min(failures - 1, 10), _LONGEST_PAUSE)
    with engine.begin() as connection:
        there, now = _locked(connection)
        if there["holder"] == holder:
            retry_at = (now + timedelta(seconds=pause)).isoformat()
            _write(connection, state | {"failures": failures, "problem": problem, "retry_at": retry_at}, None, None)


def _locked(connection: sa.Connection) -> tuple[dict[str, Any], datetime]:
    c = EmailCursor
    query = sa.select(c.position, utcnow()).where(c.name == CURSOR).with_for_update(of=c)
    state, now = connection.execute(query).one()
    return state, now


def _write(connection: sa.Connection, state: dict[str, Any], holder: str | None, until: datetime | None) -> None:
    position = state | {"holder": holder, "leased_until": until and until.isoformat()}
    connection.execute(
        sa.update(EmailCursor).where(EmailCursor.name == CURSOR).values(position=position, moved_at=utcnow())
    )


def _time(stored: str | None) -> datetime | None:
    return datetime.fromisoformat(stored) if stored else None


def _post(pool: urllib3.PoolManager, settings: Settings, batch: Sequence[Event]) -> str | None:
    """Why the receiver does not have them; None: it does."""
    assert settings.outbox_event_webhook is not None
    assert settings.outbox_event_secret is not None
    body = json.dumps(_message(batch), separators=(",", ":")).encode()
    id_ = "msg_" + hashlib.sha256("\n".join(event.id for event in batch).encode()).hexdigest()[:32]
    signed = standard_webhooks.headers(settings.outbox_event_secret.get_secret_value(), id_, int(time.time()), body)
    return webhooks.post(pool, "the event webhook", settings.outbox_event_webhook, body, signed)


def _message(batch: Sequence[Event]) -> dict[str, Any]:
    return {
        "type": "email.events",
        "timestamp": batch[-1].at.astimezone(UTC).isoformat(),
        "data": {
            "events": [
                {"id": event.id, "type": event.type, "timestamp": event.at.astimezone(UTC).isoformat()} | event.data
                for event in batch
            ]
        },
    }
