"""A relay that does as it is told: an SMTP server whose every answer a test may script, and strict about the protocol.

In a test, inside its process:

    def script(event):
        if event.verb == "RCPT" and event.recipient == "ada@example.com":
            return Reply(450, "4.2.0 greylisted")

    with SmtpServer(script) as server:
        ...  # talk to server.host, server.port
        assert [mail.recipient for mail in server.mails] == [...]

`verb` is CONNECT, a command, BODY (its first bytes have come) or DOT (all of it has). No reaction: the friendly answer.
A client that breaks the protocol fails the test when the server is left.

As a process, for tests that kill and restart what is around it, with the recipient as the script (`by_recipient`) and
every accepted mail on a line of a log before its 250 goes out: `SmtpProcess`, or
`python -m tests.smtp_server --log accepted.jsonl [--port N] [--delay SECONDS] [--no-pipelining]`.
"""

import argparse
import asyncio
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Self

from tests.smtp_script import Delay, Event, Mail, Reaction, Script, by_recipient
from tests.smtp_session import Session

HOST = "127.0.0.1"
USUAL = ("SIZE 50000000", "8BITMIME", "ENHANCEDSTATUSCODES")
EAI = (*USUAL, "SMTPUTF8")
"""The extensions of a relay that takes addresses in any script."""


class SmtpServer:
    """Listens on 127.0.0.1 from `with` on, in a thread of its own."""

    def __init__(
        self,
        script: Script = lambda event: None,
        *,
        port: int = 0,
        pipelining: bool = True,
        extensions: tuple[str, ...] = USUAL,
        starttls: ssl.SSLContext | None = None,
        tls: ssl.SSLContext | None = None,
        login: tuple[str, str] | None = None,
        log: Path | None = None,
        strict: bool = True,
    ) -> None:
        """`starttls` offers it with that certificate, `tls` speaks it from the start, `login` demands AUTH PLAIN.

        `extensions` are those besides PIPELINING; with SMTPUTF8 they are `EAI`.
        `strict=False` is for scripts that lead a client astray: what it then says wrong is the script's fault.
        """
        self.host, self.port = HOST, port
        self.script, self.pipelining, self.extensions = script, pipelining, extensions
        self.starttls, self.tls, self.login = starttls, tls, login
        self.strict = strict
        self.mails: list[Mail] = []
        self.events: list[Event] = []
        self.violations: list[str] = []
        self.connections = 0
        self.open: set[Session] = set()
        self._log = log.open("a", encoding="ascii") if log else None
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        listening = self._loop.run_until_complete(
            self._loop.create_server(lambda: Session(self), self.host, self.port, ssl=self.tls)
        )
        self.port = listening.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="smtp-server", daemon=True)
        self._thread.start()
        self._listening = listening
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        if self._log:
            self._log.close()
        if self.strict and failure is None:
            assert not self.violations, self.violations

    def verbs(self, connection: int | None = None) -> list[str]:
        """What was said, in order; on one connection (the first is 1) or on all."""
        return [event.verb for event in self.events if connection in (None, event.connection)]

    def wait_for(self, condition: Callable[[Self], object], seconds: float = 5.0) -> None:
        """Until `condition(server)` holds; AssertionError if it does not in time."""
        with self._changed:
            held = self._changed.wait_for(lambda: condition(self), seconds)
        assert held, f"after {seconds:g} s: {len(self.mails)} mails, {self.verbs()[-20:]}"

    def hang_up(self) -> None:
        """Close every connection that stands, as a relay does with an idle one. New ones are welcome."""
        for session in tuple(self.open):
            self._loop.call_soon_threadsafe(session.transport.close)
        self.wait_for(lambda server: not server.open)

    def go_away(self) -> None:
        """Close the port, too: connecting is refused from here on."""
        self._loop.call_soon_threadsafe(self._listening.close)
        self.hang_up()

    def accept(self, mail: Mail) -> None:
        if self._log:
            self._log.write(json.dumps(asdict(mail) | {"data": mail.data.decode("latin-1")}) + "\n")
            self._log.flush()
        self.mails.append(mail)

    def changed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    async def _stop(self) -> None:
        self._listening.close()
        for session in list(self.open):
            session.transport.abort()
        await asyncio.sleep(0)  # lets connection_lost run


class SmtpProcess:
    """The server as a process of its own. It ends with `with`, or with the process that started it.

    It may be killed and started in between: its port and its log stay.
    """

    def __init__(self, log: Path, *options: str, port: int = 0) -> None:
        self.log, self.host, self.port = log, HOST, port
        self._options = options

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its stdin, which ends it
        assert self._process.returncode == 0

    def start(self) -> None:
        """Returns when it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--log", self.log, "--port", str(self.port), *self._options],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """SIGKILL: the mails in hand get no answer."""
        self._process.kill()
        self._process.communicate()

    @property
    def mails(self) -> list[Mail]:
        """What it has accepted so far, and before it was restarted."""
        return read_log(self.log)


def read_log(path: Path) -> list[Mail]:
    """The mails of a log, those of a server that still writes it included."""
    if not path.exists():
        return []
    *lines, _unfinished = path.read_text("ascii").split("\n")
    return [
        Mail(
            **(
                fields
                | {
                    "recipients": tuple(fields["recipients"]),
                    "parameters": tuple(fields["parameters"]),
                    "data": fields["data"].encode("latin-1"),
                }
            )
        )
        for fields in map(json.loads, lines)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="An SMTP server that logs what it accepts, until its stdin ends.")
    parser.add_argument("--log", type=Path, required=True, help="JSON lines, appended")
    parser.add_argument("--port", type=int, default=0, help="0: a free one; it is printed")
    parser.add_argument("--delay", type=float, default=0, help="seconds that every accepted mail takes")
    parser.add_argument("--no-pipelining", action="store_true")
    options = parser.parse_args()
    wishes = by_recipient()

    def script(event: Event) -> Reaction | None:
        return wishes(event) or (Delay(options.delay) if options.delay and event.verb == "DOT" else None)

    with SmtpServer(script, port=options.port, log=options.log, pipelining=not options.no_pipelining) as server:
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
