"""A relay at a scripted server, and the `begin` it is given."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from outbox.errors import LeaseLost
from outbox.relay import Relay, Report
from outbox.settings import Settings
from tests.smtp_server import SmtpProcess, SmtpServer

MAIL = b"Subject: Hello\r\n\r\nHello, Ada.\r\n"
ADA = "ada@example.com"
BOB = "bob@example.com"


class Marker:
    """`begin`, and what became of it. `on_wait` runs where the commit is waited for."""

    def __init__(self, on_wait: Callable[[], object] = lambda: None) -> None:
        self.on_wait = on_wait
        self.started = 0
        self.awaited = 0

    def __call__(self) -> Callable[[], None]:
        self.started += 1
        return self._wait

    def _wait(self) -> None:
        self.awaited += 1
        self.on_wait()


def lease_lost() -> None:
    raise LeaseLost("another worker has it")


@contextmanager
def connected(server: SmtpServer | SmtpProcess, **values: Any) -> Iterator[Relay]:
    timeouts = {"smtp_connect_timeout": 5, "smtp_timeout": 5, "smtp_dot_timeout": 5}
    at = {"smtp_host": server.host, "smtp_port": server.port}
    subject = Relay(Settings.load(_env_file=None, **(at | timeouts | values)))
    try:
        yield subject
    finally:
        subject.close()


def send(subject: Relay, recipient: str = ADA, message: bytes = MAIL, marker: Marker | None = None) -> Report:
    return subject.send("shop@example.com", recipient, message, marker or Marker(), time.monotonic() + 60)
