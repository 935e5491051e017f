"""What the machine allows: bytes that are ready, sent over one connection a process. No database, nothing composed.

PROFILE=emails: by the `emails` library, as anybody would who sends with it. PROFILE=pipelined: by a plain socket.
"""

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.message import EmailMessage
from email.policy import SMTP as POLICY
from itertools import islice
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

from emails.backend.smtp.backend import SMTPBackend

from benchmarks import mails
from benchmarks.contenders.commands import PROCESSES, SMTP, main, ready
from benchmarks.pipelining import Pipelined

_ORDER = Path(tempfile.gettempdir()) / "order.json"
"""How many mails, and of which size: what `fill` was asked for."""

_PAGES = 100
"""Different pages; to compose one for each mail would take longer than to send them."""

_NOWHERE = "To: nobody@example.com\r\n"

Send = Callable[[str, bytes], None]


class Ready:
    """Stands in for a message of the standard library."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def as_bytes(self) -> bytes:
        """What the backend sends."""
        return self._data


def prepare() -> None:
    """There are no tables."""


def fill(count: str, size: str) -> None:
    """Remember the order; the bytes are made before `ready`."""
    _ORDER.write_text(json.dumps([int(count), int(size)]))


def work() -> None:
    """Send all of them, then wait to be ended."""
    count, size = json.loads(_ORDER.read_text())
    context = get_context("fork")
    connected, begin = context.Barrier(PROCESSES + 1), context.Event()
    children = [
        context.Process(target=_send_share, args=(range(number, count, PROCESSES), size, connected, begin), daemon=True)
        for number in range(PROCESSES)
    ]
    for child in children:
        child.start()
    try:
        connected.wait()
        ready()
        begin.set()
        signal.pause()
    finally:
        for child in children:
            child.kill()


def _send_share(numbers: range, size: int, connected: Barrier, begin: Event) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    messages = dict(_messages(numbers, size))
    with ExitStack() as stack:
        send = _connect(stack)
        connected.wait()
        begin.wait()
        for recipient, message in messages.items():
            send(recipient, message)
        signal.pause()


def _connect(stack: ExitStack) -> Send:
    host, port = SMTP
    if os.environ["PROFILE"] == "pipelined":
        return stack.enter_context(Pipelined(host, port)).send
    backend = stack.enter_context(SMTPBackend(host=host, port=port, fail_silently=False))
    backend.get_client()

    def send(recipient: str, message: bytes) -> None:
        backend.sendmail(mails.sender, [recipient], Ready(message))

    return send


def _messages(numbers: range, size: int) -> Iterator[tuple[str, bytes]]:
    pages = [compose(number, size) for number in islice(numbers, _PAGES)]
    for place, number in enumerate(numbers):
        recipient = mails.recipient(number)
        yield recipient, pages[place % len(pages)].replace(_NOWHERE.encode(), f"To: {recipient}\r\n".encode(), 1)


def compose(number: int, size: int) -> bytes:
    """A mail to nobody yet."""
    message = EmailMessage(policy=POLICY)
    message["From"], message["Subject"] = mails.sender, mails.subject(number)
    message.add_header(*_NOWHERE.strip().split(": "))
    message.set_content(mails.text(number))
    message.add_alternative(mails.html(number, size), subtype="html")
    return message.as_bytes()


if __name__ == "__main__":
    main(prepare=prepare, fill=fill, work=work)
