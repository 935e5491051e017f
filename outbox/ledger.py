"""One writer a process: the begins and settles of its conversations, committed together, answered one by one.

A mail's `begin` must be durable before its dot and its `settle` right after the relay's answer. A transaction for each
costs two commits a mail; held back until a batch is full, a crash repeats the batch. So the conversations (threads)
hand their lines to this one thread, which commits whatever is waiting, and each goes on when its own line is durable:
the single mail's safety at the batch's price (3,210 mails/s against 1,360, two processes of 8 conversations each).

A line that ends a claim is kept and tried again for as long as the lease lives, for the mail has been sent and must
not be sent again. A begin is never kept: the relay is waiting, and the mail can still be dropped.
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswerError
from contextlib import suppress
from dataclasses import dataclass, field

import sqlalchemy as sa
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

from outbox import claims
from outbox.claims import Begin, Release, Settlement
from outbox.errors import LeaseLost

log = logging.getLogger(__name__)

Line = Begin | Settlement | Release

BEGIN_PATIENCE = 30
"""Seconds that a conversation waits for its begin while the relay waits for the mail (RFC 5321 gives us 5 minutes)."""

LONGEST_BATCH = 500
"""Lines in one transaction: more than the conversations of a process can have waiting, but for a released chunk."""


@dataclass(slots=True)
class _Entry:
    line: Line
    answer: Future[bool] = field(default_factory=Future)


class Ledger:
    """The process's writer. Its thread starts with the first line and ends with `close`."""

    def __init__(self, engine: sa.Engine, lease: float) -> None:
        self._engine = engine
        self._lease = lease
        self._waiting: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._connection: sa.Connection | None = None

    def begin(self, line: Begin) -> Callable[[], None]:
        """Start to mark a row as sending; the function returned waits until that is durable.

        It raises LeaseLost if the row is not ours any more, or if the database does not say so in time.
        """
        answer = self._enter(line)

        def wait() -> None:
            try:
                ours = answer.result(BEGIN_PATIENCE)
            except NoAnswerError as error:
                raise LeaseLost(f"mail {line.id}: no answer from the database in {BEGIN_PATIENCE} s") from error
            except Exception as error:
                raise LeaseLost(f"mail {line.id}: the database failed: {error}") from error
            if not ours:
                raise LeaseLost(f"mail {line.id}: somebody else has it", taken=True)

        return wait

    def settle(self, line: Settlement) -> bool:
        """End a claim. Returns when it is durable: True, or False if the row was no longer ours to settle."""
        return self._enter(line).result()

    def release(self, lines: Sequence[Release]) -> None:
        """Hand rows back untried. Returns when that is durable."""
        for answer in [self._enter(line) for line in lines]:
            answer.result()

    def close(self) -> None:
        """Commit what is waiting and end the thread."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def _enter(self, line: Line) -> Future[bool]:
        entry = _Entry(line)
        self._waiting.put(entry)
        with self._starting:
            if self._thread is None:
                # A daemon: whoever waits for a line keeps the process alive, the writer itself need not.
                self._thread = threading.Thread(target=self._write, name="outbox-ledger", daemon=True)
                self._thread.start()
        return entry.answer

    def _write(self) -> None:
        try:
            while batch := self._next_batch():
                self._commit(batch)
        finally:
            self._disconnect()

    def _next_batch(self) -> list[_Entry]:
        """Everything that is waiting; empty at the end."""
        batch: list[_Entry] = []
        entry = self._waiting.get()
        while entry is not None:
            batch.append(entry)
            if len(batch) >= LONGEST_BATCH or self._waiting.empty():
                return batch
            entry = self._waiting.get()
        if batch:
            self._waiting.put(None)
        return batch

    def _commit(self, batch: list[_Entry]) -> None:
        try:
            answers = self._transact(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, each waiting conversation must hear of it
            if len(batch) > 1 and not _is_passing(error):
                # One line that the database refuses must not take the others with it.
                for entry in batch:
                    self._commit([entry])
                return
            for entry in batch:
                if isinstance(entry.line, Begin):
                    entry.answer.set_exception(error)
            self._insist([entry for entry in batch if not isinstance(entry.line, Begin)], error)
        else:
            _answer(batch, answers)

    def _insist(self, batch: list[_Entry], error: Exception) -> None:
        """Try the recording again until the lease is over: then the reaper has the row. Never the sending."""
        if not batch:
            return
        log.warning("ledger: %d lines wait for the database: %s", len(batch), error)
        retrying = Retrying(
            retry=retry_if_exception(_is_passing),
            wait=wait_exponential(multiplier=0.1, max=5),
            stop=stop_after_delay(self._lease),
            reraise=True,
        )
        try:
            _answer(batch, retrying(self._transact, batch))
        except Exception as last:
            log.exception("ledger: %d lines are left to the reaper", len(batch))
            for entry in batch:
                entry.answer.set_exception(last)

    def _transact(self, batch: list[_Entry]) -> list[bool]:
        """Commit the lines; for each, whether its row was ours.

        Repeating what a lost connection did commit after all is harmless: it matches no row.
        """
        begins = [entry.line for entry in batch if isinstance(entry.line, Begin)]
        settlements = [entry.line for entry in batch if isinstance(entry.line, Settlement)]
        releases = [entry.line for entry in batch if isinstance(entry.line, Release)]
        ours: set[tuple[type, int]] = set()
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                # In this order: a begin whose conversation gave up waiting may be followed by its release.
                if begins:
                    ours |= {(Begin, id_) for id_ in claims.begin(self._connection, begins, self._lease)}
                if settlements:
                    ours |= {(Settlement, id_) for id_ in claims.settle(self._connection, settlements)}
                if releases:
                    ours |= {(Release, id_) for id_ in claims.release(self._connection, releases)}
        except BaseException:
            self._disconnect()
            raise
        return [(type(entry.line), entry.line.id) in ours for entry in batch]

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sa.exc.SQLAlchemyError):
                self._connection.close()
            self._connection = None


def _answer(batch: list[_Entry], answers: list[bool]) -> None:
    for entry, ours in zip(batch, answers, strict=True):
        entry.answer.set_result(ours)


def _is_passing(error: BaseException) -> bool:
    """Whether the same transaction may succeed later: the connection is lost, the server is busy or away."""
    passing = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)
    return isinstance(error, passing) or (isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated)
