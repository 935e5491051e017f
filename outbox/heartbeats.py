"""Who lives: workers and beat say so in the database, where every process, page and command can read it.

In the database and not in Redis, since it must be known while Redis is away; and by the database's clock, since only
one clock can tell what is old.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from outbox.database import Statement, Words, insert, utcnow
from outbox.models import EmailHeartbeat

EVERY_SECONDS = 30.0
"""Between two signs of life."""

SILENT_AFTER = 3 * EVERY_SECONDS
"""Seconds after which who said nothing counts as gone: two signs may be missed, as while a database restarts."""

FORGOTTEN_AFTER = 24 * 3600.0
"""Seconds after which a line is not worth showing any more."""

WORKER, BEAT = "worker", "beat"

_ENDED = "ended"


class Sign(NamedTuple):
    """A process, and how long ago it was heard of."""

    name: str
    kind: str
    seconds_ago: float
    detail: dict[str, Any]

    @property
    def silent(self) -> bool:
        """Not heard of for too long."""
        return self.seconds_ago > SILENT_AFTER


def _read(sql: Words) -> str:
    return (
        f"SELECT name, kind, {sql.seconds_since('at')} AS seconds_ago, detail FROM email_heartbeats ORDER BY kind, name"
    )


def _forget(sql: Words) -> str:
    return f"DELETE FROM email_heartbeats WHERE at < {sql.after(f'-{FORGOTTEN_AFTER}')}"


_READ = Statement(_read, detail=sa.JSON)
_FORGET = Statement(_forget)


def give(connection: sa.Connection, kind: str, name: str, **detail: Any) -> None:
    """Say that this process lives."""
    line = insert(EmailHeartbeat, connection).values(name=name, kind=kind, detail=detail)
    again = {"at": utcnow(), "kind": line.excluded.kind, "detail": line.excluded.detail}
    connection.execute(line.on_conflict_do_update(index_elements=["name"], set_=again))
    _FORGET(connection)


def take_back(connection: sa.Connection, name: str) -> None:
    """Say that this process ends, as it was asked to: nobody need look for it."""
    last = {"at": utcnow(), "detail": {_ENDED: True}}
    connection.execute(sa.update(EmailHeartbeat).where(EmailHeartbeat.name == name).values(last))


def signs(connection: sa.Connection, kind: str | None = None) -> Sequence[Sign]:
    """All that were heard of lately, the silent among them, and did not say that they end."""
    return [sign for sign in _all(connection) if kind in (None, sign.kind) and _ENDED not in sign.detail]


def ends(connection: sa.Connection) -> dict[str, float]:
    """Seconds since the last of a kind ended as it was asked to: it may be on its way back, with a new version."""
    ended = [sign for sign in _all(connection) if _ENDED in sign.detail]
    return {kind: min(s.seconds_ago for s in ended if s.kind == kind) for kind in {sign.kind for sign in ended}}


def _all(connection: sa.Connection) -> list[Sign]:
    return [Sign(**row._mapping) for row in _READ(connection)]  # noqa: SLF001 - its public name
