"""Production's own statements in a test's own transaction: each of their transactions is a savepoint in it.

The application's test may roll everything back in the end, so that no other connection ever sees its mail.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import sqlalchemy as sa

from outbox import claims, settlement
from outbox.claims import Begin, Release
from outbox.errors import LeaseLost
from outbox.journal import Journal
from outbox.ledger import Ledger
from outbox.settlement import Settlement


class SavepointEngine:
    """What the library asks of an engine, over one connection that is in a transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A savepoint: what fails in it leaves the transaction as it was."""
        with self._connection.begin_nested():
            yield self._connection

    def execution_options(self, **_: Any) -> Self:
        """As asked for by `database.reading`, whose wish means nothing to a transaction that is open."""
        return self


class SavepointLedger(Ledger):
    """Writes each line at once, in the thread that brings it: a session's connection belongs to that one."""

    def __init__(self, engine: sa.Engine, lease: float, journal: Journal) -> None:
        super().__init__(engine, lease, journal)
        self._engine = engine

    def begin(self, line: Begin) -> Callable[[], None]:
        """As the ledger's."""
        with self._engine.begin() as connection:
            ours = claims.begin(connection, [line], self._lease)

        def wait() -> None:
            if line.id not in ours:
                raise LeaseLost(f"mail {line.id}: somebody else has it", taken=True)

        return wait

    def settling(self, line: Settlement) -> Callable[[], bool]:
        """As the ledger's."""
        with self._engine.begin() as connection:
            ours = line.id in settlement.settle(connection, [line])
        return lambda: ours

    def release(self, lines: Sequence[Release]) -> None:
        """As the ledger's."""
        with self._engine.begin() as connection:
            for line in lines:  # some name a row twice, under either of its tokens
                claims.release(connection, [line])
