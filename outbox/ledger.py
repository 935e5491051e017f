"""One writer a process: the begins and settles of its conversations, committed together, answered one by one.

A mail's `begin` must be durable before its dot and its `settle` right after the relay's answer. A transaction for each
costs two commits a mail; held back until a batch is full, a crash repeats the batch. So the conversations (threads)
hand their lines to this one thread, which commits whatever is waiting, and each goes on when its own line is durable:
the single mail's safety at the batch's price (3,210 mails/s against 1,360, two processes of 8 conversations each).

A line that ends a claim is kept and tried again for as long as the lease lives, for the mail has been sent and must
not be sent again. What the relay has answered also goes to the journal as soon as the database does not take it: this
process may be killed. A begin is never kept: the relay is waiting, and the mail can still be dropped.
"""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import sqlalchemy as sa

from outbox.claims import Begin, Release
from outbox.errors import LeaseLost, NotRecorded
from outbox.journal import Journal
from outbox.logs import tell
from outbox.settlement import Settlement
from outbox.turn import Line
from outbox.writer import Entry, Writer, is_passing, is_refused, patient

log = logging.getLogger(__name__)

BEGIN_PATIENCE = 30
"""Seconds that a conversation waits for its begin while the relay waits for the mail (RFC 5321 gives us 5 minutes)."""

SLOW = 2
"""Seconds without an answer after which a settle is journaled: the database may hang, and tell nobody so."""

LAST_PATIENCE = 5
"""Seconds that anybody waits for the database once the process is to end: its supervisor will not wait long."""

LAST_TRY = 2
"""Seconds that a line has in any case, also if it comes when those are over."""

LONGEST_BATCH = 500
"""Lines in one transaction: more than the conversations of a process can have waiting, but for a released chunk."""


CROWD = 4
"""Lines in a batch, from which on several conversations are under way: one has at most two at a time."""

GATHERING = 0.002
"""Seconds that the next batch is waited for when there is a crowd. To PostgreSQL a statement of twenty lines is little
more than one of two, for it reads its constraints anew for each: 0.26 ms a mail in place of 0.37, 16 conversations.
They have something else to do meanwhile, and who is alone does not wait."""


class NoAnswerError(Exception):
    """Nothing was heard of a line for as long as its answer was of use."""


class Ledger:
    """The process's writer. Its thread starts with the first line and ends with `close`."""

    def __init__(self, engine: sa.Engine, lease: float, journal: Journal) -> None:
        self._writer = Writer(engine, lease)
        self._lease = lease
        self._journal = journal
        self._hurried = math.inf
        """When `hurry` was called. A plain number: a signal handler may not wait for a lock."""
        self._waiting: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        """Held to enter a line and to end the thread: no line enters behind the back of a thread that ends."""
        self._closing = False
        self._crowded = False
        self._thread: threading.Thread | None = None
        self._taken: list[Entry] = []  # by the thread; in the end, all are answered

    def begin(self, line: Begin) -> Callable[[], None]:
        """Start to mark a row as sending; the function returned waits until that is durable.

        It raises LeaseLost if the row is not ours any more, or if the database does not say so in time.
        """
        entry = self._enter(line)

        def wait() -> None:
            try:
                ours = self._answer(entry)
            except NoAnswerError as error:
                raise LeaseLost(f"mail {line.id}: no answer from the database in {BEGIN_PATIENCE} s") from error
            except Exception as error:
                raise LeaseLost(f"mail {line.id}: the database failed: {error}") from error
            if not ours:
                raise LeaseLost(f"mail {line.id}: somebody else has it", taken=True)

        return wait

    def settling(self, line: Settlement) -> Callable[[], bool]:
        """Start to end a claim; the function returned waits until that is durable.

        It returns True, or False if the row was no longer ours to settle. It raises NotRecorded if the database refuses
        the line, or could not be reached before the lease was over; then it is in the journal.
        """
        return partial(self._wait, self._enter(line))

    def settle(self, line: Settlement) -> bool:
        """The same, waited for."""
        return self.settling(line)()

    def release(self, lines: Sequence[Release]) -> None:
        """Hand rows back untried. Returns when that is durable; raises NotRecorded as a settle does."""
        for entry in [self._enter(line) for line in lines]:
            self._wait(entry)

    def hurry(self) -> None:
        """The process is to end: whoever waits for a database that is away gives up within seconds.

        May be called from a signal handler.
        """
        self._hurried = min(self._hurried, time.monotonic())
        self._waiting.put(None)  # for a thread that sleeps until its next try

    def close(self) -> None:
        """Commit what is waiting and end the thread. A line that comes later is committed, too."""
        self.hurry()
        with self._gate:
            thread = self._thread
            self._closing = True
            self._waiting.put(None)  # for a thread that waits
        if thread is not None:
            # No longer than anybody waits for an answer: the database may hang.
            last = max(LAST_TRY, self._hurried + LAST_PATIENCE - time.monotonic())
            thread.join(min(self._lease, last))

    def _enter(self, line: Line) -> Entry:
        entry = Entry(line, BEGIN_PATIENCE if isinstance(line, Begin) else self._lease)
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
            if self._crowded:
                time.sleep(GATHERING)
            while len(self._taken) < LONGEST_BATCH and not self._waiting.empty():
                self._take(self._waiting.get())
        self._crowded = len(self._taken) >= CROWD
        return list(self._taken)

    def _take(self, entry: Entry | None) -> None:
        if entry is not None:
            self._taken.append(entry)

    def _end(self) -> bool:
        """Whether nothing is waiting any more: then the next line starts another thread."""
        with self._gate:
            if not self._waiting.empty():
                return False
            self._writer.drop_connection()
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
        tell(log, logging.CRITICAL, "ledger.ended", "ledger: its thread ends: %(why)s", why=repr(error))
        for entry in taken:
            if not entry.answered:
                entry.answer(RuntimeError(f"the ledger's thread ended: {error!r}"))

    def _commit(self, batch: Sequence[Entry]) -> None:
        try:
            self._writer.write(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, each waiting conversation must hear of it
            if is_passing(error):
                self._insist(batch, error)
            elif len(batch) == 1:
                batch[0].answer(error)
            else:
                # A line that the database refuses must not take the others with it.
                middle = len(batch) // 2
                self._commit(batch[:middle])
                self._commit(batch[middle:])
        else:
            for entry in batch:
                entry.answer()

    def _insist(self, batch: Sequence[Entry], error: Exception) -> None:
        """Try the recording again until the leases are over: then the reaper has the rows. Never the sending."""
        kept: list[Entry] = []
        self._keep(batch, kept, error)
        if not kept:
            return
        sentence = "ledger: %(lines)d lines wait for the database: %(why)s"
        tell(log, logging.WARNING, "ledger.waits", sentence, lines=len(kept), why=str(error))
        try:
            patient(sleep=partial(self._collect, kept, error))(self._writer.write, kept)
        except Exception:  # noqa: BLE001 - one of the lines is refused; committing them finds out which
            self._commit(kept)
        else:
            for entry in kept:
                entry.answer()

    def _collect(self, kept: list[Entry], error: Exception, seconds: float) -> None:
        """Wait for the database, while lines come in, and give up those whose time is over."""
        until = min([time.monotonic() + seconds, *map(self._end_of_patience, kept)])
        with suppress(queue.Empty):
            while (left := until - time.monotonic()) > 0:
                entry = self._waiting.get(timeout=left)
                if entry is None:
                    break  # somebody is in a hurry
                self._take(entry)
                self._keep([entry], kept, error)
        lapsed = [entry for entry in kept if self._end_of_patience(entry) <= time.monotonic()]
        for entry in lapsed:
            kept.remove(entry)
            entry.answer(error)

    def _keep(self, batch: Sequence[Entry], kept: list[Entry], error: Exception) -> None:
        """Keep the lines that end a claim; a begin must not wait for a database that is away."""
        for entry in batch:
            if isinstance(entry.line, Begin):
                entry.answer(error)
            else:
                kept.append(entry)
        self._write_down(batch)

    def _write_down(self, entries: Sequence[Entry]) -> None:
        """To the journal, once: what a relay has said. The rest can be found out again."""
        answers = [entry for entry in entries if entry.journaled is None and _attempted(entry.line)]
        lines = [entry.line for entry in answers if isinstance(entry.line, Settlement)]
        if lines:
            journaled = self._journal.append(lines)
            for entry in answers:
                entry.journaled = journaled

    def _end_of_patience(self, entry: Entry) -> float:
        """By `time.monotonic`."""
        last = max(self._hurried + LAST_PATIENCE, entry.entered + LAST_TRY)
        return min(entry.entered + entry.patience, last)

    def _answer(self, entry: Entry) -> bool:
        """Wait for it; NoAnswerError if that takes too long.

        It is looked up from time to time whether that has changed, since the ledger's thread may hang in the database.
        """
        while not entry.answered:
            left = self._end_of_patience(entry) - time.monotonic()
            if left <= 0:
                raise NoAnswerError
            if not entry.wait(min(left, LAST_TRY)) and time.monotonic() - entry.entered > SLOW:
                self._write_down([entry])
        if entry.error is not None:
            raise entry.error
        return entry.ours

    def _wait(self, entry: Entry) -> bool:
        try:
            return self._answer(entry)
        except BaseException as error:
            if not is_refused(error):
                self._write_down([entry])
            if not isinstance(error, Exception):
                raise
            reason = str(error) or "no answer from the database"
            next_ = "the reaper will find the row when its lease is over"
            if entry.journaled:
                next_ = f"but the journal has it, {self._journal.path}, and the reaper of this host reads that first"
            raise NotRecorded(
                f"mail {entry.line.id}: its {type(entry.line).__name__.lower()} is not recorded, {next_}: {reason}"
            ) from error


def _attempted(line: Line) -> bool:
    return isinstance(line, Settlement) and line.attempt is not None
