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
import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as NoAnswerError
from contextlib import suppress
from functools import partial

import sqlalchemy as sa

from outbox.claims import Begin, Release
from outbox.errors import LeaseLost, NotRecorded
from outbox.settlement import Settlement
from outbox.writer import Entry, Line, Writer, is_passing, patient

log = logging.getLogger(__name__)

BEGIN_PATIENCE = 30
"""Seconds that a conversation waits for its begin while the relay waits for the mail (RFC 5321 gives us 5 minutes)."""

LONGEST_BATCH = 500
"""Lines in one transaction: more than the conversations of a process can have waiting, but for a released chunk."""


class Ledger:
    """The process's writer. Its thread starts with the first line and ends with `close`."""

    def __init__(self, engine: sa.Engine, lease: float) -> None:
        self._writer = Writer(engine, lease)
        self._lease = lease
        self._waiting: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        """Held to enter a line and to end the thread: no line enters behind the back of a thread that ends."""
        self._closing = False
        self._thread: threading.Thread | None = None
        self._taken: list[Entry] = []  # by the thread; in the end, all are answered

    def begin(self, line: Begin) -> Callable[[], None]:
        """Start to mark a row as sending; the function returned waits until that is durable.

        It raises LeaseLost if the row is not ours any more, or if the database does not say so in time.
        """
        answer = self._enter(line).answer

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
        """End a claim. Returns when it is durable: True, or False if the row was no longer ours to settle.

        Raises NotRecorded if the database refuses the line, or could not be reached before the lease was over.
        """
        return _wait(self._enter(line))

    def release(self, lines: Sequence[Release]) -> None:
        """Hand rows back untried. Returns when that is durable; raises NotRecorded as `settle` does."""
        for entry in [self._enter(line) for line in lines]:
            _wait(entry)

    def close(self) -> None:
        """Commit what is waiting and end the thread. A line that comes later is committed, too."""
        with self._gate:
            thread = self._thread
            self._closing = True
            self._waiting.put(None)  # for a thread that waits
        if thread is not None:
            # No longer than anybody waits for an answer: the database may hang.
            thread.join(self._lease)

    def _enter(self, line: Line) -> Entry:
        entry = Entry(line, time.monotonic() + self._lease)
        with self._gate:
            self._waiting.put(entry)
            if self._thread is None:
                # A daemon: whoever waits for a line keeps the process alive, the writer itself need not.
                thread = threading.Thread(target=self._write, name="outbox-ledger", daemon=True)
                thread.start()
                self._thread = thread
        return entry

    def _write(self) -> None:
        try:
            while batch := self._next_batch():
                self._commit(batch)
        except BaseException as error:
            self._resign(error)
            raise

    def _next_batch(self) -> list[Entry]:
        """Everything that is waiting; empty at the end."""
        self._taken = []
        while not self._taken:
            if self._closing and self._end():
                return []  # by now, `_taken` may be another thread's
            self._take(self._waiting.get())
            while len(self._taken) < LONGEST_BATCH and not self._waiting.empty():
                self._take(self._waiting.get())
        return list(self._taken)

    def _take(self, entry: Entry | None) -> None:
        if entry is not None:
            self._taken.append(entry)

    def _end(self) -> bool:
        """Whether nothing is waiting any more: then the next line starts another thread."""
        with self._gate:
            if not self._waiting.empty():
                return False
            self._writer.disconnect()
            self._thread = None
            return True

    def _resign(self, error: BaseException) -> None:
        """Let nobody wait for a thread that is gone."""
        with self._gate:
            self._writer.drop_connection()
            self._thread = None
            while not self._waiting.empty():
                self._take(self._waiting.get())
            taken = self._taken
        log.critical("ledger: its thread ends: %r", error)
        for entry in taken:
            if not entry.answer.done():
                entry.answer.set_exception(RuntimeError(f"the ledger's thread ended: {error!r}"))

    def _commit(self, batch: Sequence[Entry]) -> None:
        try:
            self._writer.write(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, each waiting conversation must hear of it
            if is_passing(error):
                self._insist(batch, error)
            elif len(batch) == 1:
                batch[0].answer.set_exception(error)
            else:
                # A line that the database refuses must not take the others with it.
                middle = len(batch) // 2
                self._commit(batch[:middle])
                self._commit(batch[middle:])
        else:
            for entry in batch:
                entry.answer.set_result(entry.ours)

    def _insist(self, batch: Sequence[Entry], error: Exception) -> None:
        """Try the recording again until the leases are over: then the reaper has the rows. Never the sending."""
        kept: list[Entry] = []
        for entry in batch:
            _keep(entry, kept, error)
        if not kept:
            return
        log.warning("ledger: %d lines wait for the database: %s", len(kept), error)
        try:
            patient(sleep=partial(self._collect, kept, error))(self._writer.write, kept)
        except Exception:  # noqa: BLE001 - one of the lines is refused; committing them finds out which
            self._commit(kept)
        else:
            for entry in kept:
                entry.answer.set_result(entry.ours)

    def _collect(self, kept: list[Entry], error: Exception, seconds: float) -> None:
        """Wait for the database, while lines come in, and give up those whose lease is over."""
        until = time.monotonic() + seconds
        with suppress(queue.Empty):
            while (left := until - time.monotonic()) > 0:
                entry = self._waiting.get(timeout=left)
                if entry is not None:
                    self._take(entry)
                    _keep(entry, kept, error)
        lapsed = [entry for entry in kept if entry.deadline <= time.monotonic()]
        for entry in lapsed:
            kept.remove(entry)
            entry.answer.set_exception(error)


def _wait(entry: Entry) -> bool:
    try:
        return entry.answer.result(max(0, entry.deadline - time.monotonic()))
    except Exception as error:
        reason = str(error) or "no answer from the database"
        raise NotRecorded(
            f"mail {entry.line.id}: its {type(entry.line).__name__.lower()} is not recorded, the reaper will find the "
            f"row when its lease is over: {reason}"
        ) from error


def _keep(entry: Entry, kept: list[Entry], error: Exception) -> None:
    """Keep a line that ends a claim; a begin must not wait for a database that is away."""
    if isinstance(entry.line, Begin):
        entry.answer.set_exception(error)
    else:
        kept.append(entry)
