"""Where contenders are run: the servers, a folder, and what was measured so far."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console

from benchmarks import environment
from benchmarks.children import ChildFailed, child, log_of, tail, wait_until
from benchmarks.postfix import Postfix
from benchmarks.registry import CONTENDERS, Contender, Kind, title
from benchmarks.results import Measurement, Results
from benchmarks.servers import Servers
from benchmarks.sinks import Sink, own_sink, smtp_sink

_COMMAND_SECONDS = 900
"""For a command that ends by itself. To put 100,000 mails on record takes the slowest three minutes."""

_NO_SINK = 9
"""The port of `discard`, where nobody listens: what only puts mail on record connects to none."""


@dataclass
class Entry:
    """A contender with a database and a folder of its own."""

    contender: Contender
    database: str
    environment: dict[str, str]
    folder: Path

    def run(self, *arguments: object) -> str:
        """Run a command that ends by itself; returns what it printed. Raises ChildFailed."""
        output = self.folder / str(arguments[0])
        with child(self._command(arguments), self.environment, environment.ROOT, output) as process:
            try:
                process.wait(_COMMAND_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise ChildFailed(f"{arguments[0]} takes more than {_COMMAND_SECONDS} s") from error
        if process.returncode:
            raise ChildFailed(f"{arguments[0]} ended with {process.returncode}:\n{tail(log_of(output))}")
        return output.read_text()

    def told(self, *arguments: object) -> dict[str, Any]:
        """The same; its last line is JSON."""
        printed: dict[str, Any] = json.loads(self.run(*arguments).splitlines()[-1])
        return printed

    @contextmanager
    def working(self) -> Iterator[subprocess.Popen[bytes]]:
        """Deliver, from `ready` until the end of the context. Raises ChildFailed."""
        output = self.folder / "work"
        with child(self._command(["work"]), self.environment, environment.ROOT, output) as process:
            wait_until(lambda: b"ready" in output.read_bytes().splitlines(), process, output)
            yield process

    def _command(self, arguments: Sequence[object]) -> list[str]:
        python = environment.PYTHON if self.contender.kind is Kind.PEER else sys.executable
        return [str(python), "-m", f"benchmarks.contenders.{self.contender.module}", *map(str, arguments)]


@dataclass
class Bench:
    """What all questions share."""

    servers: Servers
    folder: Path
    postfix: Postfix | None
    console: Console
    results: Results
    processes: int
    _prepared: dict[str, str] = field(default_factory=dict)
    """Module -> the database with its tables, of which each run gets a copy."""

    @property
    def quick(self) -> bool:
        """Whether to see that it works is enough."""
        return self.results.quick

    @contextmanager
    def entry(self, name: str, sink: Sink | None = None, **more: str) -> Iterator[Entry]:
        """A contender with its tables, empty, and nothing in Redis. `more` is for its environment."""
        with self.entered(name, self.servers.create(self._tables(CONTENDERS[name])), sink, **more) as entry:
            try:
                yield entry
            finally:
                self.servers.drop(entry.database)

    @contextmanager
    def entered(self, name: str, database: str, sink: Sink | None = None, **more: str) -> Iterator[Entry]:
        """The same with a database that is there, and stays."""
        contender = CONTENDERS[name]
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            surroundings = {
                "DATABASE_URL": self.servers.url(database),
                "REDIS_URL": self.servers.redis_url,
                "SMTP_HOST": "127.0.0.1",
                "SMTP_PORT": str(sink.port if sink else _NO_SINK),
                "PROCESSES": str(self.processes),
                "CONNECTIONS": "",
                "PROFILE": contender.profile,
                "TMPDIR": folder,
            }
            yield Entry(contender, database, environment.clean() | surroundings | more, Path(folder))

    @contextmanager
    def sink(self) -> Iterator[Sink]:
        """The relay that costs least."""
        with smtp_sink(self.postfix, self.folder) if self.postfix else own_sink(self.folder) as sink:
            yield sink

    def take_turns(
        self, question: str, runs: Mapping[tuple[str, str], Callable[[], Mapping[str, float]]], rounds: int = 3
    ) -> None:
        """Run each (case, contender) once a round: what slows the machine down for a while strikes all alike.

        One that fails is noted, and the others go on.
        """
        for number in range(1, (1 if self.quick else rounds) + 1):
            for (case, contender), run in runs.items():
                self.measure(question, case, contender, number, run)

    def measure(
        self, question: str, case: str, contender: str, number: int, run: Callable[[], Mapping[str, float]]
    ) -> None:
        """Run it once and keep what it returns."""
        what = f"{question}: {case}, {title(contender)}"
        try:
            with self.console.status(f"{what}, round {number} ..."):
                figures = dict(run())
        except (ChildFailed, psycopg.Error, OSError, ValueError) as error:
            self.results.measurements.append(Measurement(question, case, contender, number, remark=str(error)))
            self.console.print(f"{what}: failed: {error}", style="red", markup=False)
        else:
            self.results.measurements.append(Measurement(question, case, contender, number, figures))
            shown = ", ".join(f"{name} {value:,.4g}" for name, value in figures.items())
            self.console.print(f"{what}: {shown}", markup=False, highlight=False, style="dim")

    def _tables(self, contender: Contender) -> str:
        if contender.module not in self._prepared:
            database = self.servers.create()
            with self.entered(contender.name, database) as entry:
                entry.run("prepare")
            self._prepared[contender.module] = database
        return self._prepared[contender.module]
