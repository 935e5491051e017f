"""What a relay has answered and the database could not be told: lines of a file, fsynced, one file for a host.

Without it, a database that goes away right after a 250, and stays away longer than the worker lives or the lease lasts,
turns into a second copy: the reaper finds a row that was being sent and knows no more. So each such answer is written
here at once, and `replay` brings it to the database before anything is reaped on this host.

Lines are true for ever and harmless to repeat: each is settled by its token, which no other claim has.
"""

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import sqlalchemy as sa

from outbox import mail_log, signals
from outbox.logs import tell
from outbox.settlement import Attempt, Settlement, known_as_sent, settle, settle_late
from outbox.states import DeadReason, Outcome, Stage, Status
from outbox.writer import is_refused

log = logging.getLogger(__name__)


class Journal:
    """The file. All processes of a host share it, under its lock, which nobody holds while waiting for a database."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def exists(self) -> bool:
        """Whether there is anything to replay. One `stat`: cheap enough for every chunk."""
        try:
            return self.path.stat().st_size > 0
        except OSError:
            return False

    def append(self, settlements: Sequence[Settlement]) -> bool:
        """Write the lines down. Returns when they are on the disk; False if they cannot be, which is logged.

        A container whose disk is read-only has no journal, and is no worse off than without this class.
        """
        try:
            lines = b"".join(_line(settlement) for settlement in settlements)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self.path.exists()
            with self._locked("a+b") as file:
                file.write((b"\n" if _is_torn(file) else b"") + lines)
                _sync(file)
            if is_new:
                for folder in (self.path.parent, self.path.parent.parent):
                    _sync_folder(folder)
        except (OSError, TypeError) as error:
            mails = ", ".join(f"{settlement.id} ({settlement.status})" for settlement in settlements)
            tell(
                log, logging.CRITICAL, "journal.unwritable",
                "journal: %(path)s cannot be written: %(why)s; while the database is away, this is known to this "
                "process alone: mail %(mails)s",
                path=str(self.path), why=str(error), mails=mails,
            )  # fmt: skip
            return False
        return True

    def replay(self, engine: sa.Engine) -> int:
        """Bring every line to the database and empty the file. Returns how many lines are on record now.

        Raises what the database raises when it is away: then the file stays as it is. A line that makes no sense, or
        that the database refuses, is put aside, in a file beside, and does not hold up the others. A file that cannot
        be read or emptied is logged: mail must not stop for it.
        """
        recorded, done = 0, b""
        try:
            while True:
                with self._locked("r+b") as file:
                    content = file.read()
                    if not content.startswith(done):
                        done = b""  # another process has replayed it, too, and emptied it before us
                    rest = content[len(done) :]
                    if not rest:
                        file.truncate(0)
                        _sync(file)
                        return recorded
                recorded += self._record(engine, rest)
                done = content
        except FileNotFoundError:
            return recorded
        except OSError as error:
            sentence = "journal: %(path)s cannot be replayed: %(why)s; make it readable and writable"
            tell(log, logging.CRITICAL, "journal.unreadable", sentence, path=str(self.path), why=str(error))
            return recorded

    def _record(self, engine: sa.Engine, content: bytes) -> int:
        recorded = 0
        for line in filter(None, content.split(b"\n")):
            try:
                settlement = _settlement(line)
            except (ValueError, KeyError, TypeError) as error:  # its writer was killed over it
                self._put_aside(line, error)
                continue
            try:
                # A transaction a line: they are few, one for each conversation that the outage met.
                with engine.begin() as connection:
                    moved = settle(connection, [settlement]) or settle_late(connection, [settlement])
                    ours = moved or known_as_sent(connection, [settlement])
            except sa.exc.DBAPIError as error:
                if not is_refused(error):
                    raise
                self._put_aside(line, error)
                continue
            recorded += len(ours)
            if moved:
                mail_log.ended(settlement)
                signals.tell_of(engine, [settlement])
            if not ours:
                tell(
                    log, logging.WARNING, "journal.late",
                    "journal: mail %(mail_id)d (%(status)s) is in other hands by now: nothing changed",
                    mail_id=settlement.id, status=settlement.status,
                )  # fmt: skip
        if recorded:
            sentence = "journal: %(mails)d mails are on record that the database could not be told of before"
            tell(log, logging.WARNING, "journal.replayed", sentence, mails=recorded)
        return recorded

    def _put_aside(self, line: bytes, error: Exception) -> None:
        aside = self.path.with_name(f"{self.path.name}.rejected")
        sentence = "journal: a line is put aside, in %(path)s: %(why)s: %(line)r"
        tell(log, logging.ERROR, "journal.put_aside", sentence, path=str(aside), why=str(error), line=line)
        with aside.open("ab") as file:
            file.write(line + b"\n")
            _sync(file)

    @contextmanager
    def _locked(self, mode: Literal["a+b", "r+b"]) -> Iterator[BinaryIO]:
        # Never renamed nor removed: the lock is on the file, and must be the same one for all.
        with self.path.open(mode) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file


def _line(settlement: Settlement) -> bytes:
    """In ASCII and on one line, whatever the relay said."""
    attempt = settlement.attempt
    values = settlement._asdict() | {"attempt": None if attempt is None else attempt._asdict()}
    return json.dumps(values).encode() + b"\n"


def _settlement(line: bytes) -> Settlement:
    settlement = Settlement(**json.loads(line))
    attempt, reason = settlement.attempt, settlement.dead_reason
    if attempt is not None:
        attempt = Attempt(**cast("dict[str, Any]", attempt))
        attempt = attempt._replace(outcome=Outcome(attempt.outcome), stage=Stage(attempt.stage))
    return settlement._replace(
        status=Status(settlement.status),
        dead_reason=None if reason is None else DeadReason(reason),
        attempt=attempt,
    )


def _is_torn(file: BinaryIO) -> bool:
    """Whether its last line has no end: whoever wrote it was killed over it."""
    if not file.seek(0, os.SEEK_END):
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """A new file is safe when its name is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
