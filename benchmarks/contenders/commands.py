"""What the contenders' programs have in common: how their commands are read, and the end by SIGTERM."""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

WARM_UP = 20
"""Mails before those that are timed, numbered behind them."""

PROCESSES = int(os.environ.get("PROCESSES") or 1)
SMTP = os.environ.get("SMTP_HOST", "127.0.0.1"), int(os.environ.get("SMTP_PORT") or 25)


def main(**commands: Callable[..., Any]) -> None:
    """Run the command that was asked for; what it returns is printed as JSON."""
    signal.signal(signal.SIGTERM, _end)
    name, *arguments = sys.argv[1:]
    returned = commands[name](*arguments)
    if returned is not None:
        print(json.dumps(returned))


def ready() -> None:
    """Mail can be taken."""
    print("ready", flush=True)


def _end(*_: object) -> NoReturn:
    """SIGTERM unwinds, so that what was started is stopped."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)
