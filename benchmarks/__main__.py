"""`python -m benchmarks [QUESTION ...]`, and `python -m benchmarks plot FILE FOLDER` of what it wrote."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from benchmarks import environment, postfix
from benchmarks.bench import Bench
from benchmarks.machine import machine, versions
from benchmarks.questions import drain, enqueue, latency, memory, profile, relay, scale
from benchmarks.results import Results
from benchmarks.servers import servers
from benchmarks.table import show

_QUESTIONS: dict[str, Callable[[Bench], None]] = {
    "drain": drain.ask,
    "enqueue": enqueue.ask,
    "latency": latency.ask,
    "relay": relay.ask,
    "scale": scale.ask,
    "memory": memory.ask,
    "profile": profile.ask,
}
_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(epilog="`plot FILE FOLDER` draws what an earlier run wrote.")
@click.argument("questions", nargs=-1, type=click.Choice(list(_QUESTIONS)))
@click.option("--quick", is_flag=True, help="See in three minutes that all of it works; the figures mean little.")
@click.option("--json", "file", type=_FILE, help="Write everything that was measured.")
@click.option("--plots", "folder", type=_FOLDER, help="Draw it: a picture for each question.")
def ask(questions: tuple[str, ...], *, quick: bool, file: Path | None, folder: Path | None) -> None:
    """Measure how fast mail goes: ours, its peers and the raw limits. No QUESTION asks all of them."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C: whatever was started is stopped
    console = Console()
    with console.status("The environment of the peers ..."):
        environment.install()
    with tempfile.TemporaryDirectory(prefix="outbox-bench-") as scratch, servers() as running:
        results = Results(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            quick=quick,
            machine=machine(),
            versions=versions() | running.versions,
        )
        bench = Bench(running, Path(scratch), postfix.find(), console, results, os.cpu_count() or 1)
        file = file or (Path(scratch) / "results.json" if folder else None)
        for question in questions or _QUESTIONS:
            _QUESTIONS[question](bench)
            if file is not None:  # after each: they take long, and the next may be interrupted
                results.write(file)
        show(console, results)
        if file is not None and folder is not None:
            _draw(file, folder)


@click.command
@click.argument("file", type=_FILE)
@click.argument("folder", type=_FOLDER)
def plot(file: Path, folder: Path) -> None:
    """Draw what was measured: a picture for each question."""
    environment.install()
    _draw(file, folder)


def _draw(file: Path, folder: Path) -> None:
    """With matplotlib, which is not in the project's environment."""
    files = [str(file.resolve()), str(folder.resolve())]
    subprocess.run([environment.PYTHON, "-m", "benchmarks.plots", *files], cwd=environment.ROOT, check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["plot"]:
        plot(sys.argv[2:], prog_name="python -m benchmarks plot")
    else:
        ask(prog_name="python -m benchmarks")
