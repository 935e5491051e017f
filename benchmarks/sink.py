"""A relay that takes every mail and keeps none: `python -m benchmarks.sink --port P --control C [--delay SECONDS]`.

It works on what arrives, as it arrives, and answers commands that came together in one write, so that it costs little
beside what is measured. With a delay it is that far away: each reply is written so long after its command came, 0.05
for a round trip of 50 ms. Connections do not wait for each other.

What it was given, it tells on the control port: send `stats` or `times` and read JSON until the end.
"""

import argparse
import asyncio
import json
import signal
import time
from collections import defaultdict
from typing import cast

_GREETING = b"220 sink ESMTP\r\n"
_EHLO = (
    b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 50000000\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n"
)
_OK = b"250 2.0.0 Ok\r\n"
_GO_AHEAD = b"354 End data with <CR><LF>.<CR><LF>\r\n"
_ACCEPTED = b"250 2.0.0 Ok: taken\r\n"
_BYE = b"221 2.0.0 Bye\r\n"
_OUT_OF_ORDER = b"503 5.5.1 Commands out of order\r\n"
_UNKNOWN = b"502 5.5.2 Command not known\r\n"

_DOT = b"\r\n.\r\n"
_LONGEST_COMMAND = 4096
"""RFC 5321 asks for 512; beyond this, somebody talks something else than SMTP to us."""


class Record:
    """What all connections together were given."""

    def __init__(self) -> None:
        self.connections = self.mails = self.copies = self.bytes = 0
        self.first: float | None = None
        self.last: float | None = None
        self.times: defaultdict[bytes, list[float]] = defaultdict(list)
        """Recipient -> `time.monotonic()` of each 250 after a dot."""

    def take(self, recipients: list[bytes]) -> None:
        """The 250 for a mail to them was written just now."""
        self.last = now = time.monotonic()
        self.first = self.first or now
        self.mails += 1
        self.copies += len(recipients)
        for recipient in recipients:
            self.times[recipient].append(now)

    def stats(self) -> dict[str, float | int | None]:
        """In figures, at once. `duplicates` counts the copies after a recipient's first."""
        return {
            "mails": self.mails,
            "bytes": self.bytes,
            "connections": self.connections,
            "recipients": len(self.times),
            "duplicates": self.copies - len(self.times),
            "first": self.first,
            "last": self.last,
        }


class Conversation(asyncio.Protocol):
    """One connection."""

    def __init__(self, record: Record, delay: float) -> None:
        self._record, self._delay = record, delay
        self._reading = self._read_commands
        self._rest = b""
        """Of what came: the beginning of a command, or the end of the data, where a dot may have begun."""
        self._sender = False
        self._recipients: list[bytes] = []
        self._replies: list[bytes] = []
        self._taken: list[list[bytes]] = []
        """The recipients of each mail that is accepted by one of the replies."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast("asyncio.Transport", transport)
        self._record.connections += 1
        self._replies.append(_GREETING)
        self._answer()

    def data_received(self, data: bytes) -> None:
        """Read all of it, then answer once."""
        while data:
            data = self._reading(data)
        if self._replies:
            self._answer()

    def _answer(self) -> None:
        replies, taken = b"".join(self._replies), self._taken
        self._replies, self._taken = [], []
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._write, replies, taken)
        else:
            self._write(replies, taken)

    def _write(self, replies: bytes, taken: list[list[bytes]]) -> None:
        if self._transport.is_closing():  # who did not wait for the 250 does not know that the mail was taken
            return
        self._transport.write(replies)
        for recipients in taken:
            self._record.take(recipients)
        if replies.endswith(_BYE):
            self._transport.close()

    def _read_commands(self, data: bytes) -> bytes:
        """Returns what belongs to the data of a mail."""
        line, end, rest = (self._rest + data).partition(b"\n")
        if not end:
            self._rest = line
            if len(line) > _LONGEST_COMMAND:
                self._transport.abort()
            return b""
        self._rest = b""
        self._obey(line.strip())
        return rest

    def _obey(self, line: bytes) -> None:
        verb = line[:4].upper()
        reply = _OK
        if verb == b"RCPT":
            if self._sender:
                self._recipients.append(line[line.find(b"<") + 1 : line.rfind(b">")])
            else:
                reply = _OUT_OF_ORDER
        elif verb == b"MAIL":
            reply = _OUT_OF_ORDER if self._sender else _OK
            self._sender = True
        elif verb == b"DATA":
            if self._recipients:
                reply = _GO_AHEAD
                self._reading, self._rest = self._read_data, b"\r\n"  # a dot may be all there is
            else:
                reply = _OUT_OF_ORDER
        elif verb in {b"EHLO", b"HELO"}:
            reply = _EHLO
        elif verb == b"RSET":
            self._forget()
        elif verb == b"QUIT":
            reply = _BYE
        elif verb != b"NOOP":
            reply = _UNKNOWN
        self._replies.append(reply)

    def _read_data(self, data: bytes) -> bytes:
        """Returns what follows the dot."""
        self._record.bytes += len(data)
        data = self._rest + data
        end = data.find(_DOT)
        if end < 0:
            self._rest = data[1 - len(_DOT) :]
            return b""
        rest = data[end + len(_DOT) :]
        self._record.bytes -= len(rest)
        self._reading, self._rest = self._read_commands, b""
        self._replies.append(_ACCEPTED)
        self._taken.append(self._recipients)
        self._forget()
        return rest

    def _forget(self) -> None:
        self._sender, self._recipients = False, []


async def _serve(port: int, control: int, delay: float) -> None:
    record = Record()

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wish = (await reader.readline()).strip()
        if wish == b"times":
            told = json.dumps({recipient.decode(): moments for recipient, moments in record.times.items()})
        else:
            told = json.dumps(record.stats())
        writer.write(told.encode())
        await writer.drain()
        writer.close()

    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await loop.create_server(lambda: Conversation(record, delay), "127.0.0.1", port, backlog=256)
    # Last: who can reach it can send mail.
    await asyncio.start_server(tell, "127.0.0.1", control)
    await ended.wait()


def main() -> None:
    """Until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds by which each reply is held back")
    given = parser.parse_args()
    asyncio.run(_serve(given.port, given.control, given.delay))


if __name__ == "__main__":
    main()
