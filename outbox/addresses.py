"""Addresses and header values: parsed and checked before anything is written.

Every address is one mailbox, in one string: `"a@x.example, b@x.example"` and `("Name", "a@x.example")` lose a recipient
in more than one mail library, so here they are an error that says what to write.
"""

import re
from binascii import b2a_base64
from collections.abc import Mapping
from email.utils import quote
from functools import lru_cache
from typing import NamedTuple

from email_validator import EmailNotValidError, EmailSyntaxError, validate_email

from outbox.errors import InvalidAddress, InvalidHeader

LONGEST_LINE = 998
"""Characters in a line of a mail, without its CRLF (RFC 5322, 2.1.1)."""

_LONGEST_LOCAL_PART = 64
"""Octets (RFC 5321, 4.5.3.1.1)."""

_LONGEST_PROBLEM = 200
_LONGEST_NAME = 76  # of a header, so that it and its colon fit the 78 columns a line should keep to
_UNSAFE = re.compile(r"[\r\n\0\ud800-\udfff]")  # they end a header, or (a lone surrogate) have no UTF-8 form
_UNSAFE_ADVICE = "cannot hold CR, LF, NUL or a lone surrogate (half a character)"
_NAMED = re.compile(  # Ada <a@x>, "Lovelace, Ada" <a@x>: a name outside quotes holds nothing that separates mailboxes
    r'(?:"(?P<quoted>(?:[^"\\]|\\.)*)"[ \t]*|(?P<name>[^"<>,;@\\]*))<(?P<address>[^<>]*)>'
)
_ENCODED_WORD = re.compile(r"=\?[^?]*\?[bq]\?", re.IGNORECASE)
_FIELD_NAME = re.compile(r"[!-9;-~]+")  # RFC 5322, 3.6.8: printable ASCII without the colon
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,60}"  # RFC 5322, 3.2.3; no longer than a line of a header will hold
_ATOMS = re.compile(rf"(?!.*=\?){_ATEXT}(?: {_ATEXT})*")  # without "=?", which readers take for an encoded word
_QUOTABLE = re.compile(r"(?!.*=\?)(?=.{1,60}\Z)[!-~]+(?: [!-~]+)*")  # short: readers stumble over a folded quotation
_OURS = {
    "date": None,
    "message-id": None,
    "from": "from_email",
    "to": "to",
    "cc": "cc",
    "bcc": "bcc",
    "reply-to": "reply_to",
    "subject": "subject",
    "return-path": "from_email",
    "mime-version": None,
}
"""Headers that a caller cannot set, each with the argument that does it, if one does."""
_ADDRESSED = frozenset({"sender", "disposition-notification-to", "errors-to"})
"""Headers that hold an address: encoding the whole value, as for human text, would destroy it."""


_USUAL = re.compile(r"([A-Za-z0-9_+-]{1,30}(?:\.[A-Za-z0-9_+-]{1,30})?)@([!-~]{1,180})")
"""ASCII, short enough for all of RFC 5321's limits, and before the `@` nothing that is left to look at."""


class Mailbox(NamedTuple):
    """A person's name, which may be empty, and a deliverable address: its domain in IDNA form, lower case.

    What is before the `@` may be any script's letters (RFC 6531), in Unicode's form NFC.
    """

    name: str
    address: str

    @property
    def header(self) -> str:
        """As it stands in a header, on one line, the name in ASCII: quoted or encoded (RFC 2047) where it must be.

        An address that is not ASCII stands there in UTF-8 (RFC 6532), for it has no other form. Names are encoded even
        beside one: readers of any age know how to show them.
        """
        if not self.name:
            return self.address
        if _ATOMS.fullmatch(self.name):
            name = self.name
        elif _QUOTABLE.fullmatch(self.name):
            name = f'"{quote(self.name)}"'
        else:
            name = encoded_words(self.name, column=len("Reply-To: "))
        return f"{name} <{self.address}>"

    @property
    def domain(self) -> str:
        """The part after the `@`."""
        return self.address.rpartition("@")[2]


def parse_mailbox(field: str, value: object) -> Mailbox:
    """`"a@x.example"` or `"Ada <a@x.example>"` -> Mailbox. Raises InvalidAddress, naming the field."""
    if not isinstance(value, str):
        raise InvalidAddress(field, value, "an address is one string, such as 'Ada <ada@example.com>'")
    if _UNSAFE.search(value):
        raise InvalidAddress(field, value, f"an address {_UNSAFE_ADVICE}")
    if len(value) > LONGEST_LINE:
        raise InvalidAddress(field, value, f"an address is at most {LONGEST_LINE} characters long")
    bare = value.strip(" \t")  # no further blanks: Unicode has some that end a line
    named = _NAMED.fullmatch(bare)
    name, address = (named["quoted"] or named["name"] or "", named["address"]) if named else ("", bare)
    try:
        wire_address = _wire(address)
    except EmailNotValidError as error:
        advice = " Give several addresses as a list of strings." if value.count("@") > 1 else ""
        # The library lists every character that it does not like, as often as it is there.
        problem = str(error) if len(str(error)) <= _LONGEST_PROBLEM else f"{str(error)[:_LONGEST_PROBLEM]}..."
        raise InvalidAddress(field, value, f"{problem}{advice}") from error
    name = re.sub(r"\\(.)", r"\1", name)
    return Mailbox(re.sub(r"[ \t]+", " ", name).strip(" "), wire_address)


def _wire(address: str) -> str:
    usual = _USUAL.fullmatch(address)
    return f"{usual[1]}@{_usual_domain(usual[2])}" if usual else _looked_at(address)


@lru_cache(maxsize=1024)  # nearly all recipients share a few, and this one call takes as long as all other checks
def _usual_domain(domain: str) -> str:
    """In ASCII. What the library says of it does not depend on what is before the `@`, as long as that is usual."""
    return _looked_at(f"x@{domain}").rpartition("@")[2]


def _looked_at(address: str) -> str:
    # Whether the domain exists is the relay's to say, and an intranet's may have no dot.
    found = validate_email(
        address,
        allow_smtputf8=True,
        check_deliverability=False,
        globally_deliverable=False,
        strict=True,
        test_environment=True,
    )
    if _ENCODED_WORD.search(found.local_part):  # it has no meaning there, and yet some hosts and readers decode it
        raise EmailSyntaxError("Before the @-sign there can be nothing that looks like an encoded word (RFC 2047).")
    if len(found.local_part.encode()) > _LONGEST_LOCAL_PART:  # the library counts characters
        raise EmailSyntaxError(f"Before the @-sign there can be {_LONGEST_LOCAL_PART} bytes of UTF-8.")
    return f"{found.local_part}@{found.ascii_domain}"


def encoded_words(text: str, *, column: int) -> str:
    """Text as RFC 2047 encoded words with blanks between, to be folded there.

    The first word stands at `column` of its line; no line grows longer than the 76 characters of section 2, and no
    character is cut. The standard library's `Header` turns U+2028 and its like into blanks, and encodes one way or
    another depending on what else a process has imported.
    """
    data = text.encode()
    words: list[str] = []
    start, room = 0, 76 - column
    while start < len(data):
        end = start + max(4, (room - len("=?utf-8?b??=")) // 4 * 3)  # the longest character has four bytes
        while end < len(data) and data[end] & 0xC0 == 0x80:  # noqa: PLR2004 - 10xxxxxx: within a character
            end -= 1
        words.append(f"=?utf-8?b?{b2a_base64(data[start:end], newline=False).decode('ascii')}?=")
        start, room = end, 75
    return " ".join(words)


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Further headers of a mail, as given. Raises InvalidHeader for what would break or forge one."""
    checked: dict[str, str] = {}
    for name, value in headers.items():
        field = f"headers[{name!r}]"
        if not isinstance(name, str) or not _FIELD_NAME.fullmatch(name):
            raise InvalidHeader("headers", name, "a header name is printable ASCII without spaces or a colon")
        lower = name.lower()
        if len(name) > _LONGEST_NAME:
            raise InvalidHeader("headers", name, f"a header name is at most {_LONGEST_NAME} characters long")
        if not isinstance(value, str):
            raise InvalidHeader(field, value, "a header value is a string")
        if _UNSAFE.search(value):
            raise InvalidHeader(field, value, f"a header value {_UNSAFE_ADVICE}")
        if lower in _ADDRESSED and not value.isascii():
            raise InvalidHeader(field, value, "this header holds an address: write it, and its name, in ASCII")
        if len(name) + len(value) > LONGEST_LINE - 2:
            raise InvalidHeader(field, value, f"a header is at most {LONGEST_LINE} characters long")
        if lower in _OURS or lower.startswith("content-"):
            argument = _OURS.get(lower)
            remedy = f"use the argument {argument}" if argument else "Outbox sets it"
            raise InvalidHeader("headers", name, f"this header cannot be set here; {remedy}")
        if lower in (taken.lower() for taken in checked):
            raise InvalidHeader("headers", name, "this header is given twice")
        checked[name] = value
    return checked


def marked_automatic(headers: Mapping[str, str]) -> dict[str, str]:
    """With `Auto-Submitted: auto-generated` (RFC 3834), lest a holiday notice answers; unless they speak of it."""
    if any(name.lower() == "auto-submitted" for name in headers):
        return dict(headers)
    return {**headers, "Auto-Submitted": "auto-generated"}


def bare_address(header: str) -> str:
    """The address in a `Mailbox.header`."""
    return header[header.rindex("<") + 1 : -1] if header.endswith(">") else header
