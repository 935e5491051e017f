"""A batch of lines -> one transaction, on a connection that is kept for the next batch."""

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from tenacity import Retrying, retry_if_exception, wait_exponential

from outbox import claims
from outbox.claims import Begin, Release
from outbox.settlement import Settlement, known_as_sent, settle, settle_late

Line = Begin | Settlement | Release

READ_ONLY = "25006"
"""SQLSTATE of a write to a standby: what a primary has become after a failover, until we are led to the new one."""


@dataclass(slots=True, eq=False)
class Entry:
    """A line, and the conversation's wait for it."""

    line: Line
    patience: float
    """Seconds for which an answer is of use. For the end of a claim, the lease: then the row is the reaper's."""
    entered: float = field(default_factory=time.monotonic)
    ours: bool = False
    journaled: bool | None = None
    """None until it was tried."""
    answer: Future[bool] = field(default_factory=Future)


class Writer:
    """Belongs to one thread."""

    def __init__(self, engine: sa.Engine, lease: float) -> None:
        self._engine = engine
        self._lease = lease
        self._connection: sa.Connection | None = None

    def write(self, batch: Sequence[Entry]) -> None:
        """Commit the lines, and note for each whether its row was ours.

        Repeating what a lost connection did commit after all is harmless: it matches no row.
        """
        if not batch:
            return
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                for lines in _rounds(batch):
                    self._execute(self._connection, lines)
        except BaseException:
            self.drop_connection()
            raise

    def _execute(self, connection: sa.Connection, entries: Sequence[Entry]) -> None:
        begins = [entry.line for entry in entries if isinstance(entry.line, Begin)]
        settlements = [entry.line for entry in entries if isinstance(entry.line, Settlement)]
        releases = [entry.line for entry in entries if isinstance(entry.line, Release)]
        ours: set[int] = set()
        if begins:
            ours |= claims.begin(connection, begins, self._lease)
        if settlements:
            ours |= settle(connection, settlements)
            if late := [line for line in settlements if line.id not in ours]:
                # This process was paused, or the database away, for a lease.
                ours |= settle_late(connection, late) | known_as_sent(connection, late)
        if releases:
            ours |= claims.release(connection, releases)
        for entry in entries:
            # What was ours a moment ago and is not any more, under a token that nobody else knows, was settled by the
            # transaction whose answer we lost. A begin is believed only if it says so now.
            was_ours = entry.ours and not isinstance(entry.line, Begin)
            entry.ours = was_ours or entry.line.id in ours

    def disconnect(self) -> None:
        """Return the connection to the pool."""
        if self._connection is not None:
            with suppress(sa.exc.SQLAlchemyError):
                self._connection.close()
            self._connection = None

    def drop_connection(self) -> None:
        """Do not return it to the pool: whatever went wrong, the next one is new."""
        if self._connection is not None:
            with suppress(sa.exc.SQLAlchemyError):
                self._connection.invalidate()
            self.disconnect()


def _rounds(batch: Sequence[Entry]) -> list[list[Entry]]:
    """In one round, a row has one line. Usually there is one round.

    A chunk delivered twice to the same process begins the same row twice: the second must see what the first did.
    """
    rounds: list[list[Entry]] = []
    lines: Counter[int] = Counter()
    for entry in batch:
        number = lines[entry.line.id]
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(entry)
        lines[entry.line.id] += 1
    return rounds


def patient(**how: Any) -> Retrying:
    """Calls again what failed in passing, soon and then every few seconds; `how` says for how long, and meanwhile."""
    return Retrying(
        retry=retry_if_exception(is_passing), wait=wait_exponential(multiplier=0.1, max=5), reraise=True, **how
    )


def is_passing(error: BaseException) -> bool:
    """Whether the same transaction may succeed later: the connection is lost, the server is busy, away or read-only."""
    passing = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)
    if isinstance(error, passing):
        return True
    return isinstance(error, sa.exc.DBAPIError) and (
        error.connection_invalidated or getattr(error.orig, "sqlstate", None) == READ_ONLY
    )


def is_refused(error: BaseException) -> bool:
    """Whether the database will never take this line: it would break a constraint, or cannot be a value."""
    return isinstance(error, sa.exc.IntegrityError | sa.exc.DataError)
