"""Whether a relay would take our mail: as far as a mail goes before its recipient is named, and no further.

Over the same conversation that sends: what is refused here, as clear text where TLS was asked for, is refused there.
"""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from outbox.addresses import parse_mailbox
from outbox.cli.findings import Finding, fine, unknown, wrong
from outbox.endpoints import Endpoint
from outbox.relay import Relay, Report
from outbox.settings import Settings
from outbox.states import Outcome, Stage

SECONDS = 5.0
"""To connect, and for each answer: a relay that takes longer takes mail, too, and this says that it is slow."""

_SOON = timedelta(days=14)
"""Before the end of a certificate: then somebody should hear of it."""

_REMEDIES = {
    Stage.CONNECT: "are SMTP_HOST and SMTP_PORT right, does the relay run, does a firewall let us through?",
    Stage.TLS: "is it SMTP_USE_TLS (587) or SMTP_USE_SSL (465)? SMTP_CA_FILE names an authority of your own",
    Stage.AUTH: "correct SMTP_USER and SMTP_PASSWORD, or have the relay let them in",
    Stage.MAIL: "have the relay allow the sender, SMTP_FROM_EMAIL, for this login",
}


class Inquiry(Relay):
    """A conversation that ends before a mail begins."""

    def ask(self, sender: str | None) -> Report | None:
        """Connect, encrypt, log in and name the sender. None: all that was taken."""
        try:
            self._connect()
            if sender is not None:
                self.stage = Stage.MAIL
                code, text = self._conversation().docmd("MAIL", f"FROM:<{sender}>")
                if code // 100 != 2:  # noqa: PLR2004 - a positive reply
                    return Report(Outcome.REJECTED, Stage.MAIL, code, text.decode("utf-8", "replace"))
                self._conversation().rset()
        except (OSError, ValueError) as error:
            return self._lost(error)
        return None

    def encryption(self) -> str:
        """How this conversation is encrypted, and until when the certificate holds; empty if it is not."""
        connection = self._conversation().sock
        if not isinstance(connection, ssl.SSLSocket):
            return ""
        said = connection.version() or "TLS"
        ends = (connection.getpeercert() or {}).get("notAfter")
        if not isinstance(ends, str):
            return said
        until = datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC)
        soon = ", which is soon" if until - datetime.now(UTC) < _SOON else ""
        return f"{said}, certificate until {until:%Y-%m-%d}{soon}"


def relay(endpoint: Endpoint, settings: Settings) -> Iterator[Finding]:
    """One finding for each relay."""
    name = f"relay {endpoint.name}"
    patience = {"smtp_connect_timeout": SECONDS, "smtp_timeout": SECONDS}
    sender = parse_mailbox("SMTP_FROM_EMAIL", settings.smtp_from_email).address if settings.smtp_from_email else None
    inquiry = Inquiry(endpoint, settings.model_copy(update=patience))
    try:
        refusal = inquiry.ask(sender)
        if refusal is not None:
            said = f"{refusal.code} {refusal.reply}" if refusal.code else refusal.reply
            yield wrong(name, f"{refusal.stage}: {said}", _REMEDIES[refusal.stage])
            return
        encryption = inquiry.encryption()
    finally:
        inquiry.close()
    if endpoint.user and not encryption and not _is_here(endpoint.host):
        yield wrong(name, "takes our password in clear text", "use SMTP_USE_TLS or SMTP_USE_SSL")
        return
    done = [encryption or "in clear text", f"{endpoint.user} logged in" if endpoint.user else "no login"]
    yield fine(name, ", ".join([*done, f"sender {sender} taken"] if sender else done))
    if sender is None:
        yield unknown("sender", "SMTP_FROM_EMAIL is not set: each mail has to name its own")


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
