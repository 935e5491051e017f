"""The relay: a mail in, a Report of what became of it out, its meaning read off `outcomes`. Knows no database.

    MAIL, RCPT, DATA    meanwhile `begin` is being committed
    354                 the relay is ready, and can still forget this mail
    begin is durable    the row says `sending`, and it is ours
    body and dot        from here on the mail may arrive, whatever we are told
    250                 sent

Where the relay pipelines, the commands of the next mail go behind the dot, in the same write (RFC 2920, 3.1: a message
may be the first of a group). So a mail takes one round trip; an offer that comes to nothing costs the connection.

The `emails` library's backend keeps the connection; its habit of sending a mail again after a disconnect is off.
"""

import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from smtplib import SMTPException, SMTPNotSupportedError, SMTPResponseException
from typing import TypeVar

from emails.backend.smtp.backend import SMTPBackend

from outbox import outcomes
from outbox.conversation import Answer, Conversation, Envelope, TLSConversation
from outbox.endpoints import Endpoint
from outbox.errors import InvalidAddress, SettingsError
from outbox.outcomes import CLOSING, Broken, Row
from outbox.settings import Settings
from outbox.stages import Mark, Staged
from outbox.states import DeadReason, Outcome, Stage

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

_TROUBLE = (OSError, ValueError)
"""All that connecting and talking raise; ValueError is a host that cannot be a name, a challenge that is no base64."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one conversation came to. `reply` is the relay's words, or what broke the connection: one line, no NUL.

    The three behind it are those of the table's row.
    """

    outcome: Outcome
    stage: Stage
    code: int | None
    reply: str
    dead_reason: DeadReason = DeadReason.REJECTED
    suppress: bool = False
    sender_refused: bool = False
    marks: Sequence[Mark] = field(default=(), compare=False, repr=False)
    """When each stage began; connecting, if it had to be. Where three commands went together, `mail` waited for all."""

    @property
    def of_a_domain(self) -> bool:
        """The relay wants less mail for the recipient's domain, rather than less of us."""
        return self.outcome is Outcome.THROTTLED and self.stage is Stage.RCPT and self.code != CLOSING


class Relay(SMTPBackend, Staged):
    """A connection to the relay, opened when a mail needs it and kept between mails.

    It belongs to one thread. Two would mix up their recipients, and a lock would make one wait for the other.
    """

    connection_cls = Conversation
    connection_ssl_cls = TLSConversation  # type: ignore[assignment]  # not a child of the library's, which connects twice
    _client: Conversation | None

    def __init__(self, endpoint: Endpoint, settings: Settings) -> None:
        super().__init__(
            host=endpoint.host, port=endpoint.port, ssl=endpoint.tls, timeout=settings.smtp_connect_timeout
        )
        Staged.__init__(self)
        self.endpoint = endpoint
        self.settings = settings
        self.tls_context = _tls_context(settings.smtp_ca_file)
        self._mails = 0
        self._used_at = 0.0
        self._unfinished = False
        self._ahead: Envelope | None = None
        """The mail that was offered behind the one before it."""

    def send(  # noqa: PLR0917
        self,
        sender: str,
        recipient: str,
        message: bytes,
        begin: Begin,
        deadline: float,
        following: Callable[[], Envelope | None] = lambda: None,
    ) -> Report:
        """Hand one mail to the relay. `message` ends its lines in CRLF; `deadline` is a `time.monotonic()`.

        Past the deadline no dot is written: a relay so slow has deferred the mail. Raises LeaseLost if `begin` does:
        then the mail was not sent, and the connection is gone. Raises InvalidAddress, before anything else, for an
        address that would break the envelope; one that is not ASCII takes a relay with SMTPUTF8. If the relay cannot be
        reached, `begin` is not called.

        `following`: the mail that will be sent next, if that is known; asked while `begin` is being committed.
        """
        for which, address in (("sender", sender), ("recipient", recipient)):
            if not address.isprintable():
                raise InvalidAddress(which, address, "the envelope takes a bare address in printable characters")
        envelope = Envelope.of(sender, recipient, message)
        self.start_clock()
        try:
            reused = self._connect(envelope)
        except _TROUBLE as error:
            return self._lost(error)
        durable = begin()
        try:
            report = self._offer(envelope, reused=reused)
            self.pause_clock()  # our database is no stage
            ahead = None if report else self._take_ahead(following)
            durable()
            return report or self._deliver(message, deadline, ahead)
        except BaseException:  # LeaseLost above all: whatever comes between, no dot may follow
            self._hang_up()
            raise

    def reach(self) -> bool:
        """Have a connection. What stands in the way, if anything does, `send` will report."""
        try:
            self._connect()
        except _TROUBLE:
            self._hang_up()
            return False
        return True

    def withdraw(self) -> None:
        """No mail follows: if one was offered, hang up."""
        if self._ahead is not None:
            self._hang_up()

    def close(self) -> None:
        """Say goodbye to the relay, if it is there. Never raises."""
        self.withdraw()  # it may be waiting for a mail, and would take the goodbye for one
        client, self._client = self._client, None
        if client is not None:
            client.quit()

    def retry_on_disconnect(self, func: F) -> F:
        """Sends nothing again: whether a mail may be repeated is decided on its row, by those who know its past."""
        return func

    def _connect(self, envelope: Envelope | None = None) -> bool:
        """Have a connection that takes a mail. True if it has taken others before."""
        self.stage = Stage.CONNECT
        if self._ahead is not None:
            if self._ahead == envelope:
                return True
            self._hang_up()
        if self._client is not None:
            fresh = time.monotonic() - self._used_at < _IDLE_SECONDS and not self._unfinished
            if self._mails < _MAILS_PER_CONNECTION and (fresh or self._conversation().stands()):
                self.start_clock()
                return True
            self.close()
        self.get_client()
        self._mails = 0
        self._used_at = time.monotonic()
        self._unfinished = False
        return False

    def _offer(self, envelope: Envelope, *, reused: bool) -> Report | None:
        """Offer the mail. None: the relay is ready for it."""
        try:
            answer = self._offer_on_kept(envelope) if reused else None
            if answer is None:
                answer = self._conversation().offer(envelope)
        except SMTPNotSupportedError as error:  # nothing was said: the connection takes the next mail
            report = self._of(outcomes.of_break(self.stage, _broken(error)), self.stage, None, str(error))
            # In all mail's sender it is the settings' fault, as it is where a relay refuses it by itself.
            return replace(report, sender_refused=not envelope.sender.isascii())
        except _TROUBLE as error:
            return self._lost(error)
        self._mails += 1
        return self._report(answer) if answer.refused else None

    def _offer_on_kept(self, envelope: Envelope) -> Answer | None:
        """Offer the mail on a connection that was kept. None: that was dead, and a new one is open.

        The relay may have hung up, with a 421 or without a word, while MAIL was on its way. That is not this mail's
        attempt: it was not taken in, let alone its body sent, so it goes over a new connection at once.
        """
        ahead, self._ahead = self._ahead is not None, None
        try:
            answer = self._conversation().offer(envelope, ahead=ahead)
            if answer.stage is not Stage.MAIL or answer.code != CLOSING:
                return answer
        except OSError as error:
            if self.stage is not Stage.MAIL or isinstance(error, SMTPNotSupportedError):
                raise
        self._hang_up()
        self._connect()
        return None

    def _take_ahead(self, following: Callable[[], Envelope | None]) -> Envelope | None:
        """What can be offered behind this mail."""
        if self._mails >= _MAILS_PER_CONNECTION or not self._conversation().pipelines:
            return None
        ahead = following()
        return ahead if ahead is not None and ahead.foreign is None else None

    def _deliver(self, message: bytes, deadline: float, ahead: Envelope | None) -> Report:
        self._ahead = ahead
        try:
            return self._report(self._conversation().deliver(message, deadline, ahead))
        except _TROUBLE as error:
            return self._lost(error)

    def _report(self, answer: Answer) -> Report:
        """The relay's verdict. A refused mail keeps the connection; RSET waits until the next one needs it,
        for the answer in hand should be on record first."""
        text = _text(answer.text)
        row = outcomes.of_reply(answer.stage, answer.code, text)
        self._used_at = time.monotonic()
        self._unfinished = answer.refused and self._ahead is None
        if answer.code == CLOSING or row.outcome is Outcome.RELAY_MISCONFIGURED:
            self._hang_up()
        return self._of(row, answer.stage, answer.code, text)

    def _lost(self, error: Exception) -> Report:
        self._hang_up()
        if isinstance(error, SMTPResponseException):
            text = _text(error.smtp_error)
            return self._of(outcomes.of_reply(self.stage, error.smtp_code, text), self.stage, error.smtp_code, text)
        return self._of(outcomes.of_break(self.stage, _broken(error)), self.stage, None, str(error))

    def _of(self, row: Row, stage: Stage, code: int | None, text: str) -> Report:
        about = (row.dead_reason, row.suppress, row.sender_refused)
        return Report(row.outcome, stage, code, _one_line(text), *about, self.pause_clock())

    def _hang_up(self) -> None:
        """Close without a word."""
        self._ahead = None
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _conversation(self) -> Conversation:
        assert self._client is not None  # between _connect and _hang_up
        return self._client


def _broken(error: Exception) -> Broken:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Broken.UNTRUSTED
    # The library's word for "no way to log in that we know" is the plain exception.
    if isinstance(error, SMTPNotSupportedError) or type(error) is SMTPException:
        return Broken.NOT_OFFERED
    return Broken.LOST


def _text(said: bytes | str) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else said


def _one_line(text: str) -> str:
    """Words from outside, fit for a column, a log and a terminal."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())[:_REPLY_LENGTH]


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
