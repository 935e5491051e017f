"""A relay at a scripted server, and the `begin` it is given."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from outbox.endpoints import Endpoint
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
    """`values` are fields of `Endpoint` and of `Settings`."""
    timeouts = {"smtp_connect_timeout": 5, "smtp_timeout": 5, "smtp_dot_timeout": 5}
    names = {field.name for field in fields(Endpoint)} & values.keys()
    endpoint = replace(Endpoint(server.host, server.port), **{name: values.pop(name) for name in names})
    subject = Relay(endpoint, Settings.load(_env_file=None, **(timeouts | values)))
    try:
        yield subject
    finally:
        subject.close()


def send(subject: Relay, recipient: str = ADA, message: bytes = MAIL, marker: Marker | None = None) -> Report:
    return subject.send("shop@example.com", recipient, message, marker or Marker(), time.monotonic() + 60)
