"""The relay of a test: `outbox.relay` and `outbox.conversation` as they are, talking to a script and not to a network.

The script answers in the same thread, where the client would use a socket, so all that lies above is production's own:
pipelining, stuffed dots, what a reply means, what a lost connection means.
"""

import re
from dataclasses import replace
from socket import socket
from typing import Any, NamedTuple, cast
from unittest.mock import patch

from emails.utils import DNS_NAME

from outbox.conversation import Conversation
from outbox.endpoints import Endpoint
from outbox.relay import Relay
from outbox.settings import Settings
from outbox.states import Stage
from outbox.testing.script import RelayScript

_ADDRESS = re.compile(r"<(.*?)>")
_END = b"\r\n.\r\n"
_EXTENSIONS = ("relay of a test", "PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")


class Accepted(NamedTuple):
    """A mail for which the relay has said 250: the envelope, and the message as it came."""

    sender: str
    recipient: str
    message: bytes


class ScriptedRelay(Relay):
    """One relay of the settings, under its own name. It asks for no login and no TLS: the line is no network."""

    def __init__(self, endpoint: Endpoint, settings: Settings, script: RelayScript, accepted: list[Accepted]) -> None:
        # The library looks up this machine's name, for EHLO: a question to the network, which on some takes seconds.
        with patch.object(DNS_NAME, "get_fqdn", return_value="test.invalid"):
            super().__init__(
                replace(endpoint, starttls=False, tls=False, user=None, password=None),
                settings.model_copy(update={"smtp_ca_file": None}),
            )
        self.smtp_cls = ScriptedConversation
        self._script = script
        self._accepted = accepted

    def open(self) -> "Line":
        """A connection. Raises what connecting to a relay that is down raises."""
        if self._script.down:
            raise ConnectionRefusedError("Connection refused")
        return Line(self._script, self._accepted)


class ScriptedConversation(Conversation):
    """The client's side."""

    parent: ScriptedRelay

    def _get_socket(self, host: str, port: int, timeout: float) -> socket:
        del host, port, timeout
        return cast("socket", self.parent.open())


class Line:
    """The relay's side, in the shape of the client's socket."""

    def __init__(self, script: RelayScript, accepted: list[Accepted]) -> None:
        self._script = script
        self._accepted = accepted
        self._received = b""
        self._replies = bytearray(b"220 relay of a test\r\n")
        self._sender: str | None = None
        self._recipient: str | None = None
        self._reading_message = False
        self._hung_up = False

    def sendall(self, data: bytes) -> None:
        """The client says something, and is answered at once."""
        self._received += data
        while not self._hung_up and (end := _END if self._reading_message else b"\r\n") in self._received:
            said, _, self._received = self._received.partition(end)
            if self._reading_message:
                self._reading_message = False
                self._take(said + b"\r\n")
            else:
                self._answer(said.decode("utf-8", "replace"))

    def recv_into(self, buffer: Any) -> int:
        """What the relay has said. Nothing, to a client that waits for more, means that it has hung up."""
        taken = bytes(self._replies[: len(buffer)])
        buffer[: len(taken)] = taken
        del self._replies[: len(taken)]
        return len(taken)

    def gettimeout(self) -> float:
        """Answers come at once or never."""
        return 1.0

    def settimeout(self, seconds: float | None) -> None:
        """As `gettimeout`."""

    def close(self) -> None:
        """The client hangs up."""
        self._hung_up = True

    def _answer(self, command: str) -> None:
        match command[:4].upper():
            case "EHLO":
                *first, last = _EXTENSIONS
                self._say(*(f"250-{line}" for line in first), f"250 {last}")
            case "MAIL":
                self._sender, self._recipient = _address(command), None
                self._say("250 2.1.0 sender ok")
            case "RCPT":
                self._name_recipient(_address(command))
            case "DATA" if self._recipient is None:
                self._say("503 5.5.1 no recipient")
            case "DATA":
                self._reading_message = True
                self._say("354 go ahead")
            case "RSET":
                self._sender = self._recipient = None
                self._say("250 2.0.0 forgotten")
            case "QUIT":
                self._say("221 2.0.0 goodbye")
                self._hung_up = True
            case _:
                self._say("502 5.5.2 unknown command")

    def _name_recipient(self, recipient: str) -> None:
        rule = self._script.rule(Stage.RCPT, recipient)
        if rule is not None and rule.reply is not None:
            self._say(rule.reply)
            return
        self._recipient = recipient
        self._say("250 2.1.5 recipient ok")

    def _take(self, message: bytes) -> None:
        assert self._sender is not None
        assert self._recipient is not None
        if self._script.rule(Stage.DOT, self._recipient) is not None:
            self._hung_up = True
            return
        unstuffed = message.removeprefix(b".").replace(b"\r\n.", b"\r\n")
        self._accepted.append(Accepted(self._sender, self._recipient, unstuffed))
        self._say("250 2.0.0 taken")

    def _say(self, *lines: str) -> None:
        self._replies += "".join(f"{line}\r\n" for line in lines).encode()


def _address(command: str) -> str:
    found = _ADDRESS.search(command)
    assert found is not None, command
    return found[1]
