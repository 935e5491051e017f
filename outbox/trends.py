"""How it went lately, and what hangs where: the figures that people look at as a picture.

As in `stats`, each function is one statement over a partial index. There may be a million mails in a day or in the
backlog, and a picture needs no more than a sample of them: each is bounded, and says when it met its bound.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from outbox.database import Statement, Words
from outbox.states import Priority

LONGEST_LOOK = 200_000
"""Mails that `finished` reads at most: beyond them a picture of the day would cost more than a second."""

SAMPLE = 10_000
"""Mails whose time `delays` looks at."""

FIRST = 3_000
"""Mails of each lane whose domain `shape` looks at: those that are about to go, or should have gone long ago."""

AGES = (60, 300, 900, 3600, 4 * 3600, 24 * 3600)
"""Seconds: the bounds between the columns of `shape`. Mail is late within minutes, so they begin there."""


@dataclass(slots=True)
class Step:
    """What happened in a minute, a quarter of an hour."""

    sent: int = 0
    dead: int = 0
    not_now: int = 0
    """Tries that did not end well and will be repeated, for whatever reason."""


class Course(NamedTuple):
    """Steps of equal length up to now, oldest first. `complete`: False if there was more than we read."""

    steps: Sequence[Step]
    complete: bool


class Delays(NamedTuple):
    """Seconds from when a mail could first be tried until the relay's 250, of the newest `sample` of the hour."""

    p50: float | None
    p95: float | None
    p99: float | None
    sample: int


class Shape(NamedTuple):
    """Waiting mail by recipient domain and age, the largest domain first: what Postfix' qshape shows.

    A line has a number for each span between `AGES`, youngest first. `complete`: False if only the first `FIRST` of a
    lane were looked at, in the order in which they go.
    """

    lines: Sequence[tuple[str, Sequence[int]]]
    complete: bool


def _finished(sql: Words) -> str:
    # The inner query is an index's range, newest first, so that the bound keeps what is newest.
    return f"""
SELECT CAST({sql.seconds_since("finalized_at")} AS integer) / :seconds AS step, status, count(*) AS mails
  FROM (SELECT finalized_at, status FROM email_queue
         WHERE status IN ('sent', 'dead', 'cancelled') AND finalized_at > {sql.after("-:span")}
         ORDER BY finalized_at DESC LIMIT :most) AS newest
 GROUP BY step, status"""


def _not_now(sql: Words) -> str:
    return f"""
SELECT CAST({sql.seconds_since("finished_at")} AS integer) / :seconds AS step, count(*) AS tries
  FROM (SELECT finished_at FROM email_attempts
         WHERE outcome <> 'sent' AND outcome <> 'rejected' AND finished_at > {sql.after("-:span")}
         ORDER BY finished_at DESC LIMIT :most) AS newest
 GROUP BY step"""


def _delays(sql: Words) -> str:
    first = "CASE WHEN scheduled_at > created_at THEN scheduled_at ELSE created_at END"
    return f"""
SELECT {sql.seconds_since(first)} - {sql.seconds_since("sent_at")} AS seconds
  FROM email_queue
 WHERE status IN ('sent', 'dead', 'cancelled') AND status = 'sent' AND finalized_at > {sql.after("-3600")}
 ORDER BY finalized_at DESC LIMIT :sample"""


def _shape(sql: Words) -> str:
    lanes = "\n UNION ALL ".join(
        f"""SELECT * FROM (SELECT recipient, created_at, scheduled_at, priority FROM email_queue
         WHERE status = 'pending' AND priority = {lane:d} ORDER BY next_attempt_at, id LIMIT :first) AS {lane.label}"""
        for lane in Priority
    )
    age = sql.seconds_since("CASE WHEN scheduled_at > created_at THEN scheduled_at ELSE created_at END")
    column = " ".join(f"WHEN age < {bound} THEN {number}" for number, bound in enumerate(AGES))
    # What stands behind the last @, in words that both databases know: all that is no @ is trimmed off the end.
    domain = "lower(substr(recipient, length(rtrim(recipient, replace(recipient, '@', ''))) + 1))"
    return f"""
SELECT domain, priority, CASE WHEN age < 0 THEN -1 {column} ELSE {len(AGES)} END AS place, count(*) AS mails
  FROM (SELECT {domain} AS domain, priority, {age} AS age FROM ({lanes}) AS waiting) AS aged
 GROUP BY domain, priority, place"""


_FINISHED = Statement(_finished)
_NOT_NOW = Statement(_not_now)
_DELAYS = Statement(_delays)
_SHAPE = Statement(_shape)


def course(connection: sa.Connection, seconds: int, steps: int) -> Course:
    """What happened in the last `steps` times `seconds`.

    Cost: two statements; that part of `ix_email_queue_final` and of `ix_email_attempts_unsent`, at most `LONGEST_LOOK`
    rows of each.
    """
    found = [Step() for _ in range(steps)]
    bounds = {"seconds": seconds, "span": seconds * steps, "most": LONGEST_LOOK}
    read = tries = 0
    for row in _FINISHED(connection, **bounds):
        step = found[_place(row.step, steps)]
        read += row.mails
        if row.status == "sent":
            step.sent += row.mails
        elif row.status == "dead":
            step.dead += row.mails
    for row in _NOT_NOW(connection, **bounds):
        found[_place(row.step, steps)].not_now += row.tries
        tries += row.tries
    return Course(found[::-1], complete=max(read, tries) < LONGEST_LOOK)


def _place(step: int, steps: int) -> int:
    """A clock that was set back leaves times that are still to come: those are of the newest step."""
    return min(max(step, 0), steps - 1)


def delays(connection: sa.Connection) -> Delays:
    """Cost: at most `SAMPLE` rows of `ix_email_queue_final`, the newest."""
    seconds = sorted(_DELAYS(connection, sample=SAMPLE).scalars())

    def percentile(percent: int) -> float | None:
        """The nearest rank: a time that a mail really took."""
        return max(0.0, seconds[math.ceil(len(seconds) * percent / 100) - 1]) if seconds else None

    return Delays(percentile(50), percentile(95), percentile(99), len(seconds))


def shape(connection: sa.Connection) -> Shape:
    """Cost: at most `FIRST` rows of each lane, by `ix_email_queue_due`. What is planned for later is left out."""
    domains: dict[str, Counter[int]] = defaultdict(Counter)
    seen = Counter[int]()
    for row in _SHAPE(connection, first=FIRST):
        seen[row.priority] += row.mails
        if row.place >= 0:
            domains[row.domain][row.place] += row.mails
    largest = sorted(domains.items(), key=lambda line: (-line[1].total(), line[0]))
    lines = [(domain, [counts[place] for place in range(len(AGES) + 1)]) for domain, counts in largest]
    return Shape(lines, complete=all(mails < FIRST for mails in seen.values()))
