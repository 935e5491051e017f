"""A template with its sample, looked at before anybody is sent it: by the command line and the application's pages."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from outbox.addresses import parse_mailbox
from outbox.message import Message
from outbox.settings import Settings
from outbox.templates import Templates

CLIPPED_BYTES = 102_400
"""Of HTML. Gmail shows no more of a mail than that, and hides the rest, with the link to unsubscribe, behind a link."""

TEST_MARK = "[test] "
"""Before the subject of a test: whoever finds it in an inbox must not take it for a receipt."""

_SENDER = "preview@example.com"
_RECIPIENT = "ada@example.com"


@dataclass(frozen=True, slots=True)
class Preview:
    """A mail as its recipient would get it, and its sizes in bytes."""

    name: str
    locale: str | None
    subject: str
    text: str | None
    html: str | None
    message_bytes: int
    """On the wire, with headers and encodings, and without attachments."""

    @property
    def text_bytes(self) -> int:
        """In UTF-8."""
        return len((self.text or "").encode())

    @property
    def html_bytes(self) -> int:
        """In UTF-8."""
        return len((self.html or "").encode())

    @property
    def warning(self) -> str | None:
        """What is wrong with the sizes, if anything is."""
        if self.html_bytes <= CLIPPED_BYTES:
            return None
        return f"Gmail clips HTML of more than {CLIPPED_BYTES:,} bytes: shorten it, or link to the rest."

    @property
    def test_mail(self) -> dict[str, Any]:
        """The arguments of `queue_email` for a test, all but the address."""
        return {"subject": TEST_MARK + self.subject, "text": self.text, "html": self.html, "locale": self.locale}


def preview(templates: Templates, name: str, locale: str | None, settings: Settings) -> Preview:
    """Render it with its sample. Raises InvalidTemplate, or SettingsError for a folder that is not there.

    The sample of a subscription says so by an `unsubscribe_url`: it stands where a recipient's own link will.
    """
    sample = templates.sample(name, locale)
    rendered = templates.render(name, sample, locale, sample.pop("unsubscribe_url", None))
    message = Message(
        message_id=f"<{'0' * 32}@example.com>",  # as long as one that is sent
        date=datetime.now(UTC),
        sender=parse_mailbox("SMTP_FROM_EMAIL", settings.smtp_from_email or _SENDER).header,
        to=_RECIPIENT,
        cc=None,
        reply_to=None,
        headers={},
        **rendered._asdict(),
    )
    return Preview(name, locale, *rendered, message_bytes=len(message.as_bytes()))


def facts(shown: Preview) -> Iterator[tuple[str, str]]:
    """Names and values, to be shown."""
    yield "Template", shown.name
    if shown.locale:
        yield "Locale", shown.locale
    yield "Subject", shown.subject
    yield "Text", f"{shown.text_bytes:,} bytes" if shown.text else "none"
    yield "HTML", f"{shown.html_bytes:,} bytes" if shown.html else "none"
    yield "Message", f"{shown.message_bytes:,} bytes on the wire, without attachments"
