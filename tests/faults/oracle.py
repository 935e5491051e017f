"""The oracle: what was committed, what the relay took, what the rows say. Do they agree?

It reads nothing of what a worker believes. The test's own list says what was committed, with a recipient of its own for
each mail; the relay's log, written before the relay answers, says what was accepted.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from outbox.database import reading
from outbox.models import EmailAttempt, QueuedEmail
from outbox.states import FINAL, Outcome, Status
from tests.smtp_script import Mail

_AT_REST = {*FINAL, Status.UNCERTAIN}

_SHOWN = 10
"""Of each kind of trouble: enough to begin with."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the oracle found. `lost` and `unexplained` are sentences; each is a broken promise."""

    mails: int
    accepted: int
    statuses: Counter[str]
    lost: list[str]
    doubled: set[str]
    """Recipients with more than one copy."""
    uncertain: int
    """Attempts on record of which it was not known what became of them."""
    unexplained: list[str]
    """Copies beyond the one that `sent` stands for, and beyond the attempts that are on record as uncertain."""

    @property
    def holds(self) -> bool:
        """Nothing lost, and no duplicate but those on record."""
        return not self.lost and not self.unexplained

    def __str__(self) -> str:
        """A report for people."""
        statuses = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
        duplicates = f"{len(self.doubled)} duplicates, {len(self.unexplained)} of them unexplained"
        lines = [
            f"{self.mails} mails committed, {self.accepted} accepted: {statuses}",
            f"{len(self.lost)} lost, {duplicates}, {self.uncertain} attempts on record as uncertain",
            *(f"  {sentence}" for trouble in (self.lost, self.unexplained) for sentence in trouble[:_SHOWN]),
        ]
        return "\n".join(lines)


def at_rest(engine: sa.Engine) -> bool:
    """Whether all mail has come to its end, or waits for a person."""
    with reading(engine) as connection:
        return set(connection.scalars(sa.select(QueuedEmail.status).distinct())) <= _AT_REST


def judge(engine: sa.Engine, committed: Collection[str], accepted: Iterable[Mail]) -> Verdict:
    """Compare. `committed`: the recipient of every mail whose commit is known to have succeeded."""
    copies = Counter(mail.recipient for mail in accepted)
    rows = {row.recipient: row for row in _rows(engine)}
    assert len(committed) == len(set(committed)), "each mail needs a recipient of its own"
    lost = [f"{recipient}: committed, and there is no row" for recipient in committed if recipient not in rows]
    lost += [f"{recipient}: accepted, and there is no row" for recipient in copies if recipient not in rows]
    lost += [f"{row.recipient}: still {row.status}" for row in rows.values() if row.status not in _AT_REST]
    lost += [
        f"{row.recipient}: sent, and never accepted"
        for row in rows.values()
        if row.status == Status.SENT and not copies[row.recipient]
    ]
    return Verdict(
        mails=len(committed),
        accepted=copies.total(),
        statuses=Counter(" ".join(filter(None, (row.status, row.dead_reason))) for row in rows.values()),
        lost=lost,
        doubled={recipient for recipient, count in copies.items() if count > 1},
        uncertain=sum(row.uncertain for row in rows.values()),
        unexplained=[
            f"{row.recipient}: {copies[row.recipient]} copies, {row.status}, uncertain attempts: {row.uncertain}"
            for row in rows.values()
            if copies[row.recipient] - (row.status == Status.SENT) > row.uncertain
        ],
    )


def _rows(engine: sa.Engine) -> Sequence[sa.Row[*tuple[Any, ...]]]:
    uncertain = sa.func.count(EmailAttempt.number).filter(EmailAttempt.outcome == Outcome.UNCERTAIN)
    query = (
        sa.select(QueuedEmail.recipient, QueuedEmail.status, QueuedEmail.dead_reason, uncertain.label("uncertain"))
        .outerjoin(EmailAttempt)
        .group_by(QueuedEmail.id)
    )
    with reading(engine) as connection:
        return connection.execute(query).all()
