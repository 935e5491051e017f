"""The relays that mail is sent to: Postfix's, which costs least, and ours, which can be far away and tells more."""

import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from benchmarks.children import child, wait_until
from benchmarks.environment import ROOT, clean
from benchmarks.postfix import Postfix
from tests.servers import free_port

_COUNTED = re.compile(rb"mesg=(\d+)")
_TAIL_BYTES = 200
"""Of what smtp-sink prints: a line of 30 bytes for each mail, of which the last counts."""

_BACKLOG = "256"


class Sink(Protocol):
    """A relay that takes every mail. It runs until its context ends."""

    name: str
    port: int
    pid: int

    def mails(self) -> int:
        """How many it has taken so far."""


class SmtpSink:
    """Postfix's."""

    name = "smtp-sink"

    def __init__(self, port: int, pid: int, output: Path) -> None:
        self.port, self.pid, self._output = port, pid, output

    def mails(self) -> int:
        """As its counters say."""
        with self._output.open("rb") as printed:
            printed.seek(max(0, self._output.stat().st_size - _TAIL_BYTES))
            # The last number may be half written; that before it is a moment old.
            whole = printed.read().rpartition(b"\r")[0]
        counted = _COUNTED.findall(whole)
        return int(counted[-1]) if counted else 0


class OwnSink:
    """Ours."""

    name = "benchmarks.sink"

    def __init__(self, port: int, pid: int, control: int) -> None:
        self.port, self.pid, self._control = port, pid, control

    def mails(self) -> int:
        """As it tells."""
        return int(self.stats()["mails"])

    def stats(self) -> dict[str, Any]:
        """Read `sink.Record.stats`."""
        told: dict[str, Any] = self._ask("stats")
        return told

    def times(self) -> dict[str, list[float]]:
        """Recipient -> `time.monotonic()` of each 250 after a dot."""
        told: dict[str, list[float]] = self._ask("times")
        return told

    def _ask(self, wish: str) -> Any:
        with socket.create_connection(("127.0.0.1", self._control)) as connection:
            connection.sendall(f"{wish}\n".encode())
            with connection.makefile("rb") as told:
                return json.load(told)


@contextmanager
def smtp_sink(postfix: Postfix, folder: Path) -> Iterator[SmtpSink]:
    """Postfix's, as nobody where we are root, which it wants to be told."""
    port, output = free_port(), folder / "smtp-sink"
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    command = [str(postfix.sink), "-c", *user, f"127.0.0.1:{port}", _BACKLOG]
    with child(command, clean() | postfix.environment, folder, output) as process:
        wait_until(lambda: _answers(port), process, output)
        yield SmtpSink(port, process.pid, output)


@contextmanager
def own_sink(folder: Path, *, delay: float = 0.0) -> Iterator[OwnSink]:
    """Ours, `delay` seconds away."""
    port, control, output = free_port(), free_port(), folder / "sink"
    options = [f"--port={port}", f"--control={control}", f"--delay={delay}"]
    with child([sys.executable, "-m", "benchmarks.sink", *options], clean(), ROOT, output) as process:
        wait_until(lambda: _answers(control), process, output)
        yield OwnSink(port, process.pid, control)


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
