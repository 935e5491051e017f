"""The reader is a measure, so it is measured: what is written wrong must not pass, and what is right it must find."""

from datetime import UTC, datetime

import pytest

from outbox.message import File, Message
from tests.strict_reader import NotAMail, Part, Read, read

MAIL = Message(
    message_id="<1.2@mail.example>",
    date=datetime(2026, 11, 22, 13, 21, 5, tzinfo=UTC),
    sender="Shop <shop@shop.example>",
    to='"Lovelace, Ada" <ada@client.example>, =?utf-8?b?SsO2cmc=?= <j\xf6rg@client.example>',
    cc=None,
    reply_to=None,
    subject="Gr\xfc\xdfe",
    text="Thank you.\n",
    html=None,
    headers={"X-A": "b"},
    files=[File("gr\xf6\xdfe.pdf", "application/pdf; x=y", b"%PDF" * 30, "logo@x")],
)


def test_what_is_right_is_found() -> None:
    mime = ["Date", "Message-ID", "From", "To", "Subject", "X-A", "MIME-Version", "Content-Type"]
    assert read(MAIL.as_bytes()) == Read(
        names=mime,
        headers={
            "Date": "Sun, 22 Nov 2026 13:21:05 +0000",
            "Message-ID": "<1.2@mail.example>",
            "Subject": "Gr\xfc\xdfe",
            "X-A": "b",
            "MIME-Version": "1.0",
        },
        mailboxes={
            "From": [("Shop", "shop@shop.example")],
            "To": [("Lovelace, Ada", "ada@client.example"), ("J\xf6rg", "j\xf6rg@client.example")],
        },
        tree=("multipart/mixed", ("multipart/related", ("multipart/alternative", "text/plain"), "application/pdf")),
        parts=[
            Part("text/plain", {"charset": "utf-8"}, None, None, None, b"Thank you.\r\n"),
            Part("application/pdf", {"x": "y"}, "inline", "gr\xf6\xdfe.pdf", "logo@x", b"%PDF" * 30),
        ],
    )


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("X-A: b\r\n", "X-A: b\n", "CR or LF by itself"),
        ("X-A: b\r\n", "X-A: b\rc\r\n", "CR or LF by itself"),
        ("X-A: b", f"X-A: {'b' * 994}", "endless line"),
        ("X-A: b", "X-A: \x00", "control character"),
        ("X-A: b", "X-A: \x1b[31m", "control character"),
        ("X-A: b", "X-A: b\r\nx-a: c", "there twice"),
        ("X-A: b", "X-A: b\r\nTO: eve@evil.example", "there twice"),
        ("X-A: b", "X-A: b\r\n \t", "line of blanks"),
        ("X-A: b", "X A: b", "not a header"),
        ("X-A: b", "X-A: \xe9", "holds no address is not ASCII"),
        ("X-A: b", "X-A: =?utf-8?q?x?=", "text that readers decode"),
        ("X-A: b", "X-A: a =?utf-8?b?eA==?=", "encoded words among others"),
        ("X-A: b", "X-A: =?utf-8?b?w7?=", "encoded word that is none"),
        ("X-A: b", "X-A: =?utf-8?b?ww==?=", "cuts a character"),
        ("Shop <", "Shop, Eve <", "no address"),
        ("Shop <", "(comment) <", "no mailbox"),
        ("shop@shop.example", "a b@shop.example", "no address"),
        ("shop@shop.example", "shop@sh\xf6p.example", "no address"),
        ("shop@shop.example", '"a"@shop.example', "no address"),
        ('"Lovelace, Ada" <', "friends: Ada <", "no mailbox"),
        (", =?", " =?", "no comma"),
        ("filename*=", "filename=x; filename*=", "in two forms"),
        ("application/pdf; x=y", "application/pdf; x=y z", "no parameter"),
        ("application/pdf; x=y", "application/pdf; x=y; X=z", "there twice"),
        ("<logo@x>", "<lo go@x>", "no content id"),
        ("Content-ID: <logo@x>", "Content-ID: <logo@x>\r\nX-B: c", "strange header of a part"),
        ("Thank you.", "Thank you. ", "not quoted-printable"),
        ("Thank you.", "Thank =you.", "not quoted-printable"),
        ("Thank you.", "x" * 77, "too long"),
        ("--\r\n", "--x\r\n", "behind the last part|with more behind it"),
    ],
)
def test_what_is_wrong_is_said(right: str, wrong: str, problem: str) -> None:
    written = MAIL.as_bytes().decode()
    assert right in written
    with pytest.raises(NotAMail, match=problem):
        read(written.replace(right, wrong, 1).encode())
