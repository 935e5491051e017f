"""A mail -> its bytes on the wire; the same mail, the same bytes, every time.

The MIME tree is the one that the `emails` library builds: mixed > related > alternative > text and HTML, with inline
files in related and the others in mixed. The library takes 1.2 ms for a mail of 2 KB, most of it in Python's `email`
package; here the parts are fixed strings, and C code (`binascii`) encodes what goes into them: 0.03 ms. An invitation,
which the library does not know, is one more alternative, and a file.
"""

import re
from binascii import b2a_base64, b2a_qp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from hashlib import blake2s
from struct import Struct
from typing import Literal, NamedTuple
from urllib.parse import quote

from outbox.addresses import LONGEST_LINE, encoded_words

_CRLF = "\r\n"
_COLUMNS = 78  # RFC 5322, 2.1.1: the length that a line should keep to
_BASE64_COLUMNS = 76  # RFC 2045, 6.8
_LINES = Struct(f"{_BASE64_COLUMNS}s" * 1024)  # cuts base64 into lines four times as fast as a loop of slices
_BLOCK = 57 * 1024  # bytes that make so many lines
_INVITATION = re.compile(r"text/calendar *;(?:.*;)? *method=", re.IGNORECASE)
_PLAIN = re.compile(r"[ -~\t]*")
_ENCODED_WORD = re.compile(r"=\?[^?]*\?[bq]\?", re.IGNORECASE)  # what readers decode, even where a person typed it
_WORDS = re.compile(r"[ \t]*[^ \t]+")  # each with the blanks before it
# A folded quotation is allowed, and yet even the standard library's `parseaddr` ends it at the CR: keep it whole.
_MAILBOX_WORDS = re.compile(r'[ \t]*(?:"(?:[^"\\]|\\.)*"|[^ \t])[^ \t]*')
_QUOTABLE = re.compile(r"(?!.*=\?)[!#-\[\]-~]*(?: [!#-\[\]-~]+)*")  # a file name that quotes keep as it is
_LONGEST_NAME = 255  # what file systems allow; longer names are cut into RFC 2231 pieces
_PIECE = 60  # columns of such a piece, which leaves a line room for its label


@dataclass(frozen=True, slots=True, repr=False)
class File:
    """An attachment or, with an `inline_id` (the HTML's `cid:`, without brackets), a picture that the HTML shows."""

    filename: str
    content_type: str
    data: bytes
    inline_id: str | None = None

    def __repr__(self) -> str:
        """Not its name nor its bytes: logs and tracebacks are read by those whom the mail is not for."""
        return f"<File of {len(self.data)} bytes>"


class Part(NamedTuple):
    """A file, encoded: many mails can share it. `place` is the multipart that it belongs to."""

    place: Literal["alternative", "related", "mixed"]
    data: bytes

    def __repr__(self) -> str:
        """Not what it holds, for the same reason."""
        return f"<Part of {len(self.data)} bytes>"


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """What is said, ready to be composed. Who gets it is the envelope's business: there is no bcc here to leak.

    `sender`, `to`, `cc` and `reply_to` are headers in wire form (`Mailbox.header`, joined by ", "); `subject` and the
    values of `headers` are human text. Names and values were checked when the mail was queued.
    """

    message_id: str
    date: datetime
    sender: str
    to: str
    cc: str | None
    reply_to: str | None
    subject: str
    text: str | None
    html: str | None
    headers: Mapping[str, str]
    files: Sequence[File] = ()
    parts: Sequence[Part] = ()
    """Files that were encoded before, for this mail or another."""

    def __repr__(self) -> str:
        """Not what it says, for the same reason."""
        return f"<Message {self.message_id}>"

    def as_bytes(self) -> bytes:
        """7-bit ASCII, CRLF line ends, no line over 998 characters; dots are the SMTP client's to stuff.

        But for an address that is not ASCII: it stands in its header in UTF-8 (RFC 6532), and nothing else does.

        Raises ValueError where nothing can be sent: no text and no HTML (retention purged them), or a lone surrogate
        somewhere, which has no UTF-8 form.
        """
        bodies = [_body(kind, text) for kind, text in (("plain", self.text), ("html", self.html)) if text]
        if not bodies:
            raise ValueError(f"{self.message_id} has neither text nor HTML: there is nothing to send")
        parts = [*self.parts, *(part for file in self.files for part in encoded(file))]
        # No part can contain the boundary: quoted-printable follows "=" by a hex digit or a line's end, base64 has no
        # "_", and a header's line starts with a name or a blank. The hash keeps apart mails that quote one another.
        hash_ = blake2s(self.message_id.encode(), digest_size=12).hexdigest()
        alternative = _multipart("alternative", hash_, [[body] for body in bodies], parts)
        related = _multipart("related", hash_, [alternative], parts)
        mixed = _multipart("mixed", hash_, [related], parts)
        return b"".join([self._head(), *mixed])  # the one time that large files are copied

    def _head(self) -> bytes:
        lines = [
            f"Date: {_date(self.date)}",
            _fold(f"Message-ID: {self.message_id}"),
            _fold(f"From: {self.sender}", _MAILBOX_WORDS),
        ]
        addressed = ("To", self.to), ("Cc", self.cc), ("Reply-To", self.reply_to)
        lines += [_fold(f"{name}: {value}", _MAILBOX_WORDS) for name, value in addressed if value]
        lines.append(_header("Subject", self.subject))
        lines += [_header(name, value) for name, value in self.headers.items()]
        return _CRLF.join([*lines, "MIME-Version: 1.0", ""]).encode()


def _multipart(
    kind: Literal["alternative", "related", "mixed"],
    hash_: str,
    first: Sequence[Sequence[bytes]],
    parts: Sequence[Part],
) -> list[bytes]:
    """Its pieces: what is given and then the parts that belong here."""
    boundary = f"=_{kind[0]}_{hash_}"
    pieces = [f'Content-Type: multipart/{kind}; boundary="{boundary}"{_CRLF}'.encode("ascii")]
    delimiter = f"{_CRLF}--{boundary}".encode("ascii")
    for part in first:
        pieces += [delimiter, b"\r\n", *part]
    for file in parts:
        if file.place == kind:
            pieces += [delimiter, b"\r\n", file.data]
    return [*pieces, delimiter, b"--\r\n"]


@lru_cache(64)  # to the second, which the mails of a chunk share
def _date(moment: datetime) -> str:
    """In UTC, whatever zone the database's driver returns it in."""
    return format_datetime(moment.astimezone(UTC))


def encoded(file: File) -> list[Part]:
    """What becomes of a file. An invitation is there twice: calendars offer the alternative, people save the file."""
    if is_invitation(file.content_type):
        head = _CRLF.join([_header("Content-Type", file.content_type), "Content-Transfer-Encoding: base64", "", ""])
        to_save = replace(file, content_type="application/ics")
        return [Part("alternative", head.encode("ascii") + _base64(file.data)), Part("mixed", _attached(to_save))]
    return [Part("mixed" if file.inline_id is None else "related", _attached(file))]


def is_invitation(content_type: str) -> bool:
    """A calendar that wants something of its reader (RFC 6047), rather than a file that happens to be one."""
    return _INVITATION.match(content_type) is not None


def _body(kind: str, text: str) -> bytes:
    # A lone CR before a dot can end a mail early at some relays (SMTP smuggling): only CRLF goes out.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    data = text.encode()
    # Base64 is the shorter one when UTF-8 needs an eighth more bytes than there are characters, or thereabouts.
    if len(data) * 8 > len(text) * 9:
        encoding, encoded = "base64", _base64(data.replace(b"\n", b"\r\n"))
    else:
        encoding, encoded = "quoted-printable", b2a_qp(data).replace(b"\n", b"\r\n")
    head = f"Content-Type: text/{kind}; charset=utf-8{_CRLF}Content-Transfer-Encoding: {encoding}{_CRLF}{_CRLF}"
    return head.encode("ascii") + encoded


def _attached(file: File) -> bytes:
    disposition = "attachment" if file.inline_id is None else "inline"
    lines = [
        _header("Content-Type", file.content_type),
        "Content-Transfer-Encoding: base64",
        f"Content-Disposition: {disposition};{_CRLF} {_filename(file.filename)}",
    ]
    if file.inline_id is not None:
        lines.append(_header("Content-ID", f"<{file.inline_id}>"))
    return _CRLF.join([*lines, "", ""]).encode("ascii") + _base64(file.data)


def _base64(data: bytes) -> bytes:
    whole = len(data) // _BLOCK * _BLOCK
    view = memoryview(data)
    blocks = [
        b"\r\n".join(_LINES.unpack(b2a_base64(view[start : start + _BLOCK], newline=False)))
        for start in range(0, whole, _BLOCK)
    ]
    rest = b2a_base64(view[whole:], newline=False)
    lines = [rest[start : start + _BASE64_COLUMNS] for start in range(0, len(rest), _BASE64_COLUMNS)]
    return b"\r\n".join(blocks + lines)


def _filename(name: str) -> str:
    """In quotes, which every reader knows; RFC 2231 where they will not do."""
    if len(name) <= _LONGEST_NAME and _QUOTABLE.fullmatch(name):
        return f'filename="{name}"'
    pieces = [""]
    for character in name:  # a piece never ends inside one: readers decode piece by piece
        encoded = quote(character, safe="")
        if len(pieces[-1]) + len(encoded) > _PIECE:
            pieces.append("")
        pieces[-1] += encoded
    pieces[0] = f"utf-8''{pieces[0]}"
    if len(pieces) == 1:
        return f"filename*={pieces[0]}"
    return f";{_CRLF} ".join(f"filename*{number}*={piece}" for number, piece in enumerate(pieces))


def _header(name: str, text: str) -> str:
    """Human text as a header: as it is, or in encoded words where ASCII or the length of a line will not hold it."""
    text = text.strip(" \t")  # readers drop these blanks, and a line of nothing else would end the headers for some
    if _PLAIN.fullmatch(text) and not _ENCODED_WORD.search(text):
        folded = _fold(f"{name}: {text}")
        if len(folded) <= LONGEST_LINE or max(map(len, folded.split(_CRLF))) <= LONGEST_LINE:
            return folded
    return _fold(f"{name}: {encoded_words(text, column=len(name) + 2)}")


def _fold(line: str, breakable: re.Pattern[str] = _WORDS) -> str:
    """Break a header before blanks, as late as possible. Its name stays with the first word, and no word is broken."""
    if len(line) <= _COLUMNS:
        return line
    name, *words = breakable.findall(line)
    lines = [name + words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) > _COLUMNS:
            lines.append(word)
        else:
            lines[-1] += word
    return _CRLF.join(lines)
