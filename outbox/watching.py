"""What is wrong right now, in sentences for whoever runs it: with the mail, its relays, its workers and beat."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from outbox import breaker, claims, disks, fence, heartbeats, stats
from outbox.breaker import Standing
from outbox.database import utcnow
from outbox.heartbeats import BEAT, WORKER, Sign
from outbox.settings import Settings
from outbox.states import RelayState
from outbox.times import duration

LATE_DRAINS = 5
"""Periods of the drain for which the first due mail may have waited. Within two it should be on its way."""

MISSED_DRAINS = 2
"""Periods of the drain after which mail that anybody could take should have been taken."""

MOURNED_SECONDS = 3600.0
"""For so long a worker that died counts as a trouble. What it held came back long before; it may have a successor."""

NO_ROOM = "room"
WITHOUT_ROOM = (
    "the database has no room on its disk ({}): no new mail can be queued, and what waits may not go; make room there"
)


class Trouble(NamedTuple):
    """One thing that is wrong."""

    key: str
    """The same as long as it lasts, whatever its figures: `oldest due`, `dead`, `uncertain`, `relay mx.example:25`."""
    sentence: str


def troubles(connection: sa.Connection, settings: Settings, *, missed: bool = True) -> list[Trouble]:
    """All that is wrong, as the database knows it; but for who is `missed`, if it is too early to say."""
    signs = heartbeats.signs(connection)
    relays = list(breaker.standings(connection, settings.endpoints).values())
    return [
        *_late(connection, settings),
        *_failed(connection, settings),
        *(Trouble(f"relay {relay.name}", _relay(relay)) for relay in relays if relay.state is not RelayState.CLOSED),
        *(_silent(signs, heartbeats.ends(connection)) if missed else ()),
        *_of_hosts(signs),
        *_untaken(connection, settings, signs, relays),
        *_without_room(connection),
    ]


def oldest_due(connection: sa.Connection) -> float:
    """Seconds for which the first due mail of any priority has waited; 0 if none is due."""
    return max((-seconds for seconds in claims.first_due(connection).values() if seconds < 0), default=0.0)


def late_after(settings: Settings) -> float:
    """Seconds from which on a due mail counts as late."""
    return settings.outbox_alert_late_seconds or LATE_DRAINS * settings.outbox_drain_seconds


def _late(connection: sa.Connection, settings: Settings) -> Iterator[Trouble]:
    waited = oldest_due(connection)
    if waited > late_after(settings):
        yield Trouble("oldest due", f"the oldest due mail has waited for {duration(waited)}")


def _failed(connection: sa.Connection, settings: Settings) -> Iterator[Trouble]:
    lately = stats.failed_lately(connection)
    if lately.dead >= settings.outbox_alert_dead:
        yield Trouble("dead", f"{_mails(lately.dead)} died within the hour: see `outbox list --status dead`")
    if lately.uncertain >= settings.outbox_alert_uncertain:
        yield Trouble(
            "uncertain",
            f"{_mails(lately.uncertain)} became uncertain within the hour: a person decides, see "
            "`outbox list --status uncertain`",
        )


def _relay(relay: Standing) -> str:
    if relay.state is RelayState.PAUSED:
        return f"relay {relay}: `outbox resume {relay.name}` when it may have mail again"
    if relay.latched:
        return f"relay {relay}: mend the settings or the relay, then `outbox resume {relay.name}`"
    return f"relay {relay}"


def _silent(signs: Sequence[Sign], ends: Mapping[str, float]) -> Iterator[Trouble]:
    beats = [sign for sign in signs if sign.kind == BEAT]
    if _nobody(beats, ends.get(BEAT)):
        last = _last_word(beats, ends.get(BEAT))
        yield Trouble(BEAT, f"beat {last}: nothing starts the drain, the reaper and the reports; start it")
    workers = [sign for sign in signs if sign.kind == WORKER]
    if _nobody(workers, ends.get(WORKER)):
        last = _last_word(workers, ends.get(WORKER))
        yield Trouble("workers", f"no worker lives, the last one {last}: nothing is sent; start one")
        return
    for sign in workers:
        if sign.silent and sign.seconds_ago < MOURNED_SECONDS:
            said = f"worker {sign.name} {_last_word([sign])}: it died or hangs; what it held comes back by itself"
            yield Trouble(f"worker {sign.name}", said)


def _nobody(signs: Sequence[Sign], ended: float | None) -> bool:
    """Whether none lives. The time that a silence takes is also there for one that is stopped, and comes back."""
    return all(sign.silent for sign in signs) and (ended is None or ended > heartbeats.SILENT_AFTER)


def _last_word(signs: Sequence[Sign], ended: float | None = None) -> str:
    heard = min((sign.seconds_ago for sign in signs), default=None)
    if ended is not None and (heard is None or ended < heard):
        return f"was stopped {duration(ended)} ago"
    return "was not heard of for a day" if heard is None else f"has said nothing for {duration(heard)}"


def _of_hosts(signs: Sequence[Sign]) -> Iterator[Trouble]:
    """What only the processes of a host can see there, and said with their sign of life."""
    living = [sign for sign in signs if not sign.silent]
    for host in sorted({_host(sign) for sign in living if sign.detail.get("journal")}):
        yield Trouble(
            f"journal {host}",
            f"the journal on {host} holds what the database was not told: the next reap there brings it; if this "
            "lasts, see that worker's log",
        )
    disks = {_host(sign): sign.detail["disk"] for sign in living if sign.detail.get("disk")}
    for host, said in sorted(disks.items()):
        yield Trouble(f"disk {host}", f"a disk of {host} is nearly full, {said}: make room")


def _untaken(
    connection: sa.Connection, settings: Settings, signs: Sequence[Sign], relays: Sequence[Standing]
) -> Iterator[Trouble]:
    """Mail that nothing keeps from going, and that no drain takes.

    A drain fills the lanes up to `OUTBOX_IN_FLIGHT`. So where mail has been due for two of its periods and half of that
    room is free, none has run, or it found nothing; unless there was nobody to start or to run it, or no relay to send
    through. Those are troubles of their own.
    """
    patience = MISSED_DRAINS * settings.outbox_drain_seconds
    now: datetime = connection.execute(sa.select(utcnow())).scalar_one()
    ready = {sign.kind for sign in signs if not sign.silent and _age(sign) > patience}
    if not {WORKER, BEAT} <= ready:
        return
    if not any(_open_for(relay, now) > patience for relay in relays) or fence.whose(connection, settings):
        return
    busy = claims.in_flight(connection)
    waited = [
        -seconds
        for lane, seconds in claims.first_due(connection).items()
        if -seconds > patience and busy[lane] <= settings.outbox_in_flight / 2
    ]
    if waited:
        yield Trouble(
            "drain",
            f"mail has been due for {duration(max(waited))}, workers live and a relay takes mail, but no drain takes "
            "it: does beat's `outbox.drain` reach a worker of the queue `celery`? Until then, `outbox drain` sends it",
        )


def _without_room(connection: sa.Connection) -> Iterator[Trouble]:
    if words := disks.full(connection):
        yield Trouble(NO_ROOM, WITHOUT_ROOM.format(words))


def _host(sign: Sign) -> str:
    return sign.name.rpartition("@")[2].partition(":")[0]  # of `host:pid` and `beat@host`


def _age(sign: Sign) -> float:
    age: float = sign.detail.get("up_seconds", 0.0)
    return age


def _open_for(relay: Standing, now: datetime) -> float:
    """Seconds for which mail could have gone there."""
    if not relay.available:
        return 0.0
    since = (now - relay.changed_at).total_seconds() if relay.changed_at else float("inf")
    return min(since, -relay.seconds_left if relay.seconds_left is not None else since)


def _mails(number: int) -> str:
    return f"{number:,} mail{'' if number == 1 else 's'}"
