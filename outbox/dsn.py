"""A bounce that came as mail -> the events in it. Pure.

Delivery status notifications (RFC 3464) and, of complaints, feedback reports (RFC 5965); both are a `multipart/report`
with a part for machines and, behind it, the mail they speak of or its headers.

Nobody signs these. What speaks for one is that it quotes our Message-ID, 122 random bits that only the recipients of
the mail and the servers on its way have seen.
"""

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import Message
from email.parser import BytesHeaderParser
from email.utils import parsedate_to_datetime
from typing import Any

from outbox.feedback import Event
from outbox.states import Feedback

PROVIDER = "dsn"

LARGEST = 128 * 1024
"""Bytes that are read of a message. The report stands before the mail that it returns, whose attachments may be huge;
and a parser that is given no more cannot be made to work for long."""

_MOST_BOUNDARIES = 20
"""Words `boundary`. The parser compares each line with all that are open: a few hundred cost it seconds. A report has
one, and the mail in it two or three."""

_MOST_RECIPIENTS = 100
"""Of one report: RFC 5321 has a server take a hundred in one conversation. We name one."""

_MOST_PARTS = 2 * _MOST_RECIPIENTS
"""Of one report, a recipient's fields being one to the parser: 20,000, which take 6 bytes each, cost it seconds."""

_MACHINE_PARTS = {"delivery-status": "message/delivery-status", "feedback-report": "message/feedback-report"}
_QUOTES = ("message/rfc822", "text/rfc822-headers", "message/rfc822-headers", "message/global")
_ADDRESS_AT_FAULT = re.compile(r"5\.1\.(?![578]$)\d+")
"""RFC 3463, 3.2, as for a relay's own reply: 5.1.5 would be a valid address, 5.1.7 and 5.1.8 are the sender's."""
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


class NotAReport(ValueError):
    """Some other mail: a person's, or a holiday notice."""


class TooManyParts(ValueError):
    """Parts in parts in parts, or of thousands of recipients: which no server makes."""


def events(raw: bytes, now: datetime) -> list[Event]:
    """What a report tells. Empty for one of nothing that we keep, such as `relayed`.

    Raises NotAReport for other mail, and whatever the standard library's parser raises on mail made to break it.
    """
    raw = raw[:LARGEST]
    wanted = _machine_part_of(BytesHeaderParser(policy=policy.compat32).parsebytes(raw))
    if raw.lower().count(b"boundary") > _MOST_BOUNDARIES:
        raise TooManyParts
    report = message_from_bytes(raw, _Counted(), policy=policy.compat32)
    part = _machine_part(report, wanted)
    quoted = _quoted_ids(report)
    told_at = _told_at(report, now)
    own_id = str(report.get("Message-ID", "")) or hashlib.sha256(raw).hexdigest()
    blocks = _blocks(part)
    read = _complaints if part.get_content_type() == "message/feedback-report" else _recipients
    return [
        Event(kind, PROVIDER, f"{own_id} {number}", recipient, told_at, said, quoted)
        for number, (kind, recipient, said) in enumerate(read(blocks))
    ]


class _Counted:
    """What the parser makes its parts with."""

    def __init__(self) -> None:
        self._parts = 0

    def __call__(self, **options: Any) -> Message:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise TooManyParts
        return Message(**options)


def _machine_part_of(head: Message) -> str:
    """The type of the part for machines, from the headers alone: other mail is not read further."""
    kind = str(head.get_param("report-type", "", header="content-type")).lower()
    wanted = _MACHINE_PARTS.get(kind)
    if head.get_content_type() != "multipart/report" or wanted is None:
        raise NotAReport(head.get_content_type())
    return wanted


def _machine_part(report: Message, wanted: str) -> Message:
    for part in _parts(report):
        if part.get_content_type() in (wanted, wanted.replace("message/", "message/global-")):
            return part
    raise NotAReport(f"{wanted} is missing")


def _parts(report: Message) -> list[Message]:
    payload = report.get_payload()
    return [part for part in payload if isinstance(part, Message)] if isinstance(payload, list) else []


def _blocks(part: Message) -> list[Message]:
    """The groups of fields: of the message, then of each recipient. The parser knows them in delivery-status alone."""
    payload = part.get_payload()
    if isinstance(payload, list):
        inner = [block for block in payload if isinstance(block, Message)]
        if part.get_content_type() == "message/delivery-status":
            return inner
        payload = "".join(block.as_string() for block in inner)
    decoded = part.get_payload(decode=True)
    text = decoded if isinstance(decoded, bytes) else str(payload).encode(errors="replace")
    groups = [group for group in re.split(rb"\r?\n[ \t]*\r?\n", text) if group]
    return [message_from_bytes(group, policy=policy.compat32) for group in groups[: _MOST_RECIPIENTS + 1]]


def _recipients(blocks: list[Message]) -> Iterator[tuple[Feedback, str, str]]:
    for block in blocks[: _MOST_RECIPIENTS + 1]:
        kind = _kind(block)
        # The address that we gave, where the servers between have kept it; else the one where it led to.
        recipient = _address(block, "Original-Recipient") or _address(block, "Final-Recipient")
        if kind is not None and recipient:
            yield kind, recipient, _value(block, "Diagnostic-Code") or str(block.get("Status", ""))


def _kind(block: Message) -> Feedback | None:
    found = _STATUS.search(str(block.get("Status", "")))
    status = found[0] if found else ""
    match str(block.get("Action", "")).strip().lower():
        case "failed":
            return Feedback.BOUNCED if _ADDRESS_AT_FAULT.fullmatch(status) else Feedback.SOFT_BOUNCED
        case "delayed":
            return Feedback.DELAYED
        case "delivered":
            return Feedback.DELIVERED
    return None


def _complaints(blocks: list[Message]) -> Iterator[tuple[Feedback, str, str]]:
    for block in blocks[:1]:
        kind = str(block.get("Feedback-Type", "")).strip().lower()
        if kind not in {"abuse", "fraud", "virus", "other"}:  # not-spam is praise, auth-failure is about DKIM
            return
        for value in block.get_all("Original-Rcpt-To", [])[:_MOST_RECIPIENTS]:
            yield Feedback.COMPLAINED, _bare(str(value)), kind


def _quoted_ids(report: Message) -> tuple[str, ...]:
    """The Message-ID of the mail that is returned; of its headers alone, if there is no more of it."""
    for part in _parts(report):
        if part.get_content_type() in _QUOTES:
            payload = part.get_payload()
            inner = payload[0] if isinstance(payload, list) and payload else None
            if not isinstance(inner, Message):
                decoded = part.get_payload(decode=True)
                inner = message_from_bytes(decoded if isinstance(decoded, bytes) else b"", policy=policy.compat32)
            return tuple(str(value).strip() for value in inner.get_all("Message-ID", [])[:1])
    return ()


def _value(block: Message, name: str) -> str:
    """`smtp; 550 5.1.1 no such user` -> `550 5.1.1 no such user`."""
    return str(block.get(name, "")).partition(";")[2].strip()


def _address(block: Message, name: str) -> str:
    """`rfc822; ada@example.com` -> `ada@example.com`; "" for what is no address of the Internet's."""
    return _bare(_value(block, name)) if "@" in _value(block, name) else ""


def _bare(value: str) -> str:
    return value.strip().strip("<>")


def _told_at(report: Message, now: datetime) -> datetime:
    """When the report was written, as far as it can be believed."""
    try:
        told = parsedate_to_datetime(str(report.get("Date", "")))
        told = told if told.tzinfo else told.replace(tzinfo=UTC)
        return min(told.astimezone(UTC), now)
    except (ValueError, TypeError, OverflowError):
        return now
