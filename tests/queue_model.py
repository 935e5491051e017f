"""What must be known of a mail to foretell what the database may answer: who owns it, and what was done under its name.

Not a second queue: it decides nothing. The state machine tells it what was committed, and compares.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from outbox.chunk import Mail
from outbox.claims import Release
from outbox.database import Statement, Words
from outbox.retry import RESENDS
from outbox.settlement import Settlement
from outbox.states import LEASED, MOVES, OnUncertain, Outcome, Status


class Fate(Enum):
    """What became of a transaction, and what its caller heard of it."""

    COMMITTED = "committed"
    FORGOTTEN = "rolled back, and the caller believes that it was committed"
    UNHEARD = "committed, and the caller believes that it failed"
    FAILED = "rolled back, and the caller knows"

    @property
    def kept(self) -> bool:
        """By the database."""
        return self in {Fate.COMMITTED, Fate.UNHEARD}

    @property
    def believed(self) -> bool:
        """By the caller."""
        return self in {Fate.COMMITTED, Fate.FORGOTTEN}


@dataclass(eq=False)
class Token:
    """A worker's belief that a row is in its hands: the chunk's token, or a conversation's own. It may be wrong."""

    text: str
    mail: Mail
    holder: str | None = None
    """The first of the own tokens that were taken from each other. A chunk, which anybody may deliver, has none."""
    relay: str | None = None
    """That is spoken to, and so the dot may follow; None for a chunk, and while the mail is being composed."""
    committed: bool = True
    """Whether the database remembers the begin that it confirmed. If not, nothing can be promised for the dot."""
    end: Settlement | Release | None = None
    """A conversation ends once; what is repeated is its recording."""

    def own(self, relay: str | None, *, committed: bool) -> "Token":
        """What it is exchanged for by a begin."""
        text = uuid4().hex
        to = None if relay is None else self.mail.relay or relay
        return Token(text, self.mail, self.holder or text, to, committed)


@dataclass(eq=False)
class Known:
    """A row, as far as what was committed tells."""

    id: int
    on_uncertain: OnUncertain
    status: Status = Status.PENDING
    claims: int = 0
    owner: Token | None = None
    until: float = 0
    """When the owner's lease is over."""
    doubt: str | None = None
    requeues: int = 0
    tokens: list[Token] = field(default_factory=list)
    """All that were ever believed in, the latest last."""
    accepted: dict[int, Token] = field(default_factory=dict)
    """Conversations that the relay answered with 250, by the number of their claim."""
    corrected: set[int] = field(default_factory=set)
    """Those of them that a journal told of, after the reaper had doubted them."""
    lines: dict[int, Outcome] = field(default_factory=dict)
    """The record: `email_attempts`."""

    def owned_by(self, token: Token) -> set[int]:
        """What a statement under this token must return."""
        return {self.id} if self.owner is not None and self.owner.text == token.text else set()

    def claimed(self, token: Token, until: float) -> None:
        """pending -> claimed."""
        assert self.status is Status.PENDING, f"{self} was claimed by {token}"
        self.owner, self.until = token, until
        self.claims += 1

    def begun(self, token: Token, until: float) -> None:
        """claimed, sending -> sending: from here on the dot is allowed, if there is a relay."""
        assert self.owner is not None
        assert self.owner.holder in {None, token.holder}, f"two conversations may send {self}"
        if token.relay is not None:
            resends = sum(outcome is Outcome.UNCERTAIN for outcome in self.lines.values())
            allowed = RESENDS if self.on_uncertain is OnUncertain.RETRY else 0
            assert resends <= allowed + self.requeues, f"{self} is sent once more, by nobody's wish"
            assert self.doubt in {None, token.relay}, f"{self} goes to {token.relay}"
        self.owner, self.until = token, until

    def settled(self, line: Settlement) -> None:
        """sending -> sent, pending, dead, uncertain; claimed -> pending, dead."""
        self.owner = None
        self.doubt = line.relay

    def released(self) -> None:
        """claimed, sending -> pending, as if it had not been claimed."""
        self.owner = None
        self.claims -= 1

    def reaped(self) -> None:
        """claimed, sending -> pending; sending -> uncertain."""
        assert self.owner is not None
        self.doubt = self.owner.relay or self.doubt
        self.owner = None

    def requeued(self) -> None:
        """dead, cancelled, uncertain -> pending: a person takes the risk of a second copy."""
        self.requeues += 1
        self.doubt = None

    def compare(self, row: sa.Row[Any], lines: dict[int, Outcome]) -> None:
        """The promises, held against what the database says after each step."""
        status = Status(row.status)
        assert status is self.status or status in MOVES[self.status], f"{self.status} -> {status}: {self}"
        assert row.claim_token == (self.owner and self.owner.text)
        assert (status in LEASED) == (self.owner is not None)
        assert row.claims == self.claims
        assert row.attempts <= row.max_attempts
        assert row.waiting_for is None or status is Status.PENDING
        if status in {Status.PENDING, Status.CLAIMED, Status.UNCERTAIN}:
            assert row.relay == self.doubt, f"{self} is to go to {row.relay}"
        self._compare_lines(lines)
        self.status, self.lines = status, lines

    def _compare_lines(self, lines: dict[int, Outcome]) -> None:
        assert max(lines, default=0) <= self.claims
        for number, outcome in self.lines.items():
            assert lines[number] is outcome or (outcome, lines[number]) == (Outcome.UNCERTAIN, Outcome.SENT)
        assert all(lines[number] is Outcome.SENT for number in self.corrected)
        for number, token in self.accepted.items():
            # Nothing can tell the two copies of a mail apart but the record.
            on_record = lines.get(number) in {Outcome.SENT, Outcome.UNCERTAIN}
            assert on_record or self.owned_by(token), f"{self} was accepted, and there is no record of it"


_TIMES = {
    "email_queue": (
        "scheduled_at",
        "next_attempt_at",
        "expires_at",
        "lease_expires_at",
        "created_at",
        "sent_at",
        "finalized_at",
    ),
    "email_attempts": ("started_at", "finished_at"),
}


def jump(connection: sa.Connection, seconds: float) -> None:
    """The database's clock jumps, forward if positive.

    It cannot be set, so all times of the rows are moved the other way: to a row that is the same.
    """
    moved = {
        "postgresql": "{0} = {0} - CAST(:seconds AS double precision) * interval '1 second'",
        "sqlite": "{0} = strftime('%Y-%m-%d %H:%M:%f000', {0}, -:seconds || ' seconds')",
    }[connection.dialect.name]
    for table, columns in _TIMES.items():
        assignments = ", ".join(moved.format(column) for column in columns)
        connection.execute(sa.text(f"UPDATE {table} SET {assignments}"), {"seconds": seconds})


def _longest_wait(sql: Words) -> str:
    since = sql.seconds_since("CASE WHEN status = 'pending' THEN next_attempt_at ELSE lease_expires_at END")
    return f"SELECT max(-({since})) FROM email_queue WHERE status IN ('pending', 'claimed', 'sending')"


_LONGEST_WAIT = Statement(_longest_wait)


def longest_wait(connection: sa.Connection) -> float:
    """Seconds until something can be done for each row that is not at its end."""
    return max(0, _LONGEST_WAIT(connection).scalar() or 0)
