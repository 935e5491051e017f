"""Reaching the relay: encrypted and logged in as the settings ask, or not at all; `begin` is not called in vain."""

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr

from outbox.endpoints import Endpoint
from outbox.errors import SettingsError
from outbox.relay import Relay, Report
from outbox.settings import Settings
from outbox.states import Outcome, Stage
from tests.certificates import certificate, self_signed
from tests.relaying import Marker, connected, send
from tests.smtp_script import Dribble, Drop, Event, Hang, Raw, Reaction, Reply, on
from tests.smtp_server import HOST, SmtpServer

LOGIN: dict[str, Any] = {"user": "shop", "password": SecretStr("secret")}
SPOKEN_WITHOUT_MAIL = {"CONNECT", "EHLO", "HELO", "STARTTLS", "QUIT"}


def fails(server: SmtpServer, outcome: Outcome = Outcome.RELAY_DOWN, **values: Any) -> Report:
    """A send that must not get as far as `begin`."""
    marker = Marker()
    with connected(server, **values) as subject:
        report = send(subject, marker=marker)
    assert report.outcome is outcome
    assert marker.started == 0
    assert not server.mails
    return report


# --- connecting -------------------------------------------------------------------------------------------------------


def test_a_closed_port() -> None:
    with socket.create_server((HOST, 0)) as closed:
        nobody = SmtpServer(port=closed.getsockname()[1])
    report = fails(nobody)
    assert (report.stage, report.code) == (Stage.CONNECT, None)
    assert "refused" in report.reply


def test_a_host_that_cannot_be_a_name() -> None:
    with SmtpServer() as server:
        assert fails(server, host="mail..example").stage is Stage.CONNECT


@pytest.mark.parametrize(
    ("reaction", "code", "words"),
    [
        (Hang(), None, "timed out"),
        (Dribble(0.1), None, "timed out"),
        (Reply(554, "5.3.2 go away"), 554, "5.3.2 go away"),
        (Reply(421, "4.3.2 busy"), 421, "4.3.2 busy"),
        (Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), None, "not an SMTP reply"),
    ],
    ids=repr,
)
def test_a_greeting_that_is_none(reaction: Reaction, code: int | None, words: str) -> None:
    with SmtpServer(on("CONNECT", reaction)) as server:
        report = fails(server, smtp_connect_timeout=0.3)
    assert (report.stage, report.code) == (Stage.CONNECT, code)
    assert words in report.reply


@pytest.mark.parametrize("reaction", [Hang(), Dribble(0.1), Raw(b"what?\r\n"), Reply(421)], ids=repr)
def test_an_ehlo_without_a_sensible_answer(reaction: Reaction) -> None:
    with SmtpServer(on("EHLO", reaction)) as server:
        assert fails(server, smtp_timeout=0.3).stage is Stage.CONNECT


@pytest.mark.parametrize("verb", ["EHLO", "STARTTLS", "AUTH"])
def test_the_reason_for_hanging_up_is_kept(verb: str, authority: trustme.CA, trusted: str) -> None:
    script = on(verb, Reply(421, "Too many connections"))
    with SmtpServer(script, starttls=certificate(authority), login=("shop", "secret")) as server:
        report = fails(server, Outcome.THROTTLED, starttls=True, smtp_ca_file=trusted, **LOGIN)
    assert (report.code, report.reply) == (421, "Too many connections")


def test_a_relay_that_knows_only_helo() -> None:
    with SmtpServer(on("EHLO", Reply(502, "5.5.1 what?")), pipelining=False) as server, connected(server) as subject:
        assert send(subject).outcome is Outcome.SENT


def test_the_name_we_give_is_qualified_or_an_address() -> None:
    with SmtpServer() as server, connected(server) as subject:
        subject.smtp_cls_kwargs["local_hostname"] = "3f2a91c0"  # a container's
        send(subject)
        subject.close()
        subject.smtp_cls_kwargs["local_hostname"] = "shop.example.com"
        send(subject)
        names = [event.argument for event in server.events if event.verb == "EHLO"]
    assert names == ["[127.0.0.1]", "shop.example.com"]


# --- TLS --------------------------------------------------------------------------------------------------------------

ENCRYPTED: list[tuple[str, str]] = [("starttls", "starttls"), ("tls", "tls")]


@pytest.mark.parametrize(("offer", "setting"), ENCRYPTED)
def test_everything_after_the_handshake_is_encrypted_on_one_connection(
    offer: str, setting: str, authority: trustme.CA, trusted: str
) -> None:
    server = SmtpServer(**{offer: certificate(authority)}, login=("shop", "secret"))  # type: ignore[arg-type]
    with server, connected(server, smtp_ca_file=trusted, **{setting: True}, **LOGIN) as subject:
        assert send(subject).outcome is Outcome.SENT
        assert send(subject).outcome is Outcome.SENT
    assert server.connections == 1
    assert {event.verb for event in server.events if not event.tls} <= SPOKEN_WITHOUT_MAIL
    assert server.verbs().count("MAIL") == 2


@pytest.mark.parametrize(("offer", "setting"), ENCRYPTED)
def test_a_connection_lost_under_tls_means_the_same(
    offer: str, setting: str, authority: trustme.CA, trusted: str
) -> None:
    def script(event: Event) -> Reaction | None:
        return Drop() if (event.connection, event.verb) in {(1, "DATA"), (2, "DOT")} else None

    server = SmtpServer(script, **{offer: certificate(authority)})  # type: ignore[arg-type]
    with server, connected(server, smtp_ca_file=trusted, **{setting: True}) as subject:
        reports = [send(subject) for _ in range(3)]
    assert [report.outcome for report in reports] == [Outcome.DEFERRED, Outcome.UNCERTAIN, Outcome.SENT]
    assert server.connections == 3


@pytest.mark.parametrize("encryption", ENCRYPTED, ids=str)
@pytest.mark.parametrize(
    ("presented", "words"),
    [
        (lambda authority: certificate(authority, "relay.example"), "IP address mismatch"),
        (lambda _: self_signed(), "self-signed certificate"),
        (lambda _: certificate(trustme.CA()), "unable to get local issuer certificate"),
        (lambda authority: certificate(authority, expired=True), "certificate has expired"),
    ],
    ids=["wrong name", "self-signed", "unknown authority", "expired"],
)
def test_a_certificate_that_proves_nothing(
    encryption: tuple[str, str],
    presented: Callable[[trustme.CA], ssl.SSLContext],
    words: str,
    authority: trustme.CA,
    trusted: str,
) -> None:
    offer, setting = encryption
    with SmtpServer(**{offer: presented(authority)}, login=("shop", "secret")) as server:  # type: ignore[arg-type]
        report = fails(server, Outcome.RELAY_MISCONFIGURED, smtp_ca_file=trusted, **{setting: True}, **LOGIN)
    assert report.stage is Stage.TLS
    assert words in report.reply
    assert set(server.verbs()) <= SPOKEN_WITHOUT_MAIL


def test_a_stripped_starttls_sends_neither_mail_nor_password_in_clear() -> None:
    with SmtpServer(login=("shop", "secret")) as server:
        report = fails(server, Outcome.RELAY_MISCONFIGURED, starttls=True, **LOGIN)
    assert report.stage is Stage.TLS
    assert "STARTTLS" in report.reply
    assert set(server.verbs()) <= SPOKEN_WITHOUT_MAIL


@pytest.mark.parametrize("reaction", [Raw(b"220 go ahead\r\nwhat?\r\n"), Hang()], ids=repr)
def test_a_starttls_that_does_not_come_about(reaction: Reaction, authority: trustme.CA, trusted: str) -> None:
    with SmtpServer(on("STARTTLS", reaction), starttls=certificate(authority), strict=False) as server:
        report = fails(server, starttls=True, smtp_ca_file=trusted, smtp_timeout=0.3)
    assert report.stage is Stage.TLS


def test_tls_from_the_start_to_a_relay_that_speaks_in_clear() -> None:
    with SmtpServer(strict=False) as server:
        report = fails(server, tls=True)
    assert report.stage is Stage.TLS


def test_a_ca_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"SMTP_CA_FILE=.*nowhere\.pem"):
        Relay(Endpoint("localhost", 25), Settings.load(_env_file=None, smtp_ca_file=str(tmp_path / "nowhere.pem")))


# --- logging in -------------------------------------------------------------------------------------------------------


def test_in_clear_text_only_as_the_settings_ask() -> None:
    with SmtpServer(login=("shop", "secret")) as server, connected(server, **LOGIN) as subject:
        assert send(subject).outcome is Outcome.SENT
        assert "AUTH" in server.verbs()


def test_a_wrong_password() -> None:
    with SmtpServer(login=("shop", "other")) as server:
        report = fails(server, Outcome.RELAY_MISCONFIGURED, **LOGIN)
    assert (report.stage, report.code, report.reply) == (Stage.AUTH, 535, "5.7.8 authentication failed")


def test_a_relay_that_offers_no_login() -> None:
    with SmtpServer() as server:
        assert fails(server, Outcome.RELAY_MISCONFIGURED, **LOGIN).stage is Stage.AUTH


@pytest.mark.parametrize("reaction", [Hang(), Dribble(0.1), Raw(b"what?\r\n"), Raw(b"334 x\r\n")], ids=repr)
def test_a_login_that_does_not_come_about(reaction: Reaction) -> None:
    with SmtpServer(on("AUTH", reaction), login=("shop", "secret"), strict=False) as server:
        assert fails(server, smtp_timeout=0.3, **LOGIN).stage is Stage.AUTH


def test_a_password_that_smtp_cannot_carry() -> None:
    with pytest.raises(SettingsError, match="SMTP_PASSWORD must be ASCII"):
        Settings.load(_env_file=None, smtp_user="shop", smtp_password="gr\xfc\xdfe")
