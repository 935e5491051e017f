"""Signs of life: a thread of the worker's, and of beat's, that says every half minute that its process does its work.

It says so as long as the main loop turns, and not merely as long as the process is there: a worker that hangs takes no
task, however alive its threads are. It says it in two places, for two readers:

`HEARTBEAT_FILE`      a probe, which restarts the process when the file is old. It does not ask whether the database or
                      the broker answer, for restarting the worker would mend neither.
`email_heartbeats`    everybody else. What is missing here is a trouble for a person: it tells of the database, too.

The thread is also who watches when nobody else does. `outbox.watch` is a task, started by beat, carried by Redis and
run by a worker: where one of the three is gone, the others see that nobody has watched for a while, and one of them
does.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import sqlalchemy as sa

from outbox import disks, heartbeats, watching
from outbox.database import reading
from outbox.logs import tell

log = logging.getLogger(__name__)

HANGS_AFTER = 120.0
"""Seconds after which a main loop that has not turned counts as hanging. Beat looks at its schedule every 30 at the
least; publishing to a broker that is away may keep it for some 15."""

WATCH_LATE_SECONDS = 75.0
"""Since the last watch, of which there is one a minute: then whoever notices does it."""

_AWAY_FOR = 2
"""Signs in a row that the database did not take: then somebody is told. A restart costs one at most."""

_FIRST_SIGN_SECONDS = 2.0
"""For which the start of the process waits for its first sign, so that nobody watches in between and misses it."""


_LAST_SECONDS = 5.0
"""For which the end of the process waits for a sign that is being given. A database that hangs has cost enough then."""


class Process(NamedTuple):
    """Who lives, and how it can be seen from within."""

    kind: str
    name: str
    turned_ago: Callable[[], float]
    """Seconds since its main loop turned."""
    detail: Callable[[], Mapping[str, Any]]
    """What it has to say beside."""


class Pulse:
    """The thread. `watch(late)` looks for trouble if nobody has; `alert(sentence)` tells of it without a database."""

    def __init__(
        self,
        engine: sa.Engine,
        process: Process,
        file: Path | None,
        watch: Callable[[float], object],
        alert: Callable[..., bool],
    ) -> None:
        self._engine = engine
        self._process = process
        self._file = file
        self._watch = watch
        self._alert = alert
        self._began = time.monotonic()
        self._stopped = threading.Event()
        self._given = threading.Event()
        self._failures = 0
        self._alerted = False
        self._file_fails = self._hangs = self._has_buried = False
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Give the first sign, and go on."""
        self._thread.start()
        self._given.wait(_FIRST_SIGN_SECONDS)

    def stop(self) -> None:
        """The process ends as it was asked to: nobody need look for it."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(_LAST_SECONDS)  # or it might give one more sign, after the last
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink()
        try:
            with self._engine.begin() as connection:
                heartbeats.take_back(connection, self._process.name)
        except sa.exc.SQLAlchemyError as error:
            sentence = "heartbeat: it cannot be taken back: %(why)s"
            tell(log, logging.WARNING, "heartbeat.left", sentence, why=_cause(error))

    def beat(self) -> None:
        """One sign."""
        if not self._turns():
            return
        self._touch()
        try:
            self._give()
            with reading(self._engine) as connection:
                full = disks.full(connection)
            # A system that is being started is not looked at before all of it can be there.
            if time.monotonic() - self._began > heartbeats.SILENT_AFTER:
                self._watch(WATCH_LATE_SECONDS)
        except sa.exc.SQLAlchemyError as error:
            self._fail(_cause(error), full=disks.is_full(error))
        else:
            if full:
                self._fail(full, full=True)
            else:
                self._recover()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.beat()
            except Exception as error:  # noqa: BLE001 - else the next signs would be missing
                tell(log, logging.ERROR, "heartbeat.broken", "heartbeat: failed, and goes on", exc_info=error)
            self._given.set()
            self._stopped.wait(heartbeats.EVERY_SECONDS)

    def _turns(self) -> bool:
        seconds = self._process.turned_ago()
        hangs = seconds > HANGS_AFTER
        if hangs and not self._hangs:
            sentence = "heartbeat: the main loop has not turned for %(seconds)d s: no more signs of life until it does"
            tell(log, logging.CRITICAL, "heartbeat.hangs", sentence, seconds=round(seconds))
        self._hangs = hangs
        return not hangs

    def _touch(self) -> None:
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch()
        except OSError as error:
            if not self._file_fails:
                sentence = "heartbeat: HEARTBEAT_FILE=%(file)s cannot be written: %(why)s"
                tell(log, logging.WARNING, "heartbeat.unwritable", sentence, file=str(self._file), why=str(error))
            self._file_fails = True
        else:
            self._file_fails = False

    def _give(self) -> None:
        process = self._process
        detail = {"up_seconds": round(time.monotonic() - self._began)} | dict(process.detail())
        with self._engine.begin() as connection:
            if not self._has_buried:
                _bury_the_dead(connection, process)
            heartbeats.give(connection, process.kind, process.name, **detail)
        self._has_buried = True

    def _fail(self, problem: str, *, full: bool) -> None:
        self._failures += 1
        if self._failures == 1:
            sentence = "heartbeat: the database does not take it: %(why)s; tried again every half minute"
            tell(log, logging.ERROR, "heartbeat.failed", sentence, why=problem)
        elif self._failures >= _AWAY_FOR and not self._alerted:
            said = watching.WITHOUT_ROOM.format(problem) if full else f"the database does not answer: {problem}"
            self._alerted = self._alert(f"{self._who}: {said}")

    def _recover(self) -> None:
        if self._failures:
            tell(log, logging.INFO, "heartbeat.works", "heartbeat: the database takes it again")
        if self._alerted:
            self._alert(f"{self._who}: the database answers again, and takes what it is told", over=True)
        self._failures, self._alerted = 0, False

    @property
    def _who(self) -> str:
        return f"{self._process.kind} {self._process.name}"


def _bury_the_dead(connection: sa.Connection, process: Process) -> None:
    """Who starts takes the place of those of its kind that died on this host: nobody need look for them any more."""
    for sign in heartbeats.signs(connection, process.kind):
        host, _, pid = sign.name.rpartition(":")
        if host == socket.gethostname() and pid.isdigit() and not psutil.pid_exists(int(pid)):
            sentence = "heartbeat: %(kind)s %(process)s died without a word, and this one takes its place"
            tell(log, logging.WARNING, "process.died", sentence, kind=sign.kind, process=sign.name)
            heartbeats.take_back(connection, sign.name)


def _cause(error: sa.exc.SQLAlchemyError) -> str:
    """Without the statement."""
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
