"""The contract of a contender, and what ours and the limits have in common to keep it.

Each is a program that sends mail in one way: `PYTHON -m benchmarks.contenders.NAME COMMAND ...`.

Its surroundings are environment variables: DATABASE_URL, REDIS_URL, SMTP_HOST, SMTP_PORT, PROCESSES (worker processes),
CONNECTIONS (SMTP connections in all; empty: what its documentation advises), PROFILE (where a file has several ways)
and TMPDIR, which is its alone and stays from its first command to its last.

    prepare                     create the tables
    fill COUNT BYTES            put mails on record that are due now, and send none
    enqueue COUNT BYTES one|bulk|templated   as an application would; prints {"seconds": of the enqueueing alone}
    work                        deliver what is due and what comes, until SIGTERM; prints `ready` when it can
    trickle COUNT PAUSE         beside a `work`: a commit each PAUSE seconds; prints {"committed": [time.monotonic()]}
"""

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
