"""A worker that kills itself, as `kill -9` does, at a step of a mail's way:

    python -m tests.faults.worker --kill-at begun --nth 5 -- -A workers worker --loglevel=INFO
    python -m tests.faults.worker --kill-at composing --recipient poison@example.com -- -A workers worker

The product knows nothing of it: the function at that seam is wrapped before Celery's own `main` runs.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery.__main__ import main as celery
from celery.app.task import Task

from app.queues import SEND_EMAILS
from outbox.conversation import Conversation
from outbox.ledger import Ledger
from outbox.message import Message
from outbox.settlement import Settlement
from outbox.states import Stage, Status
from tests.system import Part, System


@dataclass(frozen=True, slots=True)
class Seam:
    """Where to cut: before or after `owner.name(self, ...)`, where `here(self, ...)` holds."""

    owner: type
    name: str
    here: Callable[..., bool]
    after: bool = False
    recipient: Callable[..., str] | None = None
    """Whom it is about, in words that contain the address; None where that is not known."""
    written: bool = False
    """When what the ledger has been told before is on disk."""


def _publishes_mail(task: Task, *_: Any, **__: Any) -> bool:
    return bool(task.name == SEND_EMAILS)


def _reads_the_verdict(conversation: Conversation) -> bool:
    return conversation.parent.stage is Stage.DOT


def _settles_as_sent(_: Ledger, line: Settlement) -> bool:
    return line.status is Status.SENT


def _always(*_: Any, **__: Any) -> bool:
    return True


SEAMS = {
    "claimed": Seam(Task, "apply_async", _publishes_mail),
    "published": Seam(Task, "apply_async", _publishes_mail, after=True),
    "composing": Seam(Message, "as_bytes", _always, recipient=lambda message: message.to),
    "beginning": Seam(Ledger, "begin", _always, written=True),
    "begun": Seam(Conversation, "deliver", _always, recipient=lambda _, data, *__: data.decode("latin-1")),
    "dotted": Seam(Conversation, "getreply", _reads_the_verdict),
    "answered": Seam(Ledger, "settling", _settles_as_sent),
    "settled": Seam(Ledger, "settling", _settles_as_sent, after=True, written=True),
}
"""The steps of a mail, in order. `beginning` is before the row says `sending`; `begun` after it, and before the first
byte of the body; `dotted` between the dot and the reading of its answer; `answered` between the 250 and its record."""


def arm(seam: Seam, nth: int | None, recipient: str | None) -> None:
    """Have this process kill itself the `nth` time that it comes by, or as soon as it is about `recipient`."""
    original = getattr(seam.owner, seam.name)
    lock = threading.Lock()
    seen = 0

    def due(*arguments: Any, **named: Any) -> bool:
        nonlocal seen
        if not seam.here(*arguments, **named):
            return False
        if recipient is not None:
            return seam.recipient is not None and recipient in seam.recipient(*arguments, **named)
        with lock:
            seen += 1
            return seen == nth

    def deadly(*arguments: Any, **named: Any) -> Any:
        dies = due(*arguments, **named)
        result = original(*arguments, **named) if seam.after or not dies else None
        if dies:
            time.sleep(0.5 if seam.written else 0)
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(seam.owner, seam.name, deadly)


def start(system: System, step: str, *which: str) -> Part:
    """Such a worker in a system, not yet ready; `which` are the options that say which mail."""
    command = (sys.executable, "-m", "tests.faults.worker", "--kill-at", step, *which, "--")
    return system.start(step, *command, *system.worker_arguments())


def main() -> None:
    parser = argparse.ArgumentParser(description="A Celery worker that kills itself at a step of a mail's way.")
    parser.add_argument("--kill-at", choices=SEAMS, required=True)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--nth", type=int, help="the so manieth time")
    which.add_argument("--recipient", help="when it is this one's turn")
    parser.add_argument("arguments", nargs="+", help="for celery, behind --")
    options = parser.parse_args()
    seam = SEAMS[options.kill_at]
    if options.recipient and seam.recipient is None:
        parser.error(f"--kill-at {options.kill_at} does not know the recipient: use --nth")
    arm(seam, options.nth, options.recipient)
    sys.argv = ["celery", *options.arguments]
    celery()


if __name__ == "__main__":
    main()
