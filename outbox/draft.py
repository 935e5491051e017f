"""The arguments of `queue_email` -> a checked mail, or one clear error and nothing written."""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from outbox import arguments, logs, subscriptions, templates
from outbox.addresses import Mailbox, marked_automatic, parse_mailbox
from outbox.attachments import Attachment, check_together
from outbox.errors import InvalidAddress, InvalidEmail, InvalidHeader, TooLarge
from outbox.sensitive import discreet
from outbox.settings import Settings
from outbox.states import Kind, OnUncertain, Priority
from outbox.subscriptions import Subscription
from outbox.templates import Rendered

_DIGESTS = (
    "a mail that collapses has a template, to render all contexts of its key, and one recipient; it is not sensitive, "
    "has no attachments, and `within` says when it goes, not scheduled_at or expires_at"
)


@dataclass(frozen=True, slots=True)
class Draft:
    """A mail that can be written: the columns of its content and of each of its queue rows."""

    content: dict[str, Any] = field(repr=False)
    row: dict[str, Any] = field(repr=False)
    recipients: list[tuple[Kind, str]]
    attachments: list[Attachment] = field(default_factory=list, repr=False)
    within: float | None = None
    """Seconds for which a mail that collapses waits for others of its key, if it is the first."""
    subscription: str | None = None
    """The category, if the recipient can unsubscribe from it."""
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
    supersedes: str | None = None,
    collapse: str | None = None,
    within: float | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> Draft:
    """Check everything. `EmailService.queue_email` says what each argument means.

    `earlier`: the contexts of the digest that this mail, which collapses, is to take up.
    """
    sender = _sender(from_email, settings)
    envelope = {
        Kind.TO: arguments.mailboxes("to", to),
        Kind.CC: arguments.mailboxes("cc", cc),
        Kind.BCC: arguments.mailboxes("bcc", bcc),
    }
    if not envelope[Kind.TO]:
        raise InvalidAddress("to", to, "a mail needs somebody to go to")
    files = arguments.attachments(attachments, settings)
    recipients = _recipients(envelope)
    gathers = arguments.within(within, collapse)
    contexts = None
    if collapse is not None:
        timed = scheduled_at is not None or expires_at is not None  # an end of its own would be the end of the others
        if template is None or sensitive or files or timed or len(recipients) > 1:
            raise InvalidEmail("collapse", collapse, _DIGESTS)
        context = arguments.kept_context(context)
        contexts = [*earlier, context]
    variables = context if contexts is None else {**(context or {}), "contexts": contexts}
    category = arguments.label("category", category)
    subscription = _subscription(settings, category, recipients)
    link = subscription and subscriptions.url(settings, *subscription)
    rendered = _said(
        settings,
        subject=subject,
        text=text,
        html=html,
        template=template,
        context=variables,
        locale=locale,
        unsubscribe_url=link,
    )
    given_headers = arguments.headers(headers)
    said: dict[str, Any] = {
        "to_header": _header(envelope[Kind.TO]),
        "cc_header": _header(envelope[Kind.CC]) or None,
        "reply_to": _header(arguments.mailboxes("reply_to", () if reply_to is None else reply_to)) or None,
        **rendered._asdict(),
        "headers": given_headers,
        "locale": arguments.label("locale", locale),
        "category": category,
    }
    if not said["text"] and not said["html"]:
        raise InvalidEmail("text", text, "nothing to say: give text, html or both")
    check_together(files, rendered.html)
    key = arguments.label("idempotency_key", idempotency_key)
    content = said | {
        # Not in the hash: another key signs another link, and a retry still means the same mail.
        "headers": marked_automatic(given_headers) | _unsubscribing(settings, subscription, sender, given_headers),
        "template": template,
        "contexts": contexts,
        "message_id": f"<{uuid.uuid4().hex}@{sender.domain}>",
        "date": datetime.now(UTC).replace(microsecond=0),
        "sender": sender.header,
        "idempotency_key": key,
        "payload_hash": _hash(said | _asked(template, context), from_email, recipients, files)
        if key or sensitive
        else None,
        "request_id": arguments.label("request_id", logs.request_id.get() if request_id is None else request_id),
        "size": _size(rendered, files, settings),
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
        "supersedes": arguments.label("supersedes", supersedes),
        "collapse": arguments.label("collapse", collapse),
        **arguments.times(scheduled_at, expires_at),
    }
    return Draft(content, row, recipients, files, gathers, subscription and subscription.category)


def _subscription(settings: Settings, category: str | None, recipients: list[tuple[Kind, str]]) -> Subscription | None:
    """Whom the mail's unsubscribe link is about; None for transactional mail, which has none."""
    if category is None or category.lower() not in settings.outbox_subscriptions:
        return None
    if category != category.lower():
        raise InvalidEmail("category", category, f"the subscription is spelled {category.lower()!r}")
    if len(recipients) != 1:
        raise InvalidEmail(
            "to",
            [address for _, address in recipients],
            f"mail of the subscription category {category!r} carries the recipient's own unsubscribe link: "
            "queue one mail for each",
        )
    return Subscription(recipients[0][1], category)


def _unsubscribing(
    settings: Settings, subscription: Subscription | None, sender: Mailbox, given: Mapping[str, str]
) -> dict[str, str]:
    if subscription is None:
        return {}
    ours = subscriptions.headers(settings, *subscription, sender.domain)
    for name in given:
        if name.lower() in map(str.lower, ours):
            raise InvalidHeader(
                "headers", name, f"Outbox sets it on mail of the subscription category {subscription.category!r}"
            )
    return ours


def _said(
    settings: Settings,
    *,
    subject: str | None,
    text: str | None,
    html: str | None,
    template: str | None,
    context: Mapping[str, Any] | None,
    locale: str | None,
    unsubscribe_url: str | None,
) -> Rendered:
    """Subject and bodies: as given, or as the template has them."""
    if template is None:
        if context is not None:
            raise InvalidEmail("context", context, "it is for a template: give template, too")
        said = Rendered(subject, text, html)  # type: ignore[arg-type]  # checked below
    else:
        for name, value in (("subject", subject), ("text", text), ("html", html)):
            if value is not None:
                raise InvalidEmail(name, value, f"template={template!r} says it: leave out one of them")
        said = templates.of(settings).render(template, arguments.context(context), locale, unsubscribe_url)
    return Rendered(
        arguments.subject(said.subject), arguments.body("text", said.text), arguments.body("html", said.html)
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


def _size(rendered: Rendered, files: list[Attachment], settings: Settings) -> int:
    size = len((rendered.text or "").encode()) + len((rendered.html or "").encode())
    size += sum(file.encoded_size for file in files)
    if size > settings.outbox_max_message_bytes:
        raise TooLarge("size", size, f"more than OUTBOX_MAX_MESSAGE_BYTES={settings.outbox_max_message_bytes}")
    return size


def _asked(template: str | None, context: Mapping[str, Any] | None) -> dict[str, Any]:
    """What stands for the words of a templated mail in its hash.

    A template that is reworded between a task and its retry makes no other mail. A context that is not plain data
    cannot be compared, but what it made can.
    """
    if template is None:
        return {}
    try:
        data = json.dumps(context, sort_keys=True, default=_plain)
    except (TypeError, ValueError, RecursionError):
        return {"template": template}
    return {"template": template, "context": data, "subject": None, "text": None, "html": None}


def _plain(value: object) -> str:
    if isinstance(value, date | time | timedelta | Decimal | uuid.UUID):
        return str(value)
    raise TypeError


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
