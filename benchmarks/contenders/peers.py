"""What the peers share: what they are told, their command line, and how their processes end.

A peer is a package: `__main__` starts it, `peer` is what it does (see `Peer`). Only `peer` imports the peer's library:
the process that watches over `work` is counted as the peer's too, and shall not weigh what a library weighs.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn, Protocol, cast
from urllib.parse import urlsplit

from benchmarks import mails

_WARM_UP = 20
"""Mails that nobody counts: connections, caches and prepared statements are there when the clock starts."""

_BATCH = 500
"""Mails of one bulk call of `fill`: nobody times it, and 500 of 20 KB are 10 MB."""

_GRACE = 10
"""Seconds in which a worker may finish what it is at. A mail takes a fraction of one at the slowest relay here."""


@dataclass(frozen=True)
class Surroundings:
    """What the harness says by environment variables."""

    database: str
    redis: str
    smtp_host: str
    smtp_port: int
    processes: int
    connections: int | None
    """SMTP connections in all; None leaves them to the peer."""
    profile: str

    @classmethod
    def told(cls) -> "Surroundings":
        told = os.environ
        return cls(
            database=told["DATABASE_URL"],
            redis=told["REDIS_URL"],
            smtp_host=told["SMTP_HOST"],
            smtp_port=int(told["SMTP_PORT"]),
            processes=int(told["PROCESSES"]),
            connections=int(told.get("CONNECTIONS") or 0) or None,
            profile=told.get("PROFILE") or "default",
        )

    @property
    def workers(self) -> int:
        """Processes that share the connections: never more than there are connections."""
        return min(self.processes, self.connections or self.processes)

    @property
    def connections_each(self) -> int | None:
        return self.connections and self.connections // self.workers

    def django(self) -> dict[str, Any]:
        """Settings of a Django project that has nothing but a database and a relay."""
        database = urlsplit(self.database)
        return {
            "DATABASES": {
                "default": {
                    "ENGINE": "django.db.backends.postgresql",
                    "HOST": database.hostname,
                    "PORT": database.port,
                    "USER": database.username,
                    "PASSWORD": database.password,
                    "NAME": database.path[1:],
                }
            },
            "EMAIL_HOST": self.smtp_host,
            "EMAIL_PORT": self.smtp_port,
            "TEMPLATES": [{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        }


@dataclass(frozen=True)
class Mail:
    recipient: str
    subject: str
    text: str
    html: str
    sender: str = mails.sender


class Peer(Protocol):
    """A peer's module `peer`. Importing it connects to nothing."""

    def prepare(self) -> None:
        """Create the tables."""

    def fill(self, batch: list[Mail]) -> None:
        """Put them on record as fast as can be."""

    def queue_one(self, mail: Mail) -> float:
        """As an application does, in a commit of its own. Returns when that was done, by `time.monotonic()`.

        A peer with a broker publishes a task afterwards, and that its mail waits for that counts as a delay.
        """

    def queue_many(self, batch: list[Mail]) -> None:
        """By the peer's own call for many."""

    def work(self, number: int, ready: Callable[[], None]) -> None:
        """Deliver, until SIGTERM ends the process. Runs in each worker; `number` tells them apart.

        It calls `ready` as soon as it takes mail.
        """


def run(module: str, *, workers: int, pushes: bool = True) -> None:
    """The command line. `workers`: processes for `work`; `pushes`: a mail is delivered as soon as it is queued."""
    parser = argparse.ArgumentParser(prog=f"python -m {module.rpartition('.')[0]}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare")
    commands.add_parser("work")
    for name in ("fill", "enqueue", "trickle"):
        commands.add_parser(name).add_argument("count", type=int)
    for name in ("fill", "enqueue"):
        commands.choices[name].add_argument("size", type=int)
    commands.choices["enqueue"].add_argument("how", choices=["one", "bulk"])
    commands.choices["trickle"].add_argument("pause", type=float)
    asked = parser.parse_args()
    if asked.command == "work":
        _watch(module, workers)
    if asked.command == "trickle" and not pushes:
        parser.error("it looks for mail at intervals that cron decides, so there is no delay of its own to measure")

    peer = cast("Peer", importlib.import_module(module))
    match asked.command:
        case "prepare":
            peer.prepare()
        case "fill":
            numbers = iter(range(asked.count))
            while batch := list(_mails(islice(numbers, _BATCH), asked.size)):
                peer.fill(batch)
        case "enqueue":
            _say({"seconds": _enqueue(peer, asked.count, asked.size, asked.how)})
        case "trickle":
            _say({"committed": list(_trickle(peer, asked.count, asked.pause))})


def _mails(numbers: Iterable[int], size: int) -> Iterator[Mail]:
    for number in numbers:
        yield Mail(mails.recipient(number), mails.subject(number), mails.text(number), mails.html(number, size))


def _enqueue(peer: Peer, count: int, size: int, how: str) -> float:
    """Seconds; what the mails say is made before."""

    def queue(batch: list[Mail]) -> None:
        if how == "bulk":
            peer.queue_many(batch)
        else:
            for mail in batch:
                peer.queue_one(mail)

    batch = list(_mails(range(count), size))
    queue(list(_mails(range(count, count + _WARM_UP), size)))
    began = time.perf_counter()
    queue(batch)
    return time.perf_counter() - began


def _trickle(peer: Peer, count: int, pause: float) -> Iterator[float]:
    """When each was committed, by a clock that all processes of the machine share."""
    for number in range(count):
        html = mails.html(number, 2_000)
        yield peer.queue_one(Mail(f"trickle-{number}@example.com", mails.subject(number), mails.text(number), html))
        time.sleep(pause)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")


def _watch(module: str, workers: int) -> NoReturn:
    """Run that many workers until SIGTERM; then none of their processes is left, whatever it was at.

    Each leads a process group, so that those which it forked itself are found when it is gone. Files that they leave
    behind in the folder for temporary ones, locks above all, go with them.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        os.environ["TMPDIR"] = folder
        tempfile.tempdir = None  # it is looked up again
        started: list[BaseProcess] = []
        try:
            for number in range(workers):
                started.append(context.Process(target=_serve, args=(module, number, lambda: tell.send_bytes(b"!"))))
                started[-1].start()
            ends = [worker.sentinel for worker in started]
            for _ in started:
                if told not in wait([told, *ends]):
                    sys.exit("a worker ended before it took mail")
                told.recv_bytes()
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            wait(ends)
            sys.exit("a worker ended by itself")
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _end(started)


def _serve(module: str, number: int, ready: Callable[[], None]) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the harness reads ours, and libraries greet their users
    cast("Peer", importlib.import_module(module)).work(number, ready)


def _end(workers: list[BaseProcess]) -> None:
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + _GRACE
    # Not join(), which waits for those that the worker forked, too.
    while any(worker.is_alive() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    for worker in workers:
        with suppress(ProcessLookupError):
            os.killpg(cast("int", worker.pid), signal.SIGKILL)
        worker.join()
