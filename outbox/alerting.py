"""Tells of a trouble once when it begins, and once when it is over: in the log, and to `OUTBOX_ALERT_WEBHOOK`.

What has been told stands in `email_troubles`, so that any process may watch, and none tells what another has told:

    no line --found--> began_at --the webhook took it--> told_at --not found--> ended_at --told as over--> no line
                                                            ^                      |
                                                            +--- found again ------+  within ENDS_AFTER: not told

A webhook that is away hears of it at a later watch: then what is still to be told goes in one request. One that took
the request while we died over writing that down hears of it twice.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
import urllib3
from pydantic import SecretStr

from outbox import watching, webhooks
from outbox.database import Statement, UtcDateTime, Words, insert, reading, utcnow
from outbox.logs import tell
from outbox.models import EmailTrouble
from outbox.settings import Settings
from outbox.watching import Trouble

log = logging.getLogger(__name__)

ENDS_AFTER = 120.0
"""Seconds for which a trouble must not be found before it is over: one that comes and goes is told of once."""

GAP = 180.0
"""Seconds without any watch after which everything was down, or the database away: then whoever lives has until the
next watch to say so, and nobody is missed before."""

_AT_ONCE = 50
"""Troubles that one request tells of, which is far more than anybody reads; the rest goes with the next watch."""


_TIMEOUT = urllib3.Timeout(connect=3.0, read=5.0)
"""Seconds. Who takes alerts answers in one."""


class AlertWebhook:
    """Where alerts go; nowhere, without a `url`."""

    def __init__(self, url: SecretStr | None) -> None:
        self._url = url
        self._pool = urllib3.PoolManager(num_pools=1, timeout=_TIMEOUT)
        self._failing = False

    def post(self, said: dict[str, Any]) -> bool:
        """Whether it is told; there being nobody to tell counts. That it cannot be is logged until it can, once."""
        if self._url is None:
            return True
        problem = webhooks.post(self._pool, "the alert webhook", self._url, json.dumps(said).encode())
        if problem and not self._failing:
            tell(log, logging.ERROR, "alert.failed", "%(why)s; it is tried again", why=problem)
        elif not problem and self._failing:
            tell(log, logging.INFO, "alert.works", "the alert webhook takes alerts again")
        self._failing = problem is not None
        return problem is None


class _Line(NamedTuple):
    key: str
    sentence: str
    began_at: Any
    over: bool


def _take_turn(sql: Words) -> str:
    return f"""
INSERT INTO email_cursors (name, position, moved_at) VALUES ('watch', '{{}}', {sql.now})
ON CONFLICT (name) DO UPDATE SET moved_at = excluded.moved_at WHERE email_cursors.moved_at < {sql.after("-:seconds")}
RETURNING name"""


def _since_the_last(sql: Words) -> str:
    return f"SELECT {sql.seconds_since('moved_at')} FROM email_cursors WHERE name = 'watch'"


def _untold(sql: Words) -> str:
    return f"""
SELECT key, sentence, began_at, ended_at IS NOT NULL AS over FROM email_troubles
 WHERE (told_at IS NULL AND ended_at IS NULL) OR ended_at < {sql.after("-:quiet")}
 ORDER BY began_at, key LIMIT {_AT_ONCE}"""


_TAKE_TURN = Statement(_take_turn)
_SINCE_THE_LAST = Statement(_since_the_last)
_UNTOLD = Statement(_untold, began_at=UtcDateTime(), over=sa.Boolean())


def watch(
    engine: sa.Engine, settings: Settings, webhook: AlertWebhook, also: Sequence[Trouble] = (), *, unless_within: float
) -> list[Trouble]:
    """Look, and tell what is new. Returns all that is wrong.

    `also`: what the caller knows and the database does not. Whoever comes within `unless_within` seconds of another's
    watch only looks. Raises what the database raises.
    """
    with engine.begin() as connection:
        since = since_the_last(connection)
        is_ours = _TAKE_TURN(connection, seconds=unless_within).first() is not None
    with reading(engine) as connection:
        missed = since is not None and since < GAP
        found = [*watching.troubles(connection, settings, missed=missed), *also]
    if is_ours:
        with engine.begin() as connection:
            # A table that is told of want of room may have none for it: each process tells that by itself.
            _note(connection, [trouble for trouble in found if trouble.key != watching.NO_ROOM])
            lines = [
                _Line(row.key, row.sentence, row.began_at, row.over) for row in _UNTOLD(connection, quiet=ENDS_AFTER)
            ]
            if over := [line.key for line in lines if line.over]:
                # Who hears now that it is over must hear of it if it is back before that could be written down.
                connection.execute(sa.update(EmailTrouble).where(EmailTrouble.key.in_(over)).values(told_at=None))
        if lines and webhook.post(_said(lines, settings)):
            with engine.begin() as connection:
                _note_told(connection, lines)
    return found


def since_the_last(connection: sa.Connection) -> float | None:
    """Seconds since anybody watched; None before the first time."""
    return _SINCE_THE_LAST(connection).scalar()


def _note(connection: sa.Connection, found: Sequence[Trouble]) -> None:
    """Bring the table to what was found."""
    known = {row.key: row for row in connection.execute(sa.select(EmailTrouble.__table__))}
    for trouble in found:
        there = known.pop(trouble.key, None)
        if there is None:
            line = insert(EmailTrouble, connection).values(key=trouble.key, sentence=trouble.sentence)
            connection.execute(line.on_conflict_do_nothing())
            tell(log, logging.WARNING, "watch.trouble", "watch: %(why)s", trouble=trouble.key, why=trouble.sentence)
        elif there.ended_at is not None or there.sentence != trouble.sentence:
            values = {"ended_at": None, "sentence": trouble.sentence}
            connection.execute(sa.update(EmailTrouble).where(EmailTrouble.key == trouble.key).values(values))
    gone = [row.key for row in known.values() if row.ended_at is None]
    if gone:
        connection.execute(sa.update(EmailTrouble).where(EmailTrouble.key.in_(gone)).values(ended_at=utcnow()))


def _note_told(connection: sa.Connection, lines: Sequence[_Line]) -> None:
    begun = [line.key for line in lines if not line.over]
    connection.execute(sa.update(EmailTrouble).where(EmailTrouble.key.in_(begun)).values(told_at=utcnow()))
    for line in lines:
        if line.over:
            # Found again while it was told that it is over: then the line stays, and that is told, too.
            still_over = sa.delete(EmailTrouble).where(EmailTrouble.key == line.key, EmailTrouble.ended_at.is_not(None))
            connection.execute(still_over)
            tell(log, logging.INFO, "watch.over", "watch: over: %(why)s", trouble=line.key, why=line.sentence)


def _said(lines: Sequence[_Line], settings: Settings) -> dict[str, Any]:
    """For programs, and as `text` for what shows it to people: Slack, Mattermost and their like."""
    where = settings.outbox_environment
    text = "\n".join(f"{'Over' if line.over else 'Trouble'} ({where}): {line.sentence}" for line in lines)
    return {
        "text": text,
        "environment": where,
        "troubles": [
            {
                "key": line.key,
                "sentence": line.sentence,
                "began_at": line.began_at.isoformat(),
                "status": "over" if line.over else "begun",
            }
            for line in lines
        ],
    }
