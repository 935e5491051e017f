"""The relay: a mail in, a Report of what became of it out. Knows no database.

    MAIL, RCPT, DATA    meanwhile `begin` is being committed
    354                 the relay is ready, and can still forget this mail
    begin is durable    the row says `sending`, and it is ours
    body and dot        from here on the mail may arrive, whatever we are told
    250                 sent

The `emails` library's backend keeps the connection; its habit of sending a mail again after a disconnect is off.
"""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from smtplib import SMTPResponseException
from typing import TypeVar

from emails.backend.smtp.backend import SMTPBackend

from outbox.conversation import Answer, Conversation, TLSConversation
from outbox.errors import InvalidAddress, SettingsError
from outbox.settings import Settings
from outbox.states import Outcome, Stage

F = TypeVar("F")

Begin = Callable[[], Callable[[], None]]
"""Starts the commit that marks the row `sending`; what it returns waits until that is durable, or raises LeaseLost."""

_MAILS_PER_CONNECTION = 100
"""Then a new one: it follows the relay's DNS and load balancer, and stays below the limits that relays set on one
connection. A hundredth of a connection costs a mail nothing."""

_IDLE_SECONDS = 5.0
"""Left alone for longer, a connection is asked whether it still stands: relays hang up, and NATs forget, silently."""

_REPLY_LENGTH = 500
"""Characters of a reply worth keeping. RFC 5321 allows 512 octets a line, and the first line says it."""

_CLOSING = 421
"""The relay is shutting down, overloaded or tired of us (RFC 5321, 4.2.3): nothing this mail has done."""

_AUTHENTICATION_REQUIRED = 530
"""To MAIL: log in, or STARTTLS, first (RFC 4954, 3207). Our settings' fault, of which no mail should die."""

_TROUBLE = (OSError, ValueError)
"""All that connecting and talking raise; ValueError is a host that cannot be a name, a challenge that is no base64."""

_WHEN_LOST = {
    Stage.CONNECT: Outcome.RELAY_DOWN,
    Stage.TLS: Outcome.RELAY_DOWN,
    Stage.AUTH: Outcome.RELAY_DOWN,
    Stage.MAIL: Outcome.DEFERRED,
    Stage.RCPT: Outcome.DEFERRED,
    Stage.DATA: Outcome.DEFERRED,
    Stage.DOT: Outcome.UNCERTAIN,
}
"""What a lost connection, a timeout or a garbled reply means, by how far the conversation had come."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one conversation came to. `reply` is the relay's words, or what broke the connection: one line, no NUL."""

    outcome: Outcome
    stage: Stage
    code: int | None
    reply: str


class Relay(SMTPBackend):
    """A connection to the relay, opened when a mail needs it and kept between mails.

    It belongs to one thread. Two would mix up their recipients, and a lock would make one wait for the other.
    """

    connection_cls = Conversation
    connection_ssl_cls = TLSConversation  # type: ignore[assignment]  # not a child of the library's, which connects twice
    _client: Conversation | None

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            host=settings.smtp_host,
            port=settings.endpoints[0].port,
            ssl=settings.smtp_use_ssl,
            timeout=settings.smtp_connect_timeout,
        )
        self.settings = settings
        self.tls_context = _tls_context(settings.smtp_ca_file)
        self.stage = Stage.CONNECT
        self._mails = 0
        self._used_at = 0.0
        self._unfinished = False

    def send(self, sender: str, recipient: str, message: bytes, begin: Begin, deadline: float) -> Report:
        """Hand one mail to the relay. `message` ends its lines in CRLF; `deadline` is a `time.monotonic()`.

        Past the deadline no dot is written: a relay so slow has deferred the mail. Raises LeaseLost if `begin` does:
        then the mail was not sent, and the connection is gone. Raises InvalidAddress, before anything else, for an
        address that would break the envelope. If the relay cannot be reached, `begin` is not called.
        """
        for field, address in (("sender", sender), ("recipient", recipient)):
            if not (address.isascii() and address.isprintable()):
                raise InvalidAddress(field, address, "the envelope takes a bare address in printable ASCII")
        try:
            reused = self._connect()
        except _TROUBLE as error:
            return self._lost(error)
        durable = begin()
        try:
            report = self._offer(sender, recipient, len(message), reused=reused)
            durable()
            return report or self._deliver(message, deadline)
        except BaseException:  # LeaseLost above all: whatever comes between, no dot may follow
            self._hang_up()
            raise

    def close(self) -> None:
        """Say goodbye to the relay, if it is there. Never raises."""
        client, self._client = self._client, None
        if client is not None:
            client.quit()

    def retry_on_disconnect(self, func: F) -> F:
        """Sends nothing again: whether a mail may be repeated is decided on its row, by those who know its past."""
        return func

    def _connect(self) -> bool:
        """Have a connection that takes a mail. True if it has taken others before."""
        self.stage = Stage.CONNECT
        if self._client is not None:
            fresh = time.monotonic() - self._used_at < _IDLE_SECONDS and not self._unfinished
            if self._mails < _MAILS_PER_CONNECTION and (fresh or self._conversation().stands()):
                return True
            self.close()
        self.get_client()
        self._mails = 0
        self._used_at = time.monotonic()
        self._unfinished = False
        return False

    def _offer(self, sender: str, recipient: str, size: int, *, reused: bool) -> Report | None:
        """Offer the mail. None: the relay is ready for it."""
        try:
            answer = self._offer_on_kept(sender, recipient, size) if reused else None
            if answer is None:
                answer = self._conversation().offer(sender, recipient, size)
        except _TROUBLE as error:
            return self._lost(error)
        self._mails += 1
        return self._report(answer) if answer.refused else None

    def _offer_on_kept(self, sender: str, recipient: str, size: int) -> Answer | None:
        """Offer the mail on a connection that was kept. None: that was dead, and a new one is open.

        The relay may have hung up, with a 421 or without a word, while MAIL was on its way. That is not this mail's
        attempt: it was not taken in, let alone its body sent, so it goes over a new connection at once.
        """
        try:
            answer = self._conversation().offer(sender, recipient, size)
            if answer.stage is not Stage.MAIL or answer.code != _CLOSING:
                return answer
        except OSError:
            if self.stage is not Stage.MAIL:
                raise
        self._hang_up()
        self._connect()
        return None

    def _deliver(self, message: bytes, deadline: float) -> Report:
        try:
            return self._report(self._conversation().deliver(message, deadline))
        except _TROUBLE as error:
            return self._lost(error)

    def _report(self, answer: Answer) -> Report:
        """What the relay's verdict means. A refused mail keeps the connection; RSET waits until the next one needs it,
        for the answer in hand should be on record first."""
        outcome = _meaning(answer)
        self._used_at = time.monotonic()
        self._unfinished = answer.refused
        if outcome is Outcome.RELAY_DOWN:
            self._hang_up()
        return Report(outcome, answer.stage, answer.code, _one_line(answer.text))

    def _lost(self, error: Exception) -> Report:
        self._hang_up()
        if isinstance(error, SMTPResponseException):
            return Report(_WHEN_LOST[self.stage], self.stage, error.smtp_code, _one_line(error.smtp_error))
        return Report(_WHEN_LOST[self.stage], self.stage, None, _one_line(str(error)))

    def _hang_up(self) -> None:
        """Close without a word."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _conversation(self) -> Conversation:
        assert self._client is not None  # between _connect and _hang_up
        return self._client


def _meaning(answer: Answer) -> Outcome:
    if not answer.refused:
        return Outcome.SENT
    if answer.stage is not Stage.DOT and answer.code == _CLOSING:
        return Outcome.RELAY_DOWN
    if answer.stage is Stage.MAIL and answer.code == _AUTHENTICATION_REQUIRED:
        return Outcome.RELAY_DOWN
    return Outcome.DEFERRED if answer.code < 500 else Outcome.REJECTED  # noqa: PLR2004 - RFC 5321, 4.2.1


def _one_line(text: bytes | str) -> str:
    """Words from outside, fit for a column, a log and a terminal."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_REPLY_LENGTH]


@cache  # reading the system's authorities takes 30 ms, and the threads of a process can share them
def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Certificates and host names are checked, against SMTP_CA_FILE or the system's authorities."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise SettingsError(
            f"SMTP_CA_FILE={ca_file!r}: no certificates could be read from it ({error}); "
            "name a PEM file, or unset it to trust the system's authorities"
        ) from error
