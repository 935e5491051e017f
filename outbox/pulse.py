"""What became of mails within the last two minutes, in steps of three seconds: what a person watches live.

Of one size however old the queue is: the entries of two partial indexes for those two minutes.
"""

from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa

from outbox.database import PostgreSQL, Statement, Words

STEP = 3
"""Seconds."""

STEPS = 40


@dataclass(frozen=True, slots=True)
class Pulse:
    """The last `STEP * STEPS` seconds."""

    sent: tuple[int, ...]
    """Mails in each step, the oldest first."""
    ended: dict[str, int]
    """Mails by what they ended as: `sent`, `dead`, `cancelled`."""
    unsent: dict[str, int]
    """Attempts that failed, by their outcome."""

    @property
    def rate(self) -> float:
        """Mails sent a second, over the last four steps: one alone jumps."""
        return sum(self.sent[-4:]) / (4 * STEP)


def _ended(sql: Words) -> str:
    whole = " - 0.5" if sql is PostgreSQL else ""  # it rounds where SQLite cuts off
    step = f"CAST({sql.seconds_since('finalized_at')} / {STEP}{whole} AS integer)"
    return f"""
SELECT {step} AS step, status AS became, count(*) AS number
  FROM email_queue
 WHERE status IN ('sent', 'dead', 'cancelled') AND finalized_at > {sql.after(f"-{STEP * STEPS}")} GROUP BY 1, 2"""


def _unsent(sql: Words) -> str:
    return f"""
SELECT outcome AS became, count(*) AS number FROM email_attempts
 WHERE outcome <> 'sent' AND finished_at > {sql.after(f"-{STEP * STEPS}")} GROUP BY 1"""


_ENDED = Statement(_ended)
_UNSENT = Statement(_unsent)


def take(connection: sa.Connection) -> Pulse:
    """Now."""
    sent, ended = [0] * STEPS, Counter[str]()
    for row in _ENDED(connection):
        ended[row.became] += row.number
        if row.became == "sent":
            sent[min(max(row.step, 0), STEPS - 1)] += row.number
    unsent = {row.became: row.number for row in _UNSENT(connection)}
    return Pulse(tuple(reversed(sent)), dict(ended), unsent)
