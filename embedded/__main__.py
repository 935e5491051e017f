"""`python -m embedded start [--detach]` and `stop`: the Python half of start_services.sh and stop_services.sh."""

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from embedded.errors import StartError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a kill, a closed terminal
_INTERRUPTED = 130  # what a shell reports for Ctrl-C


def main() -> int:
    """The exit code: 0, or 1 with the reason and the remedy on stderr."""
    parser = argparse.ArgumentParser(prog="./start_services.sh", description="Run everything, and show it at work.")
    parser.add_argument("verb", choices=["start", "stop"], help=argparse.SUPPRESS)
    parser.add_argument("--detach", action="store_true", help="leave it running; ./stop_services.sh stops it")
    arguments = parser.parse_args()
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    try:
        return _run(arguments.verb, detach=arguments.detach)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(verb: str, *, detach: bool) -> int:
    # Imported here, since it takes a second, and Ctrl-C should be as quiet then as it is later.
    from rich.console import Console  # noqa: PLC0415

    try:
        if verb == "stop":
            from embedded.stop import stop  # noqa: PLC0415
            from embedded.supervision import Supervisor  # noqa: PLC0415

            stop(Supervisor(Path.cwd()), Console())
        else:
            from embedded.run import start  # noqa: PLC0415

            start(Path.cwd(), Console(), detach=detach)
    except StartError as error:
        Console(stderr=True, style="red", highlight=False).print(str(error), markup=False, soft_wrap=True)
        return 1
    return 0


def _interrupt(number: int, _: FrameType | None) -> None:
    """The same orderly way out for each; a second signal does not disturb it."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if number == signal.SIGHUP:
        # Nobody is left to read, and to write to a terminal that is gone is an error.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
