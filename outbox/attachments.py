"""A file that goes with a mail, and what it must be like."""

import hashlib
import math
import mimetypes
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import unescape
from typing import BinaryIO, Self
from urllib.parse import unquote

from outbox.errors import InvalidEmail, InvalidHeader, TooLarge
from outbox.message import is_invitation

LONGEST_NAME = 255
"""Characters of a file name: what file systems allow."""

# Without "=?": what looks like an encoded word (RFC 2047) is decoded by readers, in parameters, too.
_CONTENT_TYPE = re.compile(r"(?!.*=\?)[\w.+-]+/[\w.+-]+(; ?[\w.+-]+=(\"[ !#-\[\]-~]*\"|[\w.+-]+))*", re.ASCII)
_PARAMETER_NAME = re.compile(r"; ?([^=]+)=(?:\"[^\"]*\"|[^;]*)")
_ATOMS = r"[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*"
_INLINE_ID = re.compile(rf"(?!.*=\?){_ATOMS}(@{_ATOMS})?", re.ASCII)  # RFC 5322's msg-id, with or without its host
LARGEST_STREAM = 100_000_000
"""Bytes that are read of a stream, whatever the settings say: one without end must not fill the memory. No relay that
we know of takes a mail so large."""

_PIECE = 1 << 20
"""Bytes read of a stream at a time."""

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SHOWN = re.compile(
    r"""(?:[\s"'](?:src|background|poster|data|href|srcset)\s*=\s*["']?|url\(\s*(?:["']|&quot;|&\#39;)?)\s*cid:((?:(?!&quot;|&\#39;)[^\s"'<>)])+)""",
    re.IGNORECASE,
)
"""Where HTML shows, or links to, a part of its own mail."""

_METHODS = ("PUBLISH", "REQUEST", "REPLY", "ADD", "CANCEL", "REFRESH", "COUNTER", "DECLINECOUNTER")
"""RFC 5546, 1.4."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that the database holds already: what `EmailService.store` returned. Keep it, as JSON say, as you like."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Attachment:
    """A file that goes with a mail: its bytes, never a path or URL, for those come from data that others may write.

    `data` is bytes, a stream opened in binary mode, which is read at once and to its end, or a `Blob`.
    `content_type` is guessed from the file name if not given. With an `inline_id` the file is shown in the HTML, at
    `<img src="cid:INLINE_ID">`, rather than offered for download.
    """

    filename: str
    data: bytes | BinaryIO | Blob = field(repr=False)
    content_type: str | None = None
    inline_id: str | None = None

    def __post_init__(self) -> None:
        """Make bytes of a stream, a bytearray, a memoryview. What is none of them is refused with its mail."""
        data: object = self.data
        if isinstance(data, bytearray | memoryview) or hasattr(data, "read"):
            object.__setattr__(self, "data", file_bytes(data))

    @classmethod
    def invitation(cls, data: str | bytes, method: str = "REQUEST", filename: str = "invite.ics") -> Self:
        """A calendar's event (iCalendar) that the reader's program offers to accept, or to call off (`CANCEL`).

        It goes out twice, as Gmail and Outlook want it: as a third way to read the mail, beside text and HTML
        (RFC 6047), and as a file. `data` must say `METHOD:` and the same method.
        """
        ics = _calendar(data, method)
        return cls(filename, ics, f"text/calendar; charset=utf-8; method={method}")

    @cached_property
    def sha256(self) -> str:
        """The blob's key. Computed once for an object: give 10,000 mails the same one."""
        return self.data.sha256 if isinstance(self.data, Blob) else hashlib.sha256(self._bytes).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.data.size if isinstance(self.data, Blob) else len(self._bytes)

    @property
    def blob(self) -> Blob:
        """What it is stored as."""
        return Blob(self.sha256, self.size)

    @cached_property
    def media_type(self) -> str:
        """The given type, the name's, or bytes."""
        if self.content_type is not None:
            return self.content_type
        guessed, encoding = mimetypes.guess_type(self.filename)
        # With an encoding it is the type of what is packed inside: notes.txt.gz is not text.
        return guessed if guessed and not encoding else "application/octet-stream"

    @property
    def encoded_size(self) -> int:
        """Bytes in the message: base64 has 57 of them on a line of 76 and CRLF. An invitation is there twice."""
        return math.ceil(self.size / 57) * 78 * (2 if is_invitation(self.media_type) else 1)

    @property
    def _bytes(self) -> bytes:
        assert isinstance(self.data, bytes)  # made so, or refused by check_attachment
        return self.data


def file_bytes(data: object) -> bytes:
    """The bytes of what `Attachment` and `EmailService.store` are given. Raises InvalidEmail, or TooLarge."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    if not hasattr(data, "read"):
        raise InvalidEmail("data", data, "give bytes, or a stream opened in binary mode; never a path or URL")
    pieces: list[bytes] = []
    left = LARGEST_STREAM
    while True:
        piece = data.read(_PIECE)
        if not isinstance(piece, bytes):
            raise InvalidEmail(
                "data", data, f"its read() gives {type(piece).__name__}: open it in binary mode, open(path, 'rb')"
            )
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
        if left < 0:
            raise TooLarge("data", data, f"a stream of more than {LARGEST_STREAM} bytes: send a link to it")
    if not pieces and _stands_behind_bytes(data):
        # Written a moment ago, and not wound back: the reader would get an empty file.
        raise InvalidEmail("data", data, "a stream that stands at its end: call its seek(0) first")
    return b"".join(pieces)


def check_attachment(name: str, file: object, largest: int) -> None:
    """Raises InvalidEmail, naming the attachment by `name`, for one that cannot go with a mail.

    `largest`: bytes of the file.
    """
    if not isinstance(file, Attachment):
        raise InvalidEmail(name, file, "give an outbox.Attachment(filename, data)")
    _check_data(f"{name}.data", file, largest)
    if not _is_filename(file.filename):
        raise InvalidEmail(
            f"{name}.filename", file.filename, f"give a file name of 1 to {LONGEST_NAME} characters, without a path"
        )
    kind = file.media_type
    if not isinstance(kind, str) or len(kind) > LONGEST_NAME or not _is_content_type(kind):
        raise InvalidHeader(f"{name}.content_type", kind, "give a media type, such as application/pdf")
    if kind.lower().startswith(("message/", "multipart/")):
        raise InvalidHeader(
            f"{name}.content_type",
            kind,
            "a message cannot be attached under its own type (RFC 2046, 5.2.1): use application/octet-stream",
        )
    inline = file.inline_id
    if inline is None:
        return
    if not isinstance(inline, str) or len(inline) > LONGEST_NAME or not _INLINE_ID.fullmatch(inline):
        raise InvalidHeader(
            f"{name}.inline_id",
            inline,
            f"give 1 to {LONGEST_NAME} characters such as logo or logo@example.com: ASCII without spaces and brackets",
        )


def check_together(files: Sequence[Attachment], html: str | None) -> None:
    """Raises InvalidEmail where each file may be well, and yet the mail would not be shown as it was meant."""
    by_id: dict[str, str] = {}
    invited = False
    for number, file in enumerate(files):
        name = f"attachments[{number}]"
        if is_invitation(file.media_type):
            if invited:
                raise InvalidEmail(
                    f"{name}.content_type", file.media_type, "a mail holds one invitation: queue two mails"
                )
            invited = True
        if file.inline_id is None:
            continue
        if file.inline_id in by_id:
            raise InvalidEmail(f"{name}.inline_id", file.inline_id, f"{by_id[file.inline_id]} has it, too")
        by_id[file.inline_id] = name
    if html is None or "cid:" not in html.lower():  # ten times as quick
        return
    for shown in _SHOWN.findall(html):
        if not {shown, unquote(unescape(shown))} & by_id.keys():
            raise InvalidEmail("html", f"cid:{shown}", "a picture that no attachment has as its inline_id")


def _check_data(name: str, file: Attachment, largest: int) -> None:
    data: object = file.data
    if isinstance(data, Blob):
        if (
            not isinstance(data.sha256, str)
            or not _SHA256.fullmatch(data.sha256)
            or type(data.size) is not int
            or data.size < 0
        ):
            raise InvalidEmail(name, data, "give a Blob as EmailService.store returned it")
    elif not isinstance(data, bytes):
        raise InvalidEmail(name, data, "give bytes, a stream opened in binary mode, or an outbox.Blob")
    if file.size > largest:
        raise TooLarge(name, file.size, f"bytes, more than OUTBOX_MAX_ATTACHMENT_BYTES={largest}: send a link to it")


def _stands_behind_bytes(stream: object) -> bool:
    try:
        return bool(stream.tell())  # type: ignore[attr-defined]  # or it has none
    except (AttributeError, OSError, ValueError):  # a pipe cannot tell
        return False


def _calendar(data: object, method: str) -> bytes:
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


def _is_content_type(kind: str) -> bool:
    names = [name.lower() for name in _PARAMETER_NAME.findall(kind)]
    return _CONTENT_TYPE.fullmatch(kind) is not None and len(set(names)) == len(names)


def _is_filename(value: object) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME or re.search(r"[/\\]|\A\.\.?\Z", value):
        return False
    # Any kind of space: macOS puts a narrow one into the names of its screenshots.
    return all(character.isprintable() or unicodedata.category(character) == "Zs" for character in value)
