"""What every composed mail keeps to, and that each field comes out of a reader as it went in."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import default
from email.utils import getaddresses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outbox.addresses import Mailbox
from outbox.message import File, Message
from tests.generating import addresses, header_names, inline_ids, message_ids

MAIL = Message(
    message_id="<1.2@mail.example>",
    date=datetime(2026, 11, 22, 13, 21, 5, tzinfo=UTC),
    sender="Shop <shop@shop.example>",
    to="ada@client.example",
    cc=None,
    reply_to=None,
    subject="Your order",
    text="Thank you.\n",
    html="<p>Thank you.</p>\n",
    headers={},
)

# A machine under load composes and generates slowly; that is no finding.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

anything = st.text(st.characters(exclude_categories=["Cs"]))
"""Any text that has a UTF-8 form; CR, LF and NUL, which the enqueue refuses in headers, included."""
awkward = st.lists(
    st.sampled_from(
        ["\r", "\n", "\r\n", ".", " ", "\t", "=", "=?", "?=", "=?utf-8?q?x?=", "-", "--", "=_", "é", "€", "😀"]
    )
    | st.text("ab .=?_-", max_size=90),
    max_size=60,
).map("".join)
texts = anything | awkward
content_types = st.sampled_from(["image/png", "application/octet-stream", "text/csv; charset=utf-8", "text/plain"])
files = st.builds(
    File,
    filename=texts,
    content_type=content_types,
    data=st.binary(max_size=300),
    inline_id=st.none() | inline_ids,
)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=120).map(
    lambda name: " ".join(name.split(" ")).strip(" ")
)
mailboxes = st.builds(Mailbox, names, addresses).map(lambda mailbox: mailbox.header)
address_lists = st.lists(mailboxes, min_size=1, max_size=6).map(", ".join)
messages = st.builds(
    Message,
    message_id=message_ids(80),
    date=st.datetimes(datetime(1970, 1, 2), datetime(2199, 1, 1), timezones=st.timezones()),  # noqa: DTZ001 - Hypothesis adds it
    sender=mailboxes,
    to=address_lists,
    cc=st.none() | address_lists,
    reply_to=st.none() | address_lists,
    subject=texts,
    text=texts.filter(bool),
    html=st.none() | texts,
    headers=st.dictionaries(header_names, texts, max_size=4),
    files=st.lists(files, max_size=4),
)


def read(message: Message) -> EmailMessage:
    return message_from_bytes(message.as_bytes(), policy=default)


def mailboxes_in(raw: bytes, header: str) -> list[tuple[str, str]]:
    """By the standard library's older parser: the newer one (3.11) leaves blanks between the words of a long name."""
    found = getaddresses([message_from_bytes(raw)[header]])
    return [(str(make_header(decode_header(name))), address) for name, address in found]


def leaves(message: Message) -> list[Any]:
    return [part for part in read(message).walk() if not part.is_multipart()]


def unblanked(text: str) -> str:
    """Blanks at the ends of a header are dropped by readers, and by us."""
    return text.strip(" \t")


def crlf(text: str) -> str:
    return re.sub(r"\r\n|\r|\n", "\r\n", text)


@unhurried
@given(messages)
def test_lines_are_short_ascii_and_end_in_crlf(message: Message) -> None:
    lines = message.as_bytes().split(b"\r\n")
    for line in lines:
        assert re.fullmatch(rb"[ -~\t]{0,998}", line), line
    assert lines[-1] == b""


@unhurried
@given(messages)
def test_no_line_is_blanks_only_and_bodies_keep_to_76_columns(message: Message) -> None:
    raw = message.as_bytes()
    assert not re.search(rb"\r\n[ \t]+\r\n", raw)
    for part in raw.split(b"\r\n--=_"):
        _, _, body = part.partition(b"\r\n\r\n")
        assert all(len(line) <= 76 for line in body.split(b"\r\n"))


@unhurried
@given(messages, st.timezones())
def test_the_same_mail_has_the_same_bytes(message: Message, zone: timezone) -> None:
    elsewhere = replace(message, date=message.date.astimezone(zone), headers=dict(message.headers))
    assert elsewhere.as_bytes() == message.as_bytes()


@unhurried
@given(messages)
def test_the_tree_is_mixed_related_alternative(message: Message) -> None:
    root = read(message)
    assert not [defect for part in root.walk() for defect in part.defects]
    bodies = ["text/plain"] + ["text/html"] * bool(message.html)
    related, *others = root.iter_parts()
    alternative, *inline = related.iter_parts()
    assert [part.get_content_type() for part in (root, related, alternative)] == [
        "multipart/mixed",
        "multipart/related",
        "multipart/alternative",
    ]
    assert [part.get_content_type() for part in alternative.iter_parts()] == bodies
    assert [part.get_content_disposition() for part in inline] == ["inline"] * len(inline)
    assert [part.get_content_disposition() for part in others] == ["attachment"] * len(others)
    assert len(inline) + len(others) == len(message.files)


@unhurried
@given(messages)
def test_bodies_arrive_whole_with_crlf_line_ends(message: Message) -> None:
    expected = [crlf(text) for text in (message.text, message.html) if text]
    assert [part.get_payload(decode=True).decode() for part in leaves(message)[: len(expected)]] == expected


@unhurried
@given(messages)
def test_files_arrive_whole(message: Message) -> None:
    bodies = 1 + bool(message.html)
    arrived = [
        File(
            part["Content-Disposition"].params["filename"],  # get_filename() would strip it
            part["Content-Type"].replace('"', ""),
            part.get_payload(decode=True),
            part["Content-ID"] and part["Content-ID"][1:-1],
        )
        for part in leaves(message)[bodies:]
    ]
    inline_first = sorted(message.files, key=lambda file: file.inline_id is None)
    assert arrived == inline_first


@unhurried
@given(messages)
def test_headers_are_read_as_they_were_given(message: Message) -> None:
    root = read(message)
    assert root["Subject"] == unblanked(message.subject)
    assert {name: root[name] for name in message.headers} == {
        name: unblanked(value) for name, value in message.headers.items()
    }
    assert root["Message-ID"] == message.message_id
    assert root["Date"].datetime == message.date.astimezone(UTC).replace(microsecond=0)


@unhurried
@given(st.lists(st.builds(Mailbox, names, addresses), min_size=1, max_size=30))
def test_folding_loses_no_mailbox(mailboxes: list[Mailbox]) -> None:
    header = ", ".join(mailbox.header for mailbox in mailboxes)
    raw = replace(MAIL, to=header, cc=header, reply_to=header).as_bytes()
    for name in ("To", "Cc", "Reply-To"):
        assert mailboxes_in(raw, name) == mailboxes


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "   ",
        " \t " * 500,
        "x" * 2000,
        "word " * 500,
        "a" + " " * 2000 + "b",
        "=?utf-8?q?typed_by_a_person?=",
        "half =? an encoded word ?=",
        "Grüße " * 400,
        "😀" * 500,
        "line\u2028separator, next\x85line, form\x0cfeed",
        "forged\r\nBcc: eve@evil.example",
        "nul\0",
        "tab\tand  two blanks",
    ],
)
def test_subject(subject: str) -> None:
    raw = replace(MAIL, subject=subject).as_bytes()
    root = message_from_bytes(raw, policy=default)
    assert root["Subject"] == unblanked(subject)
    assert root["Bcc"] is None
    assert max(map(len, raw.split(b"\r\n"))) <= 78


def test_two_hundred_recipients_fit_the_columns() -> None:
    to = [Mailbox(f"Jürgen, the {n}th of his name", f"j{n}@client.example") for n in range(200)]
    raw = replace(MAIL, to=", ".join(mailbox.header for mailbox in to)).as_bytes()
    assert mailboxes_in(raw, "To") == to
    assert max(map(len, raw.split(b"\r\n"))) <= 78


def test_a_quoted_name_is_never_folded() -> None:
    """The older of the standard library's parsers ends a quotation at the CR of a fold."""
    mailbox = Mailbox("Dr. Augusta Ada King, Countess of Lovelace, of Ockham", "ada@analytical-engine.example")
    backslashes = Mailbox(" ".join(["\\" * 5] * 10), "ada@analytical-engine.example")  # each is written as two
    to = [mailbox, backslashes] * 3
    header = ", ".join(each.header for each in to)
    raw = replace(MAIL, sender=backslashes.header, to=header, cc=header, reply_to=header).as_bytes()
    assert mailboxes_in(raw, "From") == [backslashes]
    assert [mailboxes_in(raw, name) for name in ("To", "Cc", "Reply-To")] == [to] * 3


def test_a_long_header_without_blanks_is_left_alone() -> None:
    """Encoding it would break what machines read, such as List-Unsubscribe; up to 998 characters it is allowed."""
    link = f"<https://shop.example/{'u' * 940}>"
    assert f"List-Unsubscribe: {link}\r\n".encode() in replace(MAIL, headers={"List-Unsubscribe": link}).as_bytes()


def test_a_carriage_return_cannot_smuggle_a_dot() -> None:
    raw = replace(MAIL, text="a\r.\rb\n.\n.c\r\n.\r\n").as_bytes()
    assert b"\r\n.\r\n" not in raw
    assert b"\r" not in raw.replace(b"\r\n", b"")


def test_no_body_can_hold_a_boundary() -> None:
    boundaries = {part.get_boundary() for part in read(MAIL).walk() if part.is_multipart()}
    assert len(boundaries) == 3
    forged = "".join(f"\r\n--{boundary}\r\n--{boundary}--\r\n" for boundary in boundaries)
    message = replace(
        MAIL, text=forged, html=forged + "é" * 500, files=[File(forged, "text/plain", forged.encode(), None)]
    )
    assert [part.get_content_type() for part in leaves(message)] == ["text/plain", "text/html", "text/plain"]
    assert [part["Content-Transfer-Encoding"] for part in leaves(message)] == ["quoted-printable", "base64", "base64"]
    assert leaves(message)[2].get_payload(decode=True) == forged.encode()


@pytest.mark.parametrize(
    ("filename", "wire"),
    [
        ("invoice 4711.pdf", 'filename="invoice 4711.pdf"'),
        ("x" * 255, f'filename="{"x" * 255}"'),
        ("Größe.pdf", "filename*=utf-8''Gr%C3%B6%C3%9Fe.pdf"),
        ('a"b\\c', "filename*=utf-8''a%22b%5Cc"),
        ('x"\r\nBcc: eve@evil.example', "filename*=utf-8''x%22%0D%0ABcc%3A%20eve%40evil.example"),
        (r"a\b", "filename*=utf-8''a%5Cb"),
        ("=?utf-8?q?x?=", "filename*=utf-8''%3D%3Futf-8%3Fq%3Fx%3F%3D"),
        ("", 'filename=""'),
    ],
)
def test_filename(filename: str, wire: str) -> None:
    message = replace(MAIL, files=[File(filename, "application/pdf", b"%PDF")])
    assert f"Content-Disposition: attachment;\r\n {wire}\r\n".encode() in message.as_bytes()
    assert leaves(message)[-1].get_filename() == filename


def test_an_injected_content_type_or_inline_id_stays_in_its_header() -> None:
    file = File("x", "text/plain\r\nBcc: eve@evil.example", b"", "x>\r\nBcc: eve@evil.example")
    assert b"\nBcc:" not in replace(MAIL, files=[file]).as_bytes()


def test_the_date_is_in_utc() -> None:
    date = datetime(2026, 11, 22, 15, 21, 5, tzinfo=timezone(timedelta(hours=2)))
    assert replace(MAIL, date=date).as_bytes().startswith(b"Date: Sun, 22 Nov 2026 13:21:05 +0000\r\n")


@pytest.mark.parametrize("nothing", [None, ""])
def test_nothing_to_say_is_an_error(nothing: str | None) -> None:
    with pytest.raises(ValueError, match=r"<1\.2@mail\.example> has neither text nor HTML"):
        replace(MAIL, text=nothing, html=nothing).as_bytes()


@pytest.mark.parametrize("field", ["subject", "text", "html"])
def test_a_lone_surrogate_is_an_error(field: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        replace(MAIL, **dict[str, Any]({field: "\ud800"})).as_bytes()
