"""A batch of lines -> one transaction, on a connection that is kept for the next batch.

Mostly that is one statement (`turn`).
"""

import time
from _thread import allocate_lock
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from tenacity import Retrying, retry_if_exception, wait_exponential

from outbox import claims, turn
from outbox.claims import Begin, Release
from outbox.database import by_index
from outbox.settlement import Settlement, known_as_sent, settle, settle_late
from outbox.turn import Line

READ_ONLY = "25006"
"""SQLSTATE of a write to a standby: what a primary has become after a failover, until we are led to the new one."""


class Entry:
    """A line, and the conversation's wait for it.

    A lock that is let go is all that a wait takes. `concurrent.futures` says the same at ten times the price, twice for
    each mail.
    """

    __slots__ = ("_lock", "answered", "entered", "error", "journaled", "line", "ours", "patience")

    def __init__(self, line: Line, patience: float) -> None:
        self.line = line
        self.patience = patience
        """Seconds for which an answer is of use. For the end of a claim, the lease: then the row is the reaper's."""
        self.entered = time.monotonic()
        self.ours = False
        self.journaled: bool | None = None
        """None until it was tried."""
        self.error: BaseException | None = None
        self.answered = False
        self._lock = allocate_lock()
        self._lock.acquire()

    def answer(self, error: BaseException | None = None) -> None:
        """It is written, or it never will be."""
        self.error = error
        self.answered = True
        self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Whether it was answered within so many seconds. One waits at a time."""
        return self.answered or self._lock.acquire(timeout=seconds)


class Writer:
    """Belongs to one thread."""

    def __init__(self, engine: sa.Engine, lease: float) -> None:
        self._engine = engine
        self._turning = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._lease = lease
        self._connection: sa.Connection | None = None

    def write(self, batch: Sequence[Entry]) -> None:
        """Commit the lines, and note for each whether its row was ours.

        Repeating what a lost connection did commit after all is harmless: it matches no row.
        """
        if not batch:
            return
        try:
            rounds = _rounds(batch)
            if (
                self._engine.dialect.name == "postgresql"
                and len(rounds) == 1
                and all(turn.fits(entry.line) for entry in batch)
            ):
                self._take_turn(batch)
            else:
                self._transact(rounds)
        except BaseException:
            self.drop_connection()
            raise

    def _take_turn(self, batch: Sequence[Entry]) -> None:
        """In one statement. Settlements that come too late, which is rare, are looked into by a second transaction."""
        if self._connection is None:
            self._connection = self._turning.connect()
            turn.prepare(self._connection)
        with self._connection.begin():
            ours = turn.take(self._connection, [entry.line for entry in batch], self._lease)
        _note(batch, ours)
        late = [entry for entry in batch if isinstance(entry.line, Settlement) and not entry.ours]
        if late:
            self._transact([late])

    def _transact(self, rounds: Sequence[Sequence[Entry]]) -> None:
        """In a transaction of several statements."""
        with self._engine.connect() as connection:
            try:
                with connection.begin():
                    by_index(connection)
                    for entries in rounds:
                        self._execute(connection, entries)
            except BaseException:
                _drop(connection)
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
        _note(entries, ours)

    def drop_connection(self) -> None:
        """Close it, not to the pool: what went wrong with it, and what `turn.prepare` has set, ends with it."""
        if self._connection is not None:
            _drop(self._connection)
            with suppress(sa.exc.SQLAlchemyError):
                self._connection.close()
            self._connection = None


def _drop(connection: sa.Connection) -> None:
    with suppress(sa.exc.SQLAlchemyError):
        connection.invalidate()


def _note(entries: Sequence[Entry], ours: Collection[int]) -> None:
    for entry in entries:
        # What was ours a moment ago and is not any more, under a token that nobody else knows, was settled by the
        # transaction whose answer we lost. A begin is believed only if it says so now.
        was_ours = entry.ours and not isinstance(entry.line, Begin)
        entry.ours = was_ours or entry.line.id in ours


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
