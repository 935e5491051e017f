"""The arguments of `queue_email` -> a checked mail, or one clear error and nothing written."""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from outbox.addresses import Mailbox, check_headers, parse_mailbox
from outbox.attachments import Attachment, check_attachment
from outbox.errors import InvalidAddress, InvalidEmail, InvalidHeader, TooLarge
from outbox.settings import Settings
from outbox.states import Kind, OnUncertain, Priority

LONGEST_LABEL = 255
"""Characters of a category, key or request id: they are labels, and stand in indexes."""

LONGEST_SUBJECT = 998
"""RFC 5322, 2.1.1: what a header line may hold."""

MOST_ATTEMPTS = 2**31 - 1
"""What the column holds."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A mail that can be written: the columns of its content and of each of its queue rows."""

    content: dict[str, Any]
    row: dict[str, Any]
    recipients: list[tuple[Kind, str]]
    attachments: list[Attachment] = field(default_factory=list)


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
    _refuse_what_is_not_there_yet(template, context, sensitive)
    sender = _sender(from_email, settings)
    envelope = {Kind.TO: _mailboxes("to", to), Kind.CC: _mailboxes("cc", cc), Kind.BCC: _mailboxes("bcc", bcc)}
    if not envelope[Kind.TO]:
        raise InvalidAddress("to", to, "a mail needs somebody to go to")
    files = _attachments(attachments)
    said = {
        "to_header": _header(envelope[Kind.TO]),
        "cc_header": _header(envelope[Kind.CC]) or None,
        "reply_to": _header(_mailboxes("reply_to", () if reply_to is None else reply_to)) or None,
        "subject": _subject(subject),
        "text": _body("text", text),
        "html": _body("html", html),
        "headers": _headers(headers),
        "locale": _label("locale", locale),
        "category": _label("category", category),
    }
    if not said["text"] and not said["html"]:
        raise InvalidEmail("text", text, "nothing to say: give text, html or both")
    recipients = _recipients(envelope)
    key = _label("idempotency_key", idempotency_key)
    content = said | {
        "message_id": f"<{uuid.uuid4().hex}@{sender.domain}>",
        "date": datetime.now(UTC).replace(microsecond=0),
        "sender": sender.header,
        "idempotency_key": key,
        "payload_hash": key and _hash(said, from_email, recipients, files),
        "request_id": _label("request_id", request_id),
        "size": _size(text, html, files, settings),
    }
    row = {
        "subject": said["subject"],
        "category": said["category"],
        "priority": int(_priority(priority)),
        "max_attempts": _attempts(max_attempts, settings),
        "on_uncertain": _on_uncertain(on_uncertain, settings),
        "request_id": content["request_id"],
        **_times(scheduled_at, expires_at),
    }
    return Draft(content, row, recipients, files)


def _refuse_what_is_not_there_yet(template: object, context: object, sensitive: bool) -> None:
    # Better an error than a mail that says nothing, or a secret that is kept in clear.
    if template is not None or context is not None:
        raise InvalidEmail(
            "template" if template is not None else "context",
            template if template is not None else context,
            "this version has no templates: render the mail and give subject, text and html",
        )
    if sensitive:
        raise InvalidEmail(
            "sensitive", sensitive, "this version does not encrypt mail at rest: send a link to the secret instead"
        )


def _sender(from_email: str | None, settings: Settings) -> Mailbox:
    if from_email is not None:
        return parse_mailbox("from_email", from_email)
    if settings.smtp_from_email is None:
        raise InvalidAddress("from_email", None, "give from_email, or set SMTP_FROM_EMAIL for all mail")
    return parse_mailbox("SMTP_FROM_EMAIL", settings.smtp_from_email)


def _mailboxes(name: str, value: str | Iterable[str]) -> list[Mailbox]:
    if isinstance(value, str):
        return [parse_mailbox(name, value)]
    several = _listed(value)
    if several is None:
        raise InvalidAddress(name, value, "give an address, or a list of addresses, as strings")
    return [parse_mailbox(name, one) for one in several]


def _listed(value: object) -> list[Any] | None:
    """The elements; None of what has none, or whose elements are not what was meant (bytes, the keys of a mapping)."""
    if not isinstance(value, Iterable) or isinstance(value, bytes | bytearray | Mapping):
        return None
    # The order of a set differs from one process to the next, and a retry there must still mean the same mail.
    return sorted(value, key=str) if isinstance(value, AbstractSet) else list(value)


def _header(mailboxes: list[Mailbox]) -> str:
    return ", ".join(mailbox.header for mailbox in mailboxes)


def _recipients(envelope: Mapping[Kind, list[Mailbox]]) -> list[tuple[Kind, str]]:
    """One row per address, of the first kind that names it: nobody gets a mail twice for being on two lists."""
    kinds: dict[str, Kind] = {}
    for kind, mailboxes in envelope.items():
        for mailbox in mailboxes:
            kinds.setdefault(mailbox.address, kind)
    return [(kind, address) for address, kind in kinds.items()]


def _headers(value: Mapping[str, str] | None) -> dict[str, str]:
    if value is not None and not isinstance(value, Mapping):
        raise InvalidHeader("headers", value, "give a mapping of header names to values")
    return check_headers(value or {})


def _subject(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidEmail("subject", value, "give a subject, as a string")
    if re.search(r"[\r\n\0]", value):
        raise InvalidHeader("subject", value, "a subject cannot hold CR, LF or NUL")
    if len(value) > LONGEST_SUBJECT:
        raise InvalidHeader("subject", value, f"a subject is at most {LONGEST_SUBJECT} characters long")
    return _storable("subject", value)


def _body(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidEmail(name, value, "give a string")
    return _storable(name, value)


def _label(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_LABEL or not value.isprintable():
        raise InvalidEmail(name, value, f"give 1 to {LONGEST_LABEL} printable characters")
    return value


def _storable(name: str, value: str) -> str:
    if "\0" in value:
        raise InvalidEmail(name, value, "text cannot hold NUL")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidEmail(name, value, f"not Unicode text: {error.reason} at {error.start}") from error
    return value


def _attachments(attachments: Iterable[Attachment]) -> list[Attachment]:
    files = _listed(attachments)
    if files is None:
        raise InvalidEmail("attachments", attachments, "give a list of outbox.Attachment(filename, data)")
    for number, file in enumerate(files):
        check_attachment(f"attachments[{number}]", file)
    return files


def _priority(value: object) -> Priority:
    if isinstance(value, Priority):
        return value
    for priority in Priority:
        if value == priority.label:
            return priority
    raise InvalidEmail("priority", value, f"one of {', '.join(priority.label for priority in Priority)}")


def _on_uncertain(value: Any, settings: Settings) -> OnUncertain:
    if value is None:
        return settings.outbox_on_uncertain
    try:
        return OnUncertain(value)
    except ValueError as error:
        raise InvalidEmail("on_uncertain", value, f"one of {', '.join(OnUncertain)}") from error


def _attempts(value: object, settings: Settings) -> int:
    if value is None:
        return settings.outbox_max_attempts
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_ATTEMPTS:
        raise InvalidEmail("max_attempts", value, f"give a whole number from 1 to {MOST_ATTEMPTS}")
    return value


def _times(scheduled_at: object, expires_at: object) -> dict[str, datetime]:
    """The columns to set; a mail that is not scheduled is due by the database's clock."""
    columns: dict[str, datetime] = {}
    scheduled, expires = _aware("scheduled_at", scheduled_at), _aware("expires_at", expires_at)
    if scheduled is not None:
        columns |= {"scheduled_at": scheduled, "next_attempt_at": scheduled}
    if expires is not None:
        now = datetime.now(UTC)
        if expires <= max(now, scheduled or now):
            raise InvalidEmail("expires_at", expires_at, "a mail must expire after it is due, or it is never sent")
        columns |= {"expires_at": expires}
    return columns


def _aware(name: str, value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise InvalidEmail(name, value, "give a datetime")
    if value.utcoffset() is None:
        raise InvalidEmail(name, value, "give a datetime with a time zone, such as datetime.now(UTC)")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidEmail(name, value, "give a time that has a year from 1 to 9999 in UTC") from error


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
