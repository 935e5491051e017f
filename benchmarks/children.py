"""Processes that are started for a while. Whatever happens, neither they nor what they started stays."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_STOP_SECONDS = 30
"""For a worker to finish the mails in hand. Then it is killed."""

_START_SECONDS = 60
"""For a process to be ready, on a machine that is busy. A few are usual."""


class ChildFailed(Exception):
    """It ended, or did not do what it should. Says so, with the end of its log."""


def tail(log: Path) -> str:
    """The last lines of a log, for a person to see what went wrong."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(line[:500] for line in lines[-15:])


@contextmanager
def child(
    command: Sequence[str | Path], environment: Mapping[str, str], folder: Path, output: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run it in `folder`; what it prints goes to `output`, its errors to `output` with `.log` behind.

    It is in a session of its own: Ctrl-C is for us, and we end it. Files and not pipes, which fill up unread.
    """
    with output.open("wb") as printed, log_of(output).open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def log_of(output: Path) -> Path:
    """Where its errors are."""
    return output.with_name(f"{output.name}.log")


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], output: Path) -> None:
    """Wait for `ready`; raises ChildFailed if the process ends before, or takes too long."""
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if process.poll() is not None:
            raise ChildFailed(f"it ended with {process.returncode}:\n{tail(log_of(output))}")
        if time.monotonic() > deadline:
            raise ChildFailed(f"it is not ready after {_START_SECONDS} s:\n{tail(log_of(output))}")
        time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    below = []
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:  # Ctrl-C while we wait: no more patience
        for descendant in below:
            with suppress(psutil.NoSuchProcess):
                descendant.kill()
        process.kill()
        process.wait()
