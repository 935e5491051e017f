"""A file that goes with a mail, and what it must be like."""

import hashlib
import math
import mimetypes
import re
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property

from outbox.errors import InvalidEmail, InvalidHeader

LONGEST_NAME = 255
"""Characters of a file name: what file systems allow."""

# Without "=?": what looks like an encoded word (RFC 2047) is decoded by readers, in parameters, too.
_CONTENT_TYPE = re.compile(r"(?!.*=\?)[\w.+-]+/[\w.+-]+(; ?[\w.+-]+=(\"[ !#-\[\]-~]*\"|[\w.+-]+))*", re.ASCII)
_PARAMETER_NAME = re.compile(r"; ?([^=]+)=(?:\"[^\"]*\"|[^;]*)")
_ATOMS = r"[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*"
_INLINE_ID = re.compile(rf"(?!.*=\?){_ATOMS}(@{_ATOMS})?", re.ASCII)  # RFC 5322's msg-id, with or without its host


@dataclass(frozen=True)
class Attachment:
    """A file that goes with a mail: its bytes, never a path or URL, for those come from data that others may write.

    `content_type` is guessed from the file name if not given. With an `inline_id` the file is shown in the HTML, at
    `<img src="cid:INLINE_ID">`, rather than offered for download.
    """

    filename: str
    data: bytes = field(repr=False)
    content_type: str | None = None
    inline_id: str | None = None

    @cached_property
    def sha256(self) -> str:
        """The blob's key. Computed once for an object: give 10,000 mails the same one."""
        return hashlib.sha256(self.data).hexdigest()

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
        """Bytes in the message: base64 has 57 of them on a line of 76 and CRLF."""
        return math.ceil(len(self.data) / 57) * 78


def check_attachment(name: str, file: object) -> None:
    """Raises InvalidEmail, naming the attachment by `name`, for one that cannot go with a mail."""
    if not isinstance(file, Attachment):
        raise InvalidEmail(name, file, "give an outbox.Attachment(filename, data)")
    if not isinstance(file.data, bytes):
        raise InvalidEmail(f"{name}.data", file.data, "give bytes")
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


def _is_content_type(kind: str) -> bool:
    names = [name.lower() for name in _PARAMETER_NAME.findall(kind)]
    return _CONTENT_TYPE.fullmatch(kind) is not None and len(set(names)) == len(names)


def _is_filename(value: object) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME or re.search(r"[/\\]|\A\.\.?\Z", value):
        return False
    # Any kind of space: macOS puts a narrow one into the names of its screenshots.
    return all(character.isprintable() or unicodedata.category(character) == "Zs" for character in value)
