"""`python -m embedded start [--detach]` and `stop`: the Python half of start_services.sh and stop_services.sh."""

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from rich.console import Console

from embedded.ports import NoFreePort
from embedded.run import start, stop
from embedded.services import StartError
from outbox.errors import SettingsError

_INTERRUPTED = 130  # what a shell reports for Ctrl-C


def main() -> int:
    """The exit code: 0, or 1 with one sentence on stderr that says why and what to do."""
    parser = argparse.ArgumentParser(prog="./start_services.sh or ./stop_services.sh")
    parser.add_argument("verb", choices=["start", "stop"])
    parser.add_argument("--detach", action="store_true", help="leave everything running and return")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    console = Console()
    root = Path.cwd()
    try:
        if arguments.verb == "stop":
            stop(root, console)
        else:
            start(root, console, detach=arguments.detach)
    except SettingsError as error:
        return _fail(f"The settings are wrong: {error}. Correct the environment or the file .env.")
    except (StartError, NoFreePort) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _interrupt(number: int, _: FrameType | None) -> None:
    """Ctrl-C, a kill, a closed terminal: the same orderly way out, and no second signal disturbs it."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    if number == signal.SIGHUP:
        # Nobody is left to read, and writing to a terminal that is gone would fail.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
    raise KeyboardInterrupt


def _fail(reason: str) -> int:
    Console(stderr=True, style="red", highlight=False).print(reason, markup=False, soft_wrap=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
