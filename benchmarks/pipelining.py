"""SMTP as fast as Python goes: MAIL, RCPT and DATA in one write, over one connection that stays."""

import socket
from types import TracebackType
from typing import Self

from benchmarks.mails import sender


class Pipelined:
    """A connection to a relay that has PIPELINING."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        self._expect(b"220")
        self._socket.sendall(b"EHLO bench.example.com\r\n")
        self._expect(b"250")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._socket.close()

    def send(self, recipient: str, message: bytes) -> None:
        """One mail, in two round trips. `message` ends with a line end, and no line of it begins with a dot."""
        self._socket.sendall(f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode())
        for code in (b"250", b"250", b"354"):
            self._expect(code)
        self._socket.sendall(message + b".\r\n")
        self._expect(b"250")

    def _expect(self, code: bytes) -> None:
        line = self._file.readline()
        while line[3:4] == b"-":
            line = self._file.readline()
        if not line.startswith(code):
            raise ConnectionError(f"the relay was to say {code.decode()}, and said {line!r}")
