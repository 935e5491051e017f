"""One argument of `queue_email` -> what the tables take, or an error that names it, its value and the remedy."""

import json
import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any, cast

from outbox.addresses import Mailbox, check_headers, parse_mailbox
from outbox.attachments import Attachment, check_attachment
from outbox.errors import InvalidAddress, InvalidEmail, InvalidHeader
from outbox.settings import Settings
from outbox.states import OnUncertain, Priority

LONGEST_LABEL = 255
"""Characters of a category, key or request id: they are labels, and stand in indexes."""

LONGEST_SUBJECT = 998
"""RFC 5322, 2.1.1: what a header line may hold."""

LONGEST_WITHIN = 31 * 86_400
"""Seconds: a monthly digest."""

MOST_ATTEMPTS = 2**31 - 1
"""What the column holds."""


def mailboxes(name: str, value: str | Iterable[str]) -> list[Mailbox]:
    """One, several or none."""
    if isinstance(value, str):
        return [parse_mailbox(name, value)]
    several = _listed(value)
    if several is None:
        raise InvalidAddress(name, value, "give an address, or a list of addresses, as strings")
    return [parse_mailbox(name, one) for one in several]


def headers(value: Mapping[str, str] | None) -> dict[str, str]:
    """As given, in order."""
    if value is not None and not isinstance(value, Mapping):
        raise InvalidHeader("headers", value, "give a mapping of header names to values")
    return check_headers(value or {})


def subject(value: object) -> str:
    """One line of Unicode."""
    if not isinstance(value, str):
        raise InvalidEmail("subject", value, "give a subject, as a string")
    if re.search(r"[\r\n\0]", value):
        raise InvalidHeader("subject", value, "a subject cannot hold CR, LF or NUL")
    if len(value) > LONGEST_SUBJECT:
        raise InvalidHeader("subject", value, f"a subject is at most {LONGEST_SUBJECT} characters long")
    return _storable("subject", value)


def body(name: str, value: object) -> str | None:
    """Text that the database and UTF-8 can hold; None stays None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidEmail(name, value, "give a string")
    return _storable(name, value)


def context(value: object) -> Mapping[str, Any]:
    """The variables of a template; None is none."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise InvalidEmail("context", value, "give a mapping of variable names to values")
    return value


def kept_context(value: object) -> dict[str, Any]:
    """A context as it is after it was kept in the database, so that a digest shows its first mail like its last."""
    given = context(value)
    if "contexts" in given:
        raise InvalidEmail("context", value, "a mail that collapses is given `contexts` by Outbox: use another name")
    try:
        kept = json.loads(json.dumps(dict(given), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEmail(
            "context",
            value,
            f"a mail that collapses keeps its context as JSON ({error}): give text, numbers, lists and mappings, and "
            "dates as text",
        ) from error
    return cast("dict[str, Any]", kept)


def within(value: object, collapse: object) -> float | None:
    """Seconds; with `collapse`, and only with it."""
    if value is None is collapse:
        return None
    if collapse is None or isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidEmail(
            "within", value, "with collapse, and only with it, give the seconds for which mails are gathered"
        )
    if not 0 < value <= LONGEST_WITHIN:
        raise InvalidEmail("within", value, f"give seconds, more than 0 and at most {LONGEST_WITHIN} (31 days)")
    return float(value)


def label(name: str, value: object) -> str | None:
    """A short name on one line; None stays None."""
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_LABEL or not value.isprintable():
        raise InvalidEmail(name, value, f"give 1 to {LONGEST_LABEL} printable characters")
    return value


def attachments(attachments: Iterable[Attachment], settings: Settings) -> list[Attachment]:
    """Each of them checked."""
    files = _listed(attachments)
    if files is None:
        raise InvalidEmail("attachments", attachments, "give a list of outbox.Attachment(filename, data)")
    for number, file in enumerate(files):
        check_attachment(f"attachments[{number}]", file, settings.outbox_max_attachment_bytes)
    return files


def priority(value: object) -> Priority:
    """high, normal or low, or the Priority itself."""
    if isinstance(value, Priority):
        return value
    for priority in Priority:
        if value == priority.label:
            return priority
    raise InvalidEmail("priority", value, f"one of {', '.join(priority.label for priority in Priority)}")


def on_uncertain(value: Any, settings: Settings) -> OnUncertain:
    """What was asked for, or else what the settings say."""
    if value is None:
        return settings.outbox_on_uncertain
    try:
        return OnUncertain(value)
    except ValueError as error:
        raise InvalidEmail("on_uncertain", value, f"one of {', '.join(OnUncertain)}") from error


def max_attempts(value: object, settings: Settings) -> int:
    """What was asked for, or else what the settings say."""
    if value is None:
        return settings.outbox_max_attempts
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_ATTEMPTS:
        raise InvalidEmail("max_attempts", value, f"give a whole number from 1 to {MOST_ATTEMPTS}")
    return value


def times(scheduled_at: object, expires_at: object) -> dict[str, datetime]:
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


def _listed(value: object) -> list[Any] | None:
    """The elements; None of what has none, or whose elements are not what was meant (bytes, the keys of a mapping)."""
    if not isinstance(value, Iterable) or isinstance(value, bytes | bytearray | Mapping):
        return None
    # The order of a set differs from one process to the next, and a retry there must still mean the same mail.
    return sorted(value, key=str) if isinstance(value, AbstractSet) else list(value)


def _storable(name: str, value: str) -> str:
    if "\0" in value:
        raise InvalidEmail(name, value, "text cannot hold NUL")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidEmail(name, value, f"not Unicode text: {error.reason} at {error.start}") from error
    return value


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
