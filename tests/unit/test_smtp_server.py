"""The scripted server is a measure, so it is measured: what breaks the protocol must not pass."""

import socket
from pathlib import Path

import pytest

from outbox.states import Outcome
from tests.relaying import ADA, MAIL, connected, send
from tests.smtp_server import SmtpProcess, SmtpServer

ENVELOPE = b"EHLO client.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n"


def say(server: SmtpServer, *writes: bytes) -> None:
    """Write, and wait for something to come back, write after write."""
    with socket.create_connection((server.host, server.port), timeout=2) as client:
        client.recv(1000)
        for write in writes:
            client.sendall(write)
            client.recv(1000)


@pytest.mark.parametrize(
    ("writes", "violation"),
    [
        ([b"MAIL FROM:<a@x.example>\r\n"], "out of order"),
        ([ENVELOPE], "more was sent before the reply to"),
        ([b"EHLO x\r\n", b"MAIL FROM: a@x.example\r\n"], "no path"),
        ([b"EHLO x\n\r\n"], "not a command line"),
        ([b"x" * 600], "a command without end"),
        ([*ENVELOPE.splitlines(keepends=True), b"bare\nLF\r\n.\r\n"], "a bare CR or LF"),
        ([*ENVELOPE.splitlines(keepends=True), b".not doubled\r\n.\r\n"], "a bare CR or LF, a dot"),
        ([*ENVELOPE.splitlines(keepends=True), b"x" * 999 + b"\r\n.\r\n"], "an endless line"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_client_that_breaks_the_protocol_fails_the_test(writes: list[bytes], violation: str) -> None:
    with pytest.raises(AssertionError, match=violation), SmtpServer() as server:  # noqa: PT012 - it is leaving that raises
        say(server, *writes)
        server.wait_for(lambda server: server.violations)
    assert not server.mails


def test_without_pipelining_nothing_may_follow_the_dot() -> None:
    violation = "more was sent behind the dot"
    with pytest.raises(AssertionError, match=violation), SmtpServer(pipelining=False) as server:  # noqa: PT012 - as above
        say(server, *ENVELOPE.splitlines(keepends=True), b"x\r\n.\r\nQUIT\r\n")
        server.wait_for(lambda server: server.violations)
    assert not server.mails


@pytest.mark.parametrize("cut", range(1, 16))
def test_a_body_in_two_pieces_is_put_together(cut: int) -> None:
    body = b"one\r\n..two\r\n.\r\n"
    with SmtpServer() as server:
        with socket.create_connection((server.host, server.port), timeout=2) as client:
            client.recv(1000)
            for command in ENVELOPE.splitlines(keepends=True):
                client.sendall(command)
                client.recv(1000)
            client.sendall(body[:cut])
            server.wait_for(lambda server: "BODY" in server.verbs())
            client.sendall(body[cut:])
            client.recv(1000)
        assert [mail.data for mail in server.mails] == [b"one\r\n.two\r\n"]


def test_as_a_process_it_logs_what_it_took_and_does_as_the_recipient_says(tmp_path: Path) -> None:
    log = tmp_path / "accepted.jsonl"
    with SmtpProcess(log) as server:
        with connected(server) as subject:
            assert send(subject).outcome is Outcome.SENT
            assert [(mail.recipient, mail.data) for mail in server.mails] == [(ADA, MAIL)]
            assert send(subject, "reject-553+a@x.example").code == 553
            assert send(subject, "defer-at-dot-times-1@x.example").outcome is Outcome.DEFERRED
            assert send(subject, "defer-at-dot-times-1@x.example").outcome is Outcome.SENT
            assert send(subject, "drop-at-dot@x.example").outcome is Outcome.UNCERTAIN
            assert send(subject, "reject-550-5.1.1+a@x.example").suppress
            assert send(subject, "garble-at-rcpt@x.example").outcome is Outcome.DEFERRED
            assert send(subject, "dribble-0.01-at-data@x.example").outcome is Outcome.SENT
            assert "swallow-at-dot@x.example" not in {mail.recipient for mail in server.mails}
            assert send(subject, "swallow-at-dot@x.example").outcome is Outcome.UNCERTAIN
            assert "swallow-at-dot@x.example" in {mail.recipient for mail in server.mails}
            assert send(subject, "slow-0.1-at-data@x.example").outcome is Outcome.SENT
        port = server.port
    with SmtpProcess(log, "--no-pipelining", "--delay", "0.1", port=port) as server, connected(server) as subject:
        assert send(subject).outcome is Outcome.SENT
        assert len(server.mails) == 6
