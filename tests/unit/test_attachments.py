"""What a file may be given as, and what a calendar's invitation becomes."""

import hashlib
import io
import os
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from outbox.attachments import LARGEST_STREAM, Attachment, Blob
from outbox.draft import draft
from outbox.errors import InvalidEmail, TooLarge
from outbox.message import File, Message, encoded
from outbox.settings import Settings

MAIL = Message(
    message_id="<1.2@mail.example>",
    date=datetime(2026, 11, 22, 13, 21, 5, tzinfo=UTC),
    sender="Shop <shop@shop.example>",
    to="ada@client.example",
    cc=None,
    reply_to=None,
    subject="Tea",
    text="Tea at five?",
    html='<p>Tea at five?</p><img src="cid:a">',
    headers={},
)
SETTINGS = Settings.load(smtp_from_email="shop@example.com")
ICS = """\
BEGIN:VCALENDAR
VERSION:2.0
METHOD:REQUEST
BEGIN:VEVENT
SUMMARY:Tea\u2028f\u00fcr zwei
END:VEVENT
END:VCALENDAR
"""


class Dribbling(io.RawIOBase):
    """A raw stream, which may give less than was asked for, and cannot tell where it stands."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._pieces.pop(0) if self._pieces else b""
        buffer[: len(piece)] = piece
        return len(piece)


class Endless:
    """The worst stream: it never ends."""

    given = 0

    def read(self, size: int) -> bytes:
        self.given += size
        return b"\0" * size


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF",
        bytearray(b"%PDF"),
        memoryview(b"%PDF"),
        io.BytesIO(b"%PDF"),
        Dribbling([b"%", b"P", b"DF"]),
    ],
    ids=lambda data: type(data).__name__,
)
def test_a_file_is_its_bytes(data: Any) -> None:
    file = Attachment("a.pdf", data)
    assert file.data == b"%PDF"
    assert file.blob == Blob(hashlib.sha256(b"%PDF").hexdigest(), 4)
    assert file == Attachment("a.pdf", b"%PDF")
    assert "%PDF" not in repr(file)


def test_a_stream_is_read_from_where_it_stands_and_at_once() -> None:
    stream = io.BytesIO(b"header%PDF")
    stream.seek(6)
    file = Attachment("a.pdf", stream)
    stream.close()
    assert file.data == b"%PDF"
    assert Attachment("empty.txt", io.BytesIO()).data == b""


def test_a_file_and_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(noise := os.urandom(3_000_000))
    with path.open("rb") as file:
        assert Attachment("noise", file).data == noise
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert Attachment("nothing", pipe).data == b""


def test_a_stream_without_end() -> None:
    stream = Endless()
    with pytest.raises(TooLarge, match=rf"a stream of more than {LARGEST_STREAM} bytes"):
        Attachment("zero", stream)  # type: ignore[arg-type]
    assert stream.given < LARGEST_STREAM + 2**21


def _wound_on() -> io.BytesIO:
    stream = io.BytesIO()
    stream.write(b"%PDF")
    return stream


class NotYet:
    def read(self, _: int) -> None:
        return None


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (io.StringIO("text"), "open it in binary mode"),
        (io.StringIO(""), "open it in binary mode"),
        (NotYet(), "open it in binary mode"),
        (_wound_on(), r"call its seek\(0\) first"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_stream_that_will_not_do(data: Any, remedy: str) -> None:
    with pytest.raises(InvalidEmail, match=remedy) as refused:
        Attachment("a", data)
    assert refused.value.field == "data"


# --- Pictures in the HTML


@pytest.mark.parametrize(
    "html",
    [
        '<img src="cid:logo">',
        "<img alt=x SRC = 'CID:logo'>",
        "<img src=cid:logo>",
        '<td background="cid:logo">',
        '<td style="background: url(cid:logo)">',
        "<td style=\"background: url('cid:logo')\">",
        '<td style="background: url(&quot;cid:logo&quot;)">',
        '<style>td { background: url( "cid:logo" ) }</style>',
        '<img\nsrc="cid:logo"><img src="cid:a&amp;b%40c">',
    ],
)
def test_a_picture_that_is_not_there(html: str) -> None:
    files = [Attachment("a.png", b"a", inline_id="a&b@c")]
    with pytest.raises(InvalidEmail, match=r"^html='cid:logo': a picture that no attachment has as its inline_id$"):
        _draft(html=html, attachments=files)
    assert _draft(html=html, attachments=[*files, Attachment("logo.png", b"b", inline_id="logo")])


@pytest.mark.parametrize(
    "html", ["<p>cid:logo</p>", "<p title='acid:rain'>src of cid:x", "<a href='https://a/?x=cid:y'>"]
)
def test_what_shows_no_picture(html: str) -> None:
    assert _draft(html=html)


def _draft(**mail: Any) -> object:
    return draft(SETTINGS, **({"to": "ada@example.com", "subject": "Hello", "text": "Hello."} | mail))


# --- Invitations


@pytest.mark.parametrize("data", [ICS, ICS.encode(), ICS.replace("\n", "\r\n").encode("utf-8-sig"), f"\n{ICS}\n"])
def test_an_invitation_is_an_alternative_and_a_file(data: str | bytes) -> None:
    invitation = Attachment.invitation(data)
    picture, paper = File("a.png", "image/png", b"a", "a"), File("b.pdf", "application/pdf", b"b")
    assert isinstance(invitation.data, bytes)
    calendar_file = File(invitation.filename, invitation.media_type, invitation.data)
    message = replace(MAIL, files=[calendar_file, picture, paper])
    read = message_from_bytes(message.as_bytes(), policy=default)
    assert not [part for part in read.walk() if part.defects]
    mixed = [part.get_content_type() for part in read.iter_parts()]
    assert mixed == ["multipart/related", "application/ics", "application/pdf"]
    related, saved, _ = read.iter_parts()
    alternative, _ = related.iter_parts()
    plain, html, calendar = alternative.iter_parts()
    assert [part.get_content_type() for part in (plain, html)] == ["text/plain", "text/html"]
    assert calendar["Content-Type"] == 'text/calendar; charset="utf-8"; method="REQUEST"'
    assert calendar["Content-Disposition"] is None
    expected = ICS.replace("\n", "\r\n").encode()
    assert calendar.get_payload(decode=True) == saved.get_payload(decode=True) == expected
    assert (saved.get_filename(), saved.get_content_disposition()) == ("invite.ics", "attachment")
    twice = sum(len(part.data) for part in encoded(message.files[0]))
    assert twice - 400 < invitation.encoded_size < twice + 100


def test_the_call_off() -> None:
    file = Attachment.invitation(ICS.replace("REQUEST", "cancel"), method="CANCEL", filename="off.ics")
    assert (file.filename, file.media_type) == ("off.ics", "text/calendar; charset=utf-8; method=CANCEL")


@pytest.mark.parametrize(
    ("data", "method", "field", "problem"),
    [
        (ICS, "request", "method", "one of PUBLISH, REQUEST"),
        (ICS, "REQUEST; x=y", "method", "one of PUBLISH, REQUEST"),
        (ICS, "CANCEL", "data", "must say METHOD:CANCEL once, and says METHOD:REQUEST"),
        (ICS.replace("METHOD", "X-METHOD"), "REQUEST", "data", "and says no METHOD"),
        (ICS.replace("VERSION:2.0", "METHOD:CANCEL"), "REQUEST", "data", "says METHOD:CANCEL, METHOD:REQUEST"),
        (b"%PDF", "REQUEST", "data", "not an iCalendar"),
        ("", "REQUEST", "data", "not an iCalendar"),
        (ICS[:-5], "REQUEST", "data", "not an iCalendar"),
        (ICS.replace("Tea", "T\0a"), "REQUEST", "data", "not an iCalendar"),
        (ICS.encode("latin-1", "replace").replace(b"?", b"\xe4"), "REQUEST", "data", "an invitation is UTF-8"),
        (None, "REQUEST", "data", "as text or bytes"),
        (Path("invite.ics"), "REQUEST", "data", "as text or bytes"),
    ],
)
def test_what_is_no_invitation(data: Any, method: str, field: str, problem: str) -> None:
    with pytest.raises(InvalidEmail, match=problem) as refused:
        Attachment.invitation(data, method)
    assert refused.value.field == field


def test_a_mail_holds_one_invitation() -> None:
    assert _draft(attachments=[Attachment.invitation(ICS), Attachment("plain.ics", ICS.encode())])
    with pytest.raises(InvalidEmail, match="a mail holds one invitation") as refused:
        _draft(attachments=[Attachment.invitation(ICS), Attachment("a.pdf", b""), Attachment.invitation(ICS)])
    assert refused.value.field == "attachments[2].content_type"


# --- Encoding


@pytest.mark.parametrize("size", [0, 1, 57, 58, 57 * 1024 - 1, 57 * 1024, 57 * 1024 + 1, 57 * 2048, 300_000])
def test_base64_of_every_length(size: int) -> None:
    data = os.urandom(size)
    (part,) = encoded(File("a", "application/octet-stream", data))
    _, _, body = part.data.partition(b"\r\n\r\n")
    assert message_from_bytes(part.data).get_payload(decode=True) == data
    assert {len(line) for line in body.split(b"\r\n")[:-1]} <= {76}
    assert not body.endswith(b"\r\n")
