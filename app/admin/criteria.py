"""What a search of the mails asks for, as it stands in an address or a form.

An address is worth passing on: it says what was asked for and nothing else, and its times name their offset, so that
they are the same for a colleague in another zone.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from werkzeug.exceptions import BadRequest

from app.accounts.models import User
from app.fields import Fields
from outbox.searching import Filter
from outbox.states import DeadReason, Priority, Status

LONGEST = 998
"""Characters of a value: a line of a message's header."""

T = TypeVar("T")


def read(given: Mapping[str, str], user: User) -> Filter:
    """The filter; a time without an offset is by the user's clock. What makes no sense is a 400 that names it."""
    fields = Fields(given)

    def text(name: str) -> str | None:
        return fields.text(name, LONGEST) or None

    def one_of(name: str, known: Mapping[str, T]) -> T | None:
        value = text(name)
        if value is None or value in known:
            return known[value] if value else None
        raise BadRequest(f"{name}={value[:100]!r}: choose from {', '.join(known)}.")

    return Filter(
        status=one_of("status", STATUSES),
        dead_reason=one_of("dead_reason", DEAD_REASONS),
        recipient=text("recipient"),
        subject=text("subject"),
        category=text("category"),
        priority=one_of("priority", PRIORITIES),
        message_id=text("message_id"),
        request_id=text("request_id"),
        since=fields.moment("since", user),
        until=fields.moment("until", user),
    )


def spelled(wanted: Filter) -> dict[str, Any]:
    """The filter as `read` takes it."""
    given = {name: getattr(wanted, name) for name in _NAMES}
    return {name: _SPELLED.get(type(value), str)(value) for name, value in given.items() if value is not None}


STATUSES = {status.value: status for status in Status}
DEAD_REASONS = {reason.value: reason for reason in DeadReason}
PRIORITIES = {priority.label: priority for priority in Priority}

_NAMES = (
    "status", "dead_reason", "recipient", "subject", "category", "priority", "message_id", "request_id", "since",
    "until",
)  # fmt: skip

_SPELLED: Mapping[type, Callable[..., str]] = {
    Priority: lambda priority: str(priority.label),
    datetime: lambda moment: moment.astimezone(UTC).isoformat().replace("+00:00", "Z"),
}
