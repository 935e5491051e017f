"""An iCalendar that a mail invites with: what it must say, and how it goes out."""

import re

from outbox.errors import InvalidEmail

_METHODS = ("PUBLISH", "REQUEST", "REPLY", "ADD", "CANCEL", "REFRESH", "COUNTER", "DECLINECOUNTER")
"""RFC 5546, 1.4."""


def calendar(data: object, method: str) -> bytes:
    """The iCalendar as it goes out, if it is one and says the method that its part will be labelled with."""
    if method not in _METHODS:
        raise InvalidEmail("method", method, f"one of {', '.join(_METHODS)}")
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
    except UnicodeDecodeError as error:
        raise InvalidEmail("data", data, f"an invitation is UTF-8: {error.reason} at byte {error.start}") from error
    if not isinstance(text, str):
        raise InvalidEmail("data", data, "give the iCalendar (.ics) as text or bytes")
    lines = re.split(r"\r\n|\r|\n", text.strip()) if "\0" not in text else []
    upper = [line.strip().upper() for line in lines]
    if not upper or upper[0] != "BEGIN:VCALENDAR" or upper[-1] != "END:VCALENDAR":
        raise InvalidEmail("data", data, "not an iCalendar: it goes from BEGIN:VCALENDAR to END:VCALENDAR")
    said = [line for line in upper if line.startswith("METHOD:")]
    if said != [f"METHOD:{method}"]:
        raise InvalidEmail(
            "data", data, f"its calendar must say METHOD:{method} once, and says {', '.join(said) or 'no METHOD'}"
        )
    return "".join(f"{line}\r\n" for line in lines).encode()
