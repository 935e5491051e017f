"""What an application needs to be well: each checked for itself, and said in a sentence. They change nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import psutil
import redis
import sqlalchemy as sa
from celery import Celery
from kombu.exceptions import KombuError

from app.settings import AppSettings
from outbox import breaker, disks, heartbeats, schema
from outbox.database import reading
from outbox.heartbeats import BEAT, WORKER, Sign
from outbox.journal import Journal
from outbox.models import EmailTrouble
from outbox.states import RelayState
from outbox.times import duration
from outbox.watching import late_after, oldest_due

HEADS = (schema.HEAD, "a002")
"""The newest migrations, of the library and of this application. A test holds them to the files."""

BROKER_SECONDS = 5
"""That the broker may take to answer."""

LEAST_MEMORY = 0.05
"""Share that must be available: below, the kernel begins to look for a process to end."""


class Finding(NamedTuple):
    """What a check found. `data`: the figures behind what is said."""

    healthy: bool
    said: str
    data: dict[str, Any] = {}  # noqa: RUF012 - nobody writes to it

    def as_json(self) -> dict[str, Any]:
        """`{"healthy": true, "said": "...", ...}`."""
        return {"healthy": self.healthy, "said": self.said} | self.data


def every(parts: Mapping[str, Any]) -> dict[str, Finding]:
    """All checks, of the parts in `app.extensions`. Where the database does not answer, nobody waits for it twice."""
    settings = parts["settings"]
    of_database = _ask(parts["engine"], settings, _OF_DATABASE)
    return of_database | {
        "broker": broker(parts["celery"]),
        "journal": _journal(settings),
        "disk": _disk(settings),
        "memory": _memory(),
    }


def ready(parts: Mapping[str, Any]) -> dict[str, Finding]:
    """What it takes to answer a request."""
    return _ask(parts["engine"], parts["settings"], {}) | {"broker": broker(parts["celery"])}


def broker(celery: Celery) -> Finding:
    """Whether Redis, or what stands in its place, answers."""
    try:
        with celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=BROKER_SECONDS)
            connection.channel().close()  # asks it something
    except (redis.RedisError, KombuError, OSError) as error:
        return Finding(healthy=False, said=_away(error))
    return Finding(healthy=True, said="answers")


_Check = Callable[[sa.Connection, AppSettings], Finding]


def _ask(engine: sa.Engine, settings: AppSettings, checks: dict[str, _Check]) -> dict[str, Finding]:
    found: dict[str, Finding] = {}
    try:
        with reading(engine) as connection:
            found["database"] = _database(connection)
            if found["database"].healthy:
                found |= {name: check(connection, settings) for name, check in checks.items()}
    except sa.exc.SQLAlchemyError as error:
        found["database"] = Finding(healthy=False, said=_away(error))
    unknown = Finding(healthy=False, said="is not known: the database cannot say")
    return {name: found.get(name, unknown) for name in ("database", *checks)}


def _away(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error  # without the statement
    return f"does not answer: {str(cause).strip().partition(chr(10))[0].removesuffix('.')}"


def _database(connection: sa.Connection) -> Finding:
    lacking = schema.lacking(connection, HEADS)
    if lacking:
        return Finding(healthy=False, said=f"lacks migrations ({', '.join(lacking)}): {schema.REMEDY}")
    return Finding(healthy=True, said="answers, and is at the head of its migrations")


def _workers(connection: sa.Connection, _: AppSettings) -> Finding:
    signs = heartbeats.signs(connection, WORKER)
    living = [sign for sign in signs if not sign.silent]
    active = sum(sign.detail.get("active", 0) for sign in living)
    data = {"active_tasks": active, "workers": [_told(sign) for sign in signs]}
    if not living:
        return Finding(healthy=False, said=f"none lives{_last(signs)}: start one", data=data)
    said = (
        f"{len(living)} {'lives' if len(living) == 1 else 'live'}, {active} {'task' if active == 1 else 'tasks'} active"
    )
    return Finding(healthy=True, said=said, data=data)


def _told(sign: Sign) -> dict[str, Any]:
    shown = ("queues", "concurrency", "active", "up_seconds")
    detail = {name: sign.detail.get(name) for name in shown}
    return {"name": sign.name, "seconds_ago": round(sign.seconds_ago, 1), "silent": sign.silent} | detail


def _beat(connection: sa.Connection, _: AppSettings) -> Finding:
    signs = heartbeats.signs(connection, BEAT)
    ago = min((sign.seconds_ago for sign in signs), default=None)
    data = {"seconds_ago": None if ago is None else round(ago, 1)}
    if all(sign.silent for sign in signs):
        return Finding(healthy=False, said=f"says nothing{_last(signs)}: start it", data=data)
    return Finding(healthy=True, said=f"ticks, {duration(ago or 0)} ago", data=data)


def _last(signs: Sequence[Sign]) -> str:
    ago = min((sign.seconds_ago for sign in signs), default=None)
    return ", and was not heard of for a day" if ago is None else f", and was last heard of {duration(ago)} ago"


def _oldest_due(connection: sa.Connection, settings: AppSettings) -> Finding:
    waited = oldest_due(connection)
    data = {"seconds": round(waited, 1)}
    said = f"the oldest due mail has waited for {duration(waited)}" if waited else "no mail is due"
    if waited > late_after(settings):
        return Finding(healthy=False, said=f"{said}: see `outbox stats` and `outbox relays`", data=data)
    return Finding(healthy=True, said=said, data=data)


def _relays(connection: sa.Connection, settings: AppSettings) -> Finding:
    relays = list(breaker.standings(connection, settings.endpoints).values())
    data = {
        "relays": [
            {"name": r.name, "state": r.state, "latched": r.latched, "takes_mail": r.available, "reason": r.reason}
            for r in relays
        ]
    }
    # One that rests wants less of us for a while, and gets it.
    takes_mail = any(relay.state is RelayState.CLOSED for relay in relays)
    return Finding(takes_mail, "; ".join(map(str, relays)), data)


def _troubles(connection: sa.Connection, _: AppSettings) -> Finding:
    query = sa.select(EmailTrouble).where(EmailTrouble.ended_at.is_(None)).order_by(EmailTrouble.began_at)
    rows = connection.execute(query).all()
    lines = [{"key": row.key, "sentence": row.sentence, "since": row.began_at.isoformat()} for row in rows]
    said = "; ".join(row.sentence for row in rows) or "none that the watch knows of"
    return Finding(not rows, said, {"troubles": lines})


def _room(connection: sa.Connection, _: AppSettings) -> Finding:
    full = disks.full(connection)
    return Finding(healthy=False, said=f"is full: {full}") if full else Finding(healthy=True, said="takes more")


_OF_DATABASE: dict[str, _Check] = {
    "database_disk": _room,
    "workers": _workers,
    "beat": _beat,
    "oldest_due": _oldest_due,
    "relays": _relays,
    "troubles": _troubles,
}


def _journal(settings: AppSettings) -> Finding:
    journal = Journal(settings.outbox_journal)
    if journal.exists:
        return Finding(
            healthy=False,
            said=f"{journal.path} holds what the database was not told yet: the next reap brings it there",
        )
    return Finding(healthy=True, said="is empty")


def _disk(settings: AppSettings) -> Finding:
    found = disks.look([*disks.written_to(settings), settings.files_dir])
    full = [disk for disk in found if disk.nearly_full]
    data = {"disks": [{"path": str(disk.path), "free": disk.free, "total": disk.total} for disk in found]}
    if full:
        return Finding(healthy=False, said=f"nearly full: {'; '.join(map(str, full))}", data=data)
    return Finding(healthy=True, said="; ".join(map(str, found)), data=data)


def _memory() -> Finding:
    """Of the machine; a container's own bound is its platform's to watch."""
    memory = psutil.virtual_memory()
    ours = psutil.Process().memory_info().rss
    said = (
        f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available; this process has {ours / 1e6:,.0f} MB"
    )
    data = {"available": memory.available, "total": memory.total, "process": ours}
    return Finding(memory.available >= LEAST_MEMORY * memory.total, said, data)
