"""One connection of `smtp_server`, on asyncio: the protocol, kept strictly, with an opening for the script."""

import asyncio
import base64
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.smtp_script import Delay, Dribble, Drop, Event, Hang, Mail, Raw, Reaction, Reply

if TYPE_CHECKING:
    from tests.smtp_server import SmtpServer

_LAST_IN_GROUP = {"EHLO", "HELO", "DATA", "NOOP", "QUIT", "AUTH", "STARTTLS"}  # RFC 2920, 3.1
_UNSTUFFED = re.compile(rb"(?:\A|\n)\.(?!\.)")
_PATH = re.compile(r"(?:FROM|TO):<([^<> ]*)>((?: [A-Z0-9]+(?:=\S+)?)*)", re.IGNORECASE)
_LONGEST_COMMAND = 512  # RFC 5321, 4.5.3.1.4, with its CRLF
_FRIENDLY = {
    "CONNECT": Reply(220, "relay.example ESMTP"),
    "EHLO": Reply(250),
    "HELO": Reply(250, "relay.example"),
    "STARTTLS": Reply(220, "go ahead"),
    "AUTH": Reply(235, "2.7.0 welcome"),
    "MAIL": Reply(250, "2.1.0 ok"),
    "RCPT": Reply(250, "2.1.5 ok"),
    "DATA": Reply(354, "go ahead"),
    "DOT": Reply(250, "2.0.0 queued"),
    "RSET": Reply(250, "2.0.0 ok"),
    "NOOP": Reply(250, "2.0.0 ok"),
    "QUIT": Reply(221, "2.0.0 bye"),
}
_LONGEST_LINE = 1000  # RFC 5321, 4.5.3.1.6, with its CRLF


class Session(asyncio.Protocol):
    """One connection."""

    transport: asyncio.Transport
    sender: str | None
    parameters: tuple[str, ...]  # of the last MAIL
    asked: str | None  # the last recipient that was named, taken or not
    recipients: list[str]
    in_body: bool
    body_begun: bool
    searched: int  # where in the buffer the final dot can still be

    def __init__(self, server: "SmtpServer") -> None:
        self.server = server
        self.buffer = bytearray()
        self.segment = 0
        self.begins_segment = True
        self.waiting = False  # for a delay, a handshake, or for ever
        self.encrypted = server.tls is not None
        self.greeted = self.authenticated = False
        self._forget()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.connections += 1
        self.number = self.server.connections
        self.server.open.add(self)
        self._react("CONNECT", "", _FRIENDLY["CONNECT"])

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.open.discard(self)
        self.server.changed()

    def data_received(self, data: bytes) -> None:
        self.segment += 1
        self.begins_segment = True
        self.buffer += data
        self._read()

    def _read(self) -> None:
        while self.buffer and not self.waiting and not self.transport.is_closing():
            if not (self._read_body() if self.in_body else self._read_command()):
                break

    def _read_command(self) -> bool:
        end = self.buffer.find(b"\r\n")
        if end < 0:
            if len(self.buffer) > _LONGEST_COMMAND:
                self._violation("a command without end", bytes(self.buffer))
            return False
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 2]
        if not _is_command(line):
            self._violation("not a command line", line)
            return False
        verb, _, argument = line.decode().partition(" ")
        verb = verb.upper()
        if self.buffer and (not self.server.pipelining or verb in _LAST_IN_GROUP):
            self._violation("more was sent before the reply to", line)
            return False
        self._command(verb, argument)
        self.begins_segment = False
        return True

    def _command(self, verb: str, argument: str) -> None:
        path = _PATH.fullmatch(argument) if verb in {"MAIL", "RCPT"} else None
        if verb in {"MAIL", "RCPT"} and path is None:
            self._violation("no path in", f"{verb} {argument}".encode())
            return
        if path is not None:
            argument = path[1]
            parameters = tuple(path[2].upper().split())
            if verb == "MAIL":
                self.parameters = parameters
            if not self._allows(argument, parameters):
                self._violation("SMTPUTF8 was not offered, or not asked for, in", f"{verb} {argument}".encode())
                return
        if verb == "RCPT":
            self.asked = argument
        self._react(verb, argument, self._friendly(verb, argument))

    def _allows(self, address: str, parameters: tuple[str, ...]) -> bool:
        """RFC 6531: SMTPUTF8 where it was offered, with an 8-bit body, and no such address without it."""
        asked = "SMTPUTF8" in self.parameters
        if {"SMTPUTF8", "BODY=8BITMIME"} & set(parameters) and not {"SMTPUTF8", "8BITMIME"} <= set(
            self.server.extensions
        ):
            return False
        return asked == ("BODY=8BITMIME" in self.parameters) and (asked or address.isascii())

    def _friendly(self, verb: str, argument: str) -> Reaction:
        """The answer of a relay in good mood, to a client that minds the order."""
        login = self.server.login
        in_order = {
            "STARTTLS": self.server.starttls is not None and not self.encrypted,
            "AUTH": login is not None and self.greeted and not self.authenticated,
            "MAIL": self.greeted and self.sender is None,
            "RCPT": self.sender is not None,
            "DATA": bool(self.recipients),
        }
        if not in_order.get(verb, verb in _FRIENDLY):
            if self.begins_segment:  # behind a refused command of the same write it is nobody's fault
                self.server.violations.append(f"{verb} {argument} out of order")
            return Reply(503, "5.5.1 out of order") if verb in _FRIENDLY else Reply(500, "5.5.2 unknown command")
        if verb == "EHLO":
            return Reply(250, "\n".join(["relay.example", *self._extensions()]))
        if login is not None and verb == "AUTH" and argument != _plain(*login):
            return Reply(535, "5.7.8 authentication failed")
        if login is not None and verb == "MAIL" and not self.authenticated:
            return Reply(530, "5.7.0 authentication required")
        return _FRIENDLY[verb]

    def _extensions(self) -> list[str]:
        offered = list(self.server.extensions)
        if self.server.pipelining:
            offered.append("PIPELINING")
        if self.server.starttls and not self.encrypted:
            offered.append("STARTTLS")
        if self.server.login:
            offered.append("AUTH PLAIN")
        return offered

    def _read_body(self) -> bool:
        if not self.body_begun:
            self.body_begun = True
            self._react("BODY", "", None)
            return True
        start = 0 if self.buffer.startswith(b".\r\n") else self.buffer.find(b"\r\n.\r\n", self.searched)
        if start < 0:
            self.searched = max(0, len(self.buffer) - 4)
            return False
        text_end, end = (0, 3) if self.buffer.startswith(b".\r\n") else (start + 2, start + 5)
        body = bytes(self.buffer[:text_end])
        del self.buffer[:end]
        if self.buffer and not self.server.pipelining:  # RFC 2920, 3.1: else a message may be the first of a group
            self._violation("more was sent behind the dot", bytes(self.buffer))
        elif _is_malformed(body):
            self._violation("a bare CR or LF, a dot that is not doubled or an endless line in", body)
        elif not body.isascii() and "BODY=8BITMIME" not in self.parameters:
            self._violation("8 bits, and no BODY=8BITMIME, in", body)
        else:
            self.body = re.sub(rb"(\A|\n)\.\.", rb"\1.", body) if b".." in body else body
            self._react("DOT", "", _FRIENDLY["DOT"])
        return True

    def _react(self, verb: str, argument: str, friendly: Reaction | None) -> None:
        event = Event(
            verb, argument, self.number, self.segment, self.encrypted, self.sender, self.asked, time.monotonic()
        )
        self.server.events.append(event)
        try:
            reaction = self.server.script(event) or friendly
        except Exception as error:  # noqa: BLE001 - a script's failed assertion belongs to the test, not to the loop
            self._violation(f"the script raised {error!r} at", verb.encode())
            return
        if reaction is not None:
            self._perform(verb, argument, reaction, friendly)
        self.server.changed()

    def _perform(self, verb: str, argument: str, reaction: Reaction, friendly: Reaction | None) -> None:
        match reaction:
            case Delay(seconds, then, accept):
                self._pause(verb)
                if accept:
                    self._settle(verb, accept=True)
                asyncio.get_running_loop().call_later(seconds, self._resume, verb, argument, then or friendly)
            case Hang(accept):
                self._pause(verb)
                self._settle(verb, accept=accept)
            case Drop(accept):
                self._settle(verb, accept=accept)
                self.transport.close()
            case Raw(data):
                self._settle(verb, accept=False)
                self.transport.write(data)
            case Dribble(every, then):
                reply = then or friendly
                assert isinstance(reply, Reply)
                self._answer(verb, argument, reply, every)
            case Reply():
                self._answer(verb, argument, reaction)

    def _answer(self, verb: str, argument: str, reply: Reply, every: float | None = None) -> None:
        self._settle(verb, accept=reply.code < 400)
        self._apply(verb, argument, reply.code)
        *before, last = reply.text.split("\n")
        lines = [f"{reply.code}-{line}\r\n" for line in before] + [f"{reply.code} {last}\r\n"]
        data = "".join(lines).encode()
        if every is not None:
            self._dribble(data, every)
            return
        self.transport.write(data)
        if verb == "STARTTLS" and reply.code == 220:
            self.waiting = True
            self._upgrade = asyncio.ensure_future(self._encrypt())
        elif verb == "QUIT" or reply.code == 421:
            self.transport.close()

    def _dribble(self, data: bytes, every: float) -> None:
        """Meanwhile nothing else is answered: a reply does not break into another."""
        self.waiting = bool(data)
        if self.transport.is_closing():
            return
        self.transport.write(data[:1])
        if data:
            asyncio.get_running_loop().call_later(every, self._dribble, data[1:], every)
        else:
            self._read()

    def _pause(self, verb: str) -> None:
        self.waiting = True
        if verb == "BODY":  # what comes now piles up at the client
            self.transport.pause_reading()

    def _resume(self, verb: str, argument: str, reaction: Reaction | None) -> None:
        self.waiting = False
        self.transport.resume_reading()
        if reaction is not None and not self.transport.is_closing():
            self._perform(verb, argument, reaction, None)
        self.server.changed()
        self._read()

    def _apply(self, verb: str, argument: str, code: int) -> None:
        """What the reply changes for the commands that follow."""
        match verb, code // 100:
            case "EHLO" | "HELO", 2:
                self.greeted = True
                self._forget()
            case "AUTH", 2:
                self.authenticated = True
            case "MAIL", 2:
                self.sender = argument
            case "RCPT", 2:
                self.recipients.append(argument)
            case "DATA", 3:
                self.in_body = True
            case "RSET", 2:
                self._forget()

    def _settle(self, verb: str, *, accept: bool) -> None:
        """The transaction ends with its dot, whatever is answered."""
        if verb == "DOT":
            if accept:
                assert self.sender is not None
                self.server.accept(
                    Mail(self.sender, tuple(self.recipients), self.body, self.number, time.time(), self.parameters)
                )
            self._forget()

    def _forget(self) -> None:
        self.sender = None
        self.parameters = ()
        self.asked = None
        self.recipients = []
        self.in_body = False
        self.body_begun = False
        self.searched = 0
        self.body = b""

    async def _encrypt(self) -> None:
        assert self.server.starttls is not None
        with suppress(OSError):  # the client did not like our certificate; connection_lost follows
            transport = await asyncio.get_running_loop().start_tls(
                self.transport, self, self.server.starttls, server_side=True
            )
            assert transport is not None
            self.transport = transport
            self.encrypted, self.greeted, self.waiting = True, False, False
            self._read()

    def _violation(self, what: str, where: bytes) -> None:
        self.server.violations.append(f"{what} {where[:200]!r}")
        self.transport.abort()


def _is_command(line: bytes) -> bool:
    """UTF-8 (RFC 6531) may stand in it, if in an address."""
    try:
        return line.decode().isprintable() and len(line) <= _LONGEST_COMMAND - 2
    except UnicodeDecodeError:
        return False


def _is_malformed(body: bytes) -> bool:
    lines = body.count(b"\r\n")
    return (
        not lines == body.count(b"\n") == body.count(b"\r")
        or ((body.startswith(b".") or b"\n." in body) and _UNSTUFFED.search(body) is not None)
        or max(map(len, body.split(b"\n"))) >= _LONGEST_LINE
    )


def _plain(user: str, password: str) -> str:
    """AUTH's argument, RFC 4616."""
    return "PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode()
