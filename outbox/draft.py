"""The arguments of `queue_email` -> a checked mail, or one clear error and nothing written."""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from outbox import arguments
from outbox.addresses import Mailbox, parse_mailbox
from outbox.attachments import Attachment
from outbox.errors import InvalidAddress, InvalidEmail, TooLarge
from outbox.sensitive import discreet
from outbox.settings import Settings
from outbox.states import Kind, OnUncertain, Priority


@dataclass(frozen=True, slots=True)
class Draft:
    """A mail that can be written: the columns of its content and of each of its queue rows."""

    content: dict[str, Any] = field(repr=False)
    row: dict[str, Any] = field(repr=False)
    recipients: list[tuple[Kind, str]]
    attachments: list[Attachment] = field(default_factory=list, repr=False)
    fingerprints: tuple[str, ...] = ()
    """Of a sensitive mail: the `payload_hash` that it has under each of the keys."""

    @property
    def hashes(self) -> tuple[str | None, ...]:
        """Any of which says that a mail is this one."""
        return self.fingerprints or (self.content["payload_hash"],)


@discreet
def draft(
    settings: Settings,
    to: str | Iterable[str],
    subject: str | None = None,
    *,
    text: str | None = None,
    html: str | None = None,
    template: str | None = None,
    context: Mapping[str, Any] | None = None,
    locale: str | None = None,
    from_email: str | None = None,
    reply_to: str | Iterable[str] | None = None,
    cc: str | Iterable[str] = (),
    bcc: str | Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
    attachments: Iterable[Attachment] = (),
    priority: str | Priority = "normal",
    scheduled_at: datetime | None = None,
    expires_at: datetime | None = None,
    max_attempts: int | None = None,
    on_uncertain: str | OnUncertain | None = None,
    category: str | None = None,
    idempotency_key: str | None = None,
    sensitive: bool = False,
    request_id: str | None = None,
) -> Draft:
    """Check everything. `EmailService.queue_email` says what each argument means."""
    _refuse_what_is_not_there_yet(template, context)
    sender = _sender(from_email, settings)
    envelope = {
        Kind.TO: arguments.mailboxes("to", to),
        Kind.CC: arguments.mailboxes("cc", cc),
        Kind.BCC: arguments.mailboxes("bcc", bcc),
    }
    if not envelope[Kind.TO]:
        raise InvalidAddress("to", to, "a mail needs somebody to go to")
    files = arguments.attachments(attachments)
    said = {
        "to_header": _header(envelope[Kind.TO]),
        "cc_header": _header(envelope[Kind.CC]) or None,
        "reply_to": _header(arguments.mailboxes("reply_to", () if reply_to is None else reply_to)) or None,
        "subject": arguments.subject(subject),
        "text": arguments.body("text", text),
        "html": arguments.body("html", html),
        "headers": arguments.headers(headers),
        "locale": arguments.label("locale", locale),
        "category": arguments.label("category", category),
    }
    if not said["text"] and not said["html"]:
        raise InvalidEmail("text", text, "nothing to say: give text, html or both")
    recipients = _recipients(envelope)
    key = arguments.label("idempotency_key", idempotency_key)
    content = said | {
        "message_id": f"<{uuid.uuid4().hex}@{sender.domain}>",
        "date": datetime.now(UTC).replace(microsecond=0),
        "sender": sender.header,
        "idempotency_key": key,
        "payload_hash": _hash(said, from_email, recipients, files) if key or sensitive else None,
        "request_id": arguments.label("request_id", request_id),
        "size": _size(text, html, files, settings),
        "sensitive": False,  # this and the next: `discreet` makes it so
        "sealed": None,
    }
    row = {
        "subject": said["subject"],
        "category": said["category"],
        "priority": int(arguments.priority(priority)),
        "max_attempts": arguments.max_attempts(max_attempts, settings),
        "on_uncertain": arguments.on_uncertain(on_uncertain, settings),
        "request_id": content["request_id"],
        **arguments.times(scheduled_at, expires_at),
    }
    return Draft(content, row, recipients, files)


def _refuse_what_is_not_there_yet(template: object, context: object) -> None:
    # Better an error than a mail that says nothing.
    if template is not None or context is not None:
        raise InvalidEmail(
            "template" if template is not None else "context",
            template if template is not None else context,
            "this version has no templates: render the mail and give subject, text and html",
        )


def _sender(from_email: str | None, settings: Settings) -> Mailbox:
    if from_email is not None:
        return parse_mailbox("from_email", from_email)
    if settings.smtp_from_email is None:
        raise InvalidAddress("from_email", None, "give from_email, or set SMTP_FROM_EMAIL for all mail")
    return parse_mailbox("SMTP_FROM_EMAIL", settings.smtp_from_email)


def _header(mailboxes: list[Mailbox]) -> str:
    return ", ".join(mailbox.header for mailbox in mailboxes)


def _recipients(envelope: Mapping[Kind, list[Mailbox]]) -> list[tuple[Kind, str]]:
    """One row per address, of the first kind that names it: nobody gets a mail twice for being on two lists."""
    kinds: dict[str, Kind] = {}
    for kind, mailboxes in envelope.items():
        for mailbox in mailboxes:
            kinds.setdefault(mailbox.address, kind)
    return [(kind, address) for address, kind in kinds.items()]


def _size(text: str | None, html: str | None, files: list[Attachment], settings: Settings) -> int:
    size = len((text or "").encode()) + len((html or "").encode())
    size += sum(file.encoded_size for file in files)
    if size > settings.outbox_max_message_bytes:
        raise TooLarge("size", size, f"more than OUTBOX_MAX_MESSAGE_BYTES={settings.outbox_max_message_bytes}")
    return size


def _hash(
    said: Mapping[str, Any], from_email: str | None, recipients: list[tuple[Kind, str]], files: list[Attachment]
) -> str:
    """What is said and to whom; not when, nor how: a retry a second later still means the same mail.

    As given: the guess of a media type depends on the machine.
    """
    payload = {
        **said,
        "from": from_email,
        "recipients": recipients,
        "files": [(file.filename, file.content_type, file.inline_id, file.sha256) for file in files],
    }
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
