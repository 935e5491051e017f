"""What goes over the wire: the `emails` library's SMTP client, made strict.

The library trusts any certificate, opens a second connection for TLS from the start, takes words for replies, and
looks for dots one line at a time. Here is what it says instead; what the answers mean is `relay`'s.
"""

import re
import ssl
import time
from contextlib import suppress
from io import BufferedReader, RawIOBase
from smtplib import SMTPNotSupportedError, SMTPResponseException, SMTPServerDisconnected
from socket import AF_INET6, SO_RCVTIMEO, SO_SNDTIMEO, SOL_SOCKET, socket
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from emails.backend.smtp.client import SMTPClientWithResponse

from outbox.outcomes import CLOSING, REACHING
from outbox.states import Stage

if TYPE_CHECKING:
    from outbox.relay import Relay

_BLOCK = 64 * 1024
"""Bytes of a mail in one write. Most mails are one; of a larger one only the last block carries the dot, so that the
deadline is looked at when half a second (at 1 Mbit/s) is left to go, not when a long upload starts."""

_LEAST_SECONDS = 0.1
"""What is left for the verdict when writing took all of the dot's time: it may lie in the socket already."""

_GOODBYE_SECONDS = 5.0
"""How long QUIT waits for an answer that changes nothing."""

_FOREIGN = re.compile(rb"[^\s<>,;:]*[\x80-\xff][^\s<>,;]*")
"""The first word of a message that is not ASCII: in those that we compose, an address."""

_LONGEST_LINE = 8192
"""Bytes, as in the library."""

_TIMEVAL = Struct("@ll")

_LONGEST_REPLY = 64 * 1024
"""Bytes. The longest of use, to EHLO, has some twenty lines of at most 512 (RFC 5321, 4.5.3.1.5)."""


_OFFER = (Stage.MAIL, Stage.RCPT, Stage.DATA)


class Answer(NamedTuple):
    """A reply of the relay, and to what."""

    stage: Stage
    code: int
    text: bytes

    @property
    def refused(self) -> bool:
        return self.code >= 400  # noqa: PLR2004 - 2yz and 3yz are positive, 4yz and 5yz negative (RFC 5321, 4.2.1)


class Envelope(NamedTuple):
    """What the relay is told of a mail before it gets it."""

    sender: str
    recipient: str
    size: int
    foreign: str | None
    """What in it is not ASCII, an address as a rule, and has no ASCII form: it takes a relay with SMTPUTF8 (RFC 6531).

    Not only on the envelope: the copies of all recipients name the one of them who has such an address.
    """

    @classmethod
    def of(cls, sender: str, recipient: str, message: bytes) -> "Envelope":
        """The envelope for this message."""
        foreign = next((address for address in (sender, recipient) if not address.isascii()), None)
        if foreign is None and not message.isascii():
            named = _FOREIGN.search(message)
            assert named is not None
            foreign = named[0].decode("utf-8", "replace")
        return cls(sender, recipient, len(message), foreign)


class Wire(RawIOBase):
    """What the relay says, under one deadline for a whole reply.

    A socket's timeout begins anew with every read: a relay that dribbles its reply could go on until long after the
    lease. The first read of a reply, mostly the only one, takes the socket's timeout as it is, and costs nothing.
    """

    def __init__(self, connection: socket) -> None:
        self._connection = connection
        self._whole = 0.0
        self._over = 0.0
        self._length = 0
        self._shortened = False

    def begin(self, seconds: float) -> None:
        """A reply is awaited, for so long; the socket's timeout says the same."""
        self._whole = seconds
        self._over = time.monotonic() + seconds
        self._length = 0

    def end(self) -> None:
        """It is there."""
        if self._shortened:
            allow(self._connection, self._whole)
            self._shortened = False

    def readable(self) -> bool:
        """Asked by BufferedReader."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Asked by BufferedReader, too."""
        if self._length > _LONGEST_REPLY:
            raise OSError("a reply without end")
        if self._length:
            left = self._over - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            allow(self._connection, left)
            self._shortened = True
        try:
            count = self._connection.recv_into(buffer)
        except BlockingIOError as error:  # what the kernel says when the time is over
            raise TimeoutError("timed out") from error
        self._length += count
        return count


class Conversation(SMTPClientWithResponse):
    """One connection. Every method raises OSError when it is lost, timed out or garbled, and has closed it by then.

    It tells its parent how far it has come (`parent.stage`), the constructor included: the library talks there.
    """

    parent: "Relay"
    _seconds: float | None = None
    """For each write and each reply; before anything was allowed, the timeout of connecting."""

    def initialize(self) -> None:
        """Greet, encrypt, log in: what the endpoint asks for, or an error. Nothing is done in clear text instead."""
        endpoint = self.parent.endpoint
        connection = self._connection()
        if type(connection) is socket and not endpoint.starttls:
            keep_time(connection)
        self._allow(self.parent.settings.smtp_timeout)
        if "." not in self.local_hostname:
            # Relays refuse a name that is not qualified (a container's); RFC 5321, 4.1.4: then give the address.
            address = connection.getsockname()[0]
            self.local_hostname = f"[IPv6:{address}]" if connection.family == AF_INET6 else f"[{address}]"
        self.ehlo_or_helo_if_needed()
        if endpoint.starttls:
            self.parent.stage = Stage.TLS
            self.starttls(context=self.parent.tls_context)
            self.ehlo_or_helo_if_needed()
        if endpoint.user and endpoint.password:
            self.parent.stage = Stage.AUTH
            self.login(endpoint.user, endpoint.password.get_secret_value())

    def offer(self, envelope: Envelope, *, ahead: bool = False) -> Answer:
        """MAIL, RCPT and DATA. Returns the refusal, or the reply to DATA: go ahead.

        With PIPELINING (RFC 2920) all three leave in one write: one round trip in place of three; or `ahead`, behind
        the mail before: then they need only be read. Raises SMTPNotSupportedError, before a word, for an envelope that
        takes SMTPUTF8 where the relay has none.
        """
        self.parent.stage = Stage.MAIL
        commands = self._commands(envelope)
        if self.pipelines and not ahead:
            self.send(b"".join(commands))
        for number, stage in enumerate(_OFFER):
            if number:
                self.parent.stage = stage
            if not self.pipelines:
                self.send(commands[number])
            answer = self._answer(stage)
            if answer.refused:
                if self.pipelines:
                    self._read_the_rest(len(commands) - 1 - number)
                break
        return answer

    @property
    def pipelines(self) -> bool:
        """The relay takes several commands at once."""
        return self.has_extn("pipelining")

    def deliver(self, data: bytes, deadline: float, following: Envelope | None = None) -> Answer:
        """Write the body and the final dot, and behind it the offer of the mail that follows; return the verdict.

        Past `deadline` (`time.monotonic()`) it raises TimeoutError in place of writing on: a process that was stopped
        and woke up again must not finish a mail that others have taken over. Writing the end of the mail and waiting
        for the verdict take no longer than the dot's timeout together, by which the deadline precedes the lease's end.
        """
        self.parent.stage = Stage.DATA
        data = stuffed(data)
        last = len(data) // _BLOCK * _BLOCK
        for start in range(0, last, _BLOCK):
            _check(deadline)
            self.send(data[start : start + _BLOCK])
        closing = b"".join((data[last:], b".\r\n", *(self._commands(following) if following else ())))
        _check(deadline)
        # From its first byte on this write may complete the mail, so a failure inside it proves nothing.
        self.parent.stage = Stage.DOT
        over = time.monotonic() + self.parent.settings.smtp_dot_timeout
        self._allow(self.parent.settings.smtp_dot_timeout)
        self.send(closing)
        self._allow(max(over - time.monotonic(), _LEAST_SECONDS))
        answer = self._answer(Stage.DOT)
        self._allow(self.parent.settings.smtp_timeout)
        return answer

    def stands(self) -> bool:
        """Ask a connection that was left alone, or in the middle of a refused mail, whether it can take the next."""
        settings = self.parent.settings
        try:
            self._allow(settings.smtp_connect_timeout)
            code, _ = self.rset()
            self._allow(settings.smtp_timeout)
        except OSError:
            return False
        return code == 250  # noqa: PLR2004

    def getreply(self) -> tuple[int, bytes]:
        """A whole reply: its code, and its lines without it.

        The library answers -1 for words that are no reply, and 500 for a line without end: both are a lost relay here.
        """
        if self.file is None:
            self._wire = Wire(self._connection())
            self.file = BufferedReader(self._wire)
        self._wire.begin(self.timeout if self._seconds is None else self._seconds)
        lines: list[bytes] = []
        code, more = b"", True
        while more:
            line = self._line()
            code, more = line[:3], line[3:4] == b"-"
            lines.append(line[4:].strip(b" \t\r\n"))
            if not code.isdigit():
                self.close()
                raise SMTPServerDisconnected(f"not an SMTP reply: {line.strip()!r}")
        self._wire.end()
        return self._understood(int(code), b"\n".join(lines))

    def _understood(self, code: int, text: bytes) -> tuple[int, bytes]:
        if code == CLOSING and self.parent.stage in REACHING:
            # The library would try HELO, or the next way to log in, and find the connection closed: the reason lost.
            self.close()
            raise SMTPResponseException(code, text)
        return code, text

    def _line(self) -> bytes:
        assert self.file is not None  # `getreply`'s
        try:
            line: bytes = self.file.readline(_LONGEST_LINE + 1)
        except OSError as error:
            self.close()
            raise SMTPServerDisconnected(f"Connection unexpectedly closed: {error}") from error
        if not line:
            self.close()
            raise SMTPServerDisconnected("Connection unexpectedly closed")
        if len(line) > _LONGEST_LINE:
            self.close()
            raise SMTPServerDisconnected("not an SMTP reply: a line without end")
        return line

    def send(self, s: Any) -> None:
        """As the library's, but says what went wrong."""
        try:
            super().send(s)
        except SMTPServerDisconnected as error:
            cause = error.__context__ or error
            why = "timed out" if isinstance(cause, BlockingIOError) else cause
            raise SMTPServerDisconnected(f"could not write: {why}") from error

    def quit(self) -> None:  # type: ignore[override]  # as in the library
        """Say goodbye, briefly, and close. Never raises."""
        with suppress(OSError):
            self._allow(_GOODBYE_SECONDS)
            self.docmd("QUIT")
        self.close()

    def close(self) -> None:
        """Hang up. Never raises."""
        with suppress(OSError):
            super().close()

    def _commands(self, envelope: Envelope) -> tuple[bytes, bytes, bytes]:
        return (
            f"MAIL FROM:<{envelope.sender}>{self._parameters(envelope)}\r\n".encode(),
            f"RCPT TO:<{envelope.recipient}>\r\n".encode(),
            b"DATA\r\n",
        )

    def _parameters(self, envelope: Envelope) -> str:
        declared = f" SIZE={envelope.size}" if self.has_extn("size") else ""
        if envelope.foreign is None:
            return declared
        if not self.has_extn("smtputf8"):
            raise SMTPNotSupportedError(
                f"{envelope.foreign} needs SMTPUTF8 (RFC 6531), which relay {self.parent.endpoint.name} does not offer"
            )
        return f"{declared} BODY=8BITMIME SMTPUTF8"  # who offers the one has the other, too (RFC 6531, 3.1)

    def _answer(self, stage: Stage) -> Answer:
        """The reply to this stage; one that cannot follow here means that we talk past each other."""
        code, text = self.getreply()
        positive = 3 if stage is Stage.DATA else 2
        if code // 100 not in (positive, 4, 5):
            self.close()
            raise SMTPServerDisconnected(f"{code} is no answer to {stage.upper()}: {text!r}")
        return Answer(stage, code, text)

    def _read_the_rest(self, count: int) -> None:
        """The replies to what was sent behind a refused command. If DATA was taken all the same, hang up: RFC 2920 asks
        for a lone dot then, which could become an empty mail."""
        code = 0
        with suppress(OSError):
            for _ in range(count):
                code, _text = self.getreply()
        if code // 100 == 3:  # noqa: PLR2004
            self.close()

    def _allow(self, seconds: float) -> None:
        self._seconds = seconds
        allow(self._connection(), seconds)

    def _connection(self) -> socket:
        if self.sock is None:
            raise SMTPServerDisconnected("the connection is closed")
        return self.sock


class TLSConversation(Conversation):
    """TLS from the start (port 465), over the one connection."""

    def _get_socket(self, host: str, port: int, timeout: float) -> ssl.SSLSocket:
        plain: socket = super()._get_socket(host, port, timeout)  # type: ignore[misc]  # smtplib's own seam for this
        self.parent.stage = Stage.TLS
        encrypted = self.parent.tls_context.wrap_socket(plain, server_hostname=host)
        self.parent.stage = Stage.CONNECT
        return encrypted


def keep_time(connection: socket) -> None:
    """Have the kernel keep this connection's time.

    Python would ask it before each write and each read whether there is something to do, and let another thread have
    its turn each time: of fourteen turns a mail, eight. Not with TLS, whose module knows no time but Python's.
    """
    connection.settimeout(None)


def allow(connection: socket, seconds: float) -> None:
    """That a write or a read may take."""
    if connection.gettimeout() is not None:
        connection.settimeout(seconds)
        return
    whole = int(seconds)
    time_ = _TIMEVAL.pack(whole, max(1, int((seconds - whole) * 1_000_000)))  # none at all means no end
    connection.setsockopt(SOL_SOCKET, SO_RCVTIMEO, time_)
    connection.setsockopt(SOL_SOCKET, SO_SNDTIMEO, time_)


def stuffed(data: bytes) -> bytes:
    """Double the dot at the start of a line (RFC 5321, 4.5.2), and end the last line.

    Most mails have no such dot, and looking is ten times cheaper than rewriting. Lines end in CRLF only: `message` sees
    to that, since a lone CR or LF would let a body end its mail early at some relays.
    """
    if data.startswith(b"."):
        data = b"." + data
    if b"\n." in data:
        data = data.replace(b"\n.", b"\n..")
    return data if data.endswith(b"\r\n") else data + b"\r\n"


def _check(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError("the lease is nearly over, and the relay has not taken the mail yet: it was not handed over")
