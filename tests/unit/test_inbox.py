"""The local inbox: what it accepts over SMTP, what it keeps, and what its page dares to show."""

import re
import smtplib
import socket
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from embedded.inbox import smtp_server
from embedded.inbox_page import create_page
from embedded.maildir import Maildir

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def maildir(tmp_path: Path) -> Maildir:
    return Maildir(tmp_path / "inbox")


@pytest.fixture
def port(maildir: Maildir) -> Iterator[int]:
    """Where the SMTP server listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
    server = smtp_server(maildir, free)
    server.start()
    yield free
    server.stop()


@pytest.fixture
def client(maildir: Maildir) -> FlaskClient:
    return create_page(maildir).test_client()


def mail(**headers: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in ({"From": "shop@example.com", "To": "ada@example.com", "Subject": "Hello"} | headers).items():
        message[name] = value
    message.set_content("Good morning\n")
    return message


def keep(maildir: Maildir, message: EmailMessage) -> str:
    return maildir.add("shop@example.com", ["ada@example.com"], message.as_bytes())


def test_a_bcc_is_in_the_envelope_and_in_no_header(maildir: Maildir, port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port) as smtp:
        smtp.send_message(mail(), "bounce@example.com", ["ada@example.com", "hidden@example.com"])

    (received,) = maildir.newest(10)
    assert received.envelope.sender == "bounce@example.com"
    assert received.envelope.recipients == ["ada@example.com", "hidden@example.com"]
    assert received.headers["Subject"] == "Hello"
    assert b"hidden@example.com" not in received.raw


def test_a_message_is_kept_byte_for_byte(maildir: Maildir, port: int) -> None:
    message = b"Subject: dots\r\n\r\n.\r\n..two\r\ncaf\xc3\xa9\r\n\r\n"
    with smtplib.SMTP("127.0.0.1", port) as smtp:
        smtp.sendmail("a@example.com", ["b@example.com"], message)
    (received,) = maildir.newest(10)
    assert received.raw == message


def test_an_address_in_any_script_is_kept_and_shown(maildir: Maildir, port: int, client: FlaskClient) -> None:
    jorg = "j\xf6rg@xn--bcher-kva.example"
    message = f"From: shop@example.com\r\nTo: =?utf-8?b?SsO2cmc=?= <{jorg}>\r\nSubject: Hello\r\n\r\nHello\r\n".encode()
    with smtplib.SMTP("127.0.0.1", port) as smtp:
        smtp.sendmail("shop@example.com", [jorg], message, ["SMTPUTF8", "BODY=8BITMIME"])
    (received,) = maildir.newest(10)
    assert received.envelope.recipients == [jorg]
    assert received.raw == message
    assert f"J\xf6rg &lt;{jorg}&gt;" in client.get(f"/mail/{received.key}").text


def test_thirty_five_megabytes_are_accepted(maildir: Maildir, port: int) -> None:
    message = b"Subject: large\r\n\r\n" + (b"x" * 998 + b"\r\n") * 36_000
    with smtplib.SMTP("127.0.0.1", port) as smtp:
        smtp.sendmail("a@example.com", ["b@example.com"], message)
        assert int(smtp.esmtp_features["size"]) > len(message)
    (received,) = maildir.newest(10)
    assert received.size == len(message)


def test_pipelined_commands_are_answered_one_by_one_and_in_order(maildir: Maildir, port: int) -> None:
    """RFC 2920: two mails; MAIL, RCPT and DATA in one write, the next mail's in the write of the dot."""
    with smtplib.SMTP("127.0.0.1", port) as smtp:
        smtp.ehlo()
        assert smtp.has_extn("pipelining")
    group = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<%s>\r\nDATA\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=5) as conversation:
        replies = conversation.makefile("rb")
        replies.readline()
        conversation.sendall(b"HELO test\r\n" + group % b"first@example.com")
        assert [replies.readline()[:3] for _ in range(4)] == [b"250", b"250", b"250", b"354"]
        conversation.sendall(b"Subject: one\r\n\r\n1\r\n.\r\n" + group % b"@")
        assert [replies.readline()[:3] for _ in range(4)] == [b"250", b"250", b"553", b"503"]
        conversation.sendall(b"RSET\r\n" + group % b"second@example.com")
        assert [replies.readline()[:3] for _ in range(4)] == [b"250", b"250", b"250", b"354"]
        conversation.sendall(b"Subject: two\r\n\r\n2\r\n.\r\nQUIT\r\n")
        assert [replies.readline()[:3] for _ in range(2)] == [b"250", b"221"]

    kept = {str(m.headers["Subject"]): m.envelope.recipients for m in maildir.newest(10)}
    assert kept == {"one": ["first@example.com"], "two": ["second@example.com"]}


def test_the_list_shows_the_newest_first_and_counts_all(maildir: Maildir, client: FlaskClient) -> None:
    for number in range(201):
        keep(maildir, mail(Subject=f"Mail no. {number}."))
    shown = client.get("/").text
    assert re.findall(r"Mail no\. \d+\.", shown) == [f"Mail no. {number}." for number in range(200, 0, -1)]
    assert "the newest 200 of 201" in shown


def test_a_reader_that_moves_a_message_does_not_hide_it(maildir: Maildir, client: FlaskClient) -> None:
    """mutt and its like move what they have seen to `cur`, with flags in its name."""
    key = keep(maildir, mail())
    (maildir.path / "new" / key).rename(maildir.path / "cur" / f"{key}:2,S")
    assert "Hello" in client.get("/").text
    assert client.get(f"/mail/{key}").status_code == 200


def test_an_empty_inbox_says_so(client: FlaskClient) -> None:
    assert "Nothing yet" in client.get("/").text


@pytest.fixture
def hostile(maildir: Maildir) -> str:
    message = mail(From=f'"{SCRIPT}" <shop@example.com>', Subject=f"A {SCRIPT} subject", **{"X-Odd": SCRIPT})
    message.set_content(f"A {SCRIPT} body")
    message.add_alternative(f"<p>HTML {SCRIPT}<img src='https://tracker.example/pixel.png'></p>", subtype="html")
    message.add_attachment(f"<b>{SCRIPT}</b>", subtype="html", filename=f'"{SCRIPT}"\u00e9.html')
    return keep(maildir, message)


def test_everything_in_a_mail_is_escaped(client: FlaskClient, hostile: str) -> None:
    for path in ("/", f"/mail/{hostile}"):
        page = client.get(path)
        assert SCRIPT not in page.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_html_is_framed_and_its_links_open_elsewhere(client: FlaskClient, hostile: str) -> None:
    links = "allow-popups allow-popups-to-escape-sandbox"
    assert f'<iframe sandbox="{links}" referrerpolicy="no-referrer"' in client.get(f"/mail/{hostile}").text
    html = client.get(f"/mail/{hostile}/html")
    assert SCRIPT in html.text  # as it came: the policy, not a filter, keeps it from running
    policy = html.headers["Content-Security-Policy"].split("; ")
    assert html.text.endswith('<base target="_blank">')
    assert policy[:4] == [f"sandbox {links}", "default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"]
    assert html.headers["X-Content-Type-Options"] == "nosniff"


def test_an_attachment_can_only_be_saved(client: FlaskClient, hostile: str) -> None:
    response = client.get(f"/mail/{hostile}/attachments/1")
    assert response.data.strip() == f"<b>{SCRIPT}</b>".encode()
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Content-Disposition"].startswith("attachment; ")
    assert "<script>" not in response.headers["Content-Disposition"].partition("filename*=")[2]
    assert response.headers["Content-Security-Policy"].startswith("sandbox allow-popups ")


def test_the_source_is_plain_text(maildir: Maildir, client: FlaskClient, hostile: str) -> None:
    response = client.get(f"/mail/{hostile}/raw")
    assert response.data == next(maildir.newest(1)).raw
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_inline_images_are_shown_and_not_listed(maildir: Maildir, client: FlaskClient) -> None:
    message = mail()
    message.add_alternative('<img src="cid:logo@example.com">', subtype="html")
    alternative = message.get_payload()[1]  # type: ignore[index]
    assert isinstance(alternative, EmailMessage)
    alternative.add_related(b"\x89PNG", "image", "png", cid="<logo@example.com>")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="bill.pdf", cid="<x@example.com>")
    key = keep(maildir, message)
    assert '<img src="data:image/png;base64,iVBORw==">' in client.get(f"/mail/{key}/html").text
    assert client.get(f"/mail/{key}").text.count("/attachments/") == 1
    assert client.get(f"/mail/{key}/attachments/1").data == b"%PDF"


def test_a_broken_mail_is_shown_as_far_as_it_goes(maildir: Maildir, client: FlaskClient) -> None:
    raw = b'Subject: =?nowhere?q?x?=\r\nContent-Type: text/plain; charset="no-such"\r\n\r\ncaf\xe9 \xff\r\n'
    key = maildir.add("", ["ada@example.com"], raw)
    assert client.get("/").status_code == 200
    assert "café" in client.get(f"/mail/{key}").text


@pytest.mark.parametrize("path", ["/mail/none", "/mail/..%2f..%2fetc%2fpasswd", "/mail/none/raw", "/mail/none/html"])
def test_an_unknown_message_is_not_found(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_parts_that_are_not_there_are_not_found(maildir: Maildir, client: FlaskClient) -> None:
    key = keep(maildir, mail())
    assert client.get(f"/mail/{key}/html").status_code == 404
    assert client.get(f"/mail/{key}/attachments/1").status_code == 404


def test_another_host_name_is_refused(client: FlaskClient) -> None:
    """A page on the web can point its own name at 127.0.0.1 and read what answers there."""
    assert client.get("/", headers={"Host": "attacker.example"}).status_code == 400
