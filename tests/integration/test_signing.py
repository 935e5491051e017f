"""DKIM: what a relay is handed, a verifier that knows nothing but DNS believes; and nothing that was altered since."""

import base64
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import dkim
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from outbox.attachments import Attachment
from outbox.delivery import Courier
from outbox.errors import SettingsError
from outbox.settings import Settings
from outbox.signing import HEADERS, Signer
from outbox.states import Status
from tests.delivering import BOB, deliver, queue, settings_for
from tests.smtp_server import SmtpServer

SUBSCRIPTION = {
    "List-Unsubscribe": "<https://shop.example/unsubscribe/t0ken>",
    "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    "List-Id": "<news.shop.example>",
    "Auto-Submitted": "auto-generated",
}
NEWS: dict[str, Any] = {
    "cc": [BOB],
    "reply_to": "help@example.com",
    "subject": "Gr\u00fc\u00dfe " * 20,  # folded
    "text": "Hello. \t\n.\n\n\n",
    "html": "<p>\u00dc</p>" * 500,
    "headers": SUBSCRIPTION,
    "attachments": [Attachment("noise.bin", bytes(range(256)) * 300)],
}


@cache  # 0.1 s each
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def pem(key: Any, form: PrivateFormat = PrivateFormat.TraditionalOpenSSL, secret: Any = None) -> bytes:
    found: bytes = key.private_bytes(Encoding.PEM, form, secret or NoEncryption())
    return found


@pytest.fixture
def signing(tmp_path: Path) -> dict[str, Any]:
    """Settings."""
    path = tmp_path / "dkim.pem"
    path.write_bytes(pem(rsa_key()))
    return {"outbox_dkim_key_file": path, "outbox_dkim_selector": "outbox2026"}


def resolver(name: bytes = b"outbox2026._domainkey.example.com.") -> Callable[..., bytes]:
    """DNS, in which the test has published its key."""
    public = rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
    return lambda asked, timeout=5: record if asked == name else b""


def verifies(message: bytes) -> bool:
    found: bool = dkim.verify(message, dnsfunc=resolver())
    return found


def sent(engine: sa.Engine, signing: dict[str, Any], **mail: Any) -> list[bytes]:
    with SmtpServer() as server:
        settings = settings_for(server, **signing)
        ids = queue(engine, settings, **mail)
        assert deliver(engine, settings) == {Status.SENT: len(ids)}
        return [mail.data for mail in server.mails]


# --- The signature


def test_a_sent_mail_verifies_and_no_altered_one(engine: sa.Engine, signing: dict[str, Any]) -> None:
    first, second = sent(engine, signing, **NEWS)
    assert first == second  # signed once, for all its recipients
    assert first.count(b"DKIM-Signature:") == 1
    assert max(map(len, first.split(b"\r\n"))) <= 998
    assert verifies(first)
    head, _, body = first.partition(b"\r\n\r\n")
    present = {name.decode().lower() for name in re.findall(rb"(?m)^([\w-]+):", head)}
    assert {name.lower() for name in HEADERS} <= present
    for name in HEADERS:
        line = f"{name}: Eve <eve@evil.example>\r\n".encode()
        pattern = re.compile(rb"(?mi)^%s:[^\r]*(\r\n[ \t][^\r]*)*\r\n" % name.encode())
        assert not verifies(pattern.sub(line, head + b"\r\n", count=1) + b"\r\n" + body), f"{name} altered"
        assert not verifies(pattern.sub(b"", head + b"\r\n", count=1) + b"\r\n" + body), f"{name} taken out"
        assert not verifies(line + first), f"{name} added in front"
        assert not verifies(head + b"\r\n" + line + b"\r\n" + body), f"{name} added behind"
    assert not verifies(first.replace(b"Hello", b"Hallo"))
    assert not verifies(first + b"More.\r\n")


def test_what_is_missing_cannot_be_added(engine: sa.Engine, signing: dict[str, Any]) -> None:
    (message,) = sent(engine, signing)
    for name in HEADERS:
        assert not verifies(f"{name}: x\r\n".encode() + message)


def test_what_relays_do_is_survived(engine: sa.Engine, signing: dict[str, Any]) -> None:
    (message,) = sent(engine, signing, **(NEWS | {"cc": ()}))
    assert verifies(b"Received: from a by b;\r\n\tSun, 22 Nov 2026 00:00:00 +0000\r\nX-Spam-Score: 0\r\n" + message)
    assert verifies(message.replace(b"\r\nSubject: ", b"\r\nSubject:\r\n   "))
    assert verifies(message.replace(b"\r\nReply-To: ", b"\r\nREPLY-TO:   "))
    assert verifies(message + b"\r\n\r\n")


def test_redirected_mail_verifies(engine: sa.Engine, signing: dict[str, Any]) -> None:
    (message,) = sent(engine, signing | {"outbox_redirect_to": "qa@example.com"})
    assert message.startswith(b"X-Original-To: ada@example.com\r\nDKIM-Signature:")
    assert verifies(message)


@pytest.mark.parametrize(
    ("sender", "domain", "signed"),
    [
        ("shop@example.com", "example.com", True),
        ("Shop <shop@News.Example.COM>", "Example.com", True),
        ("shop@b\u00fccher.example", "b\u00fccher.example", True),
        ("shop@badexample.com", "example.com", False),
        ("shop@example.com.evil.example", "example.com", False),
        ("shop@example.com", "news.example.com", False),
    ],
)
def test_only_the_domain_s_own_mail_is_signed(
    sqlite_url: str, signing: dict[str, Any], sender: str, domain: str, signed: bool
) -> None:
    engine = sa.create_engine(sqlite_url)
    (message,) = sent(engine, signing | {"outbox_dkim_domain": domain}, from_email=sender)
    engine.dispose()
    assert message.startswith(b"DKIM-Signature:") is signed
    if signed:
        name = b"outbox2026._domainkey.%s." % domain.lower().encode("idna")
        assert dkim.verify(message, dnsfunc=resolver(name))


def test_without_a_key_nothing_is_signed(engine: sa.Engine) -> None:
    (message,) = sent(engine, {})
    assert b"DKIM" not in message


# --- The settings


@pytest.mark.parametrize("data", [pem(rsa_key()), pem(rsa_key(), PrivateFormat.PKCS8)], ids=["PKCS1", "PKCS8"])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_keys_that_will_do(signing: dict[str, Any], data: bytes, ends: bytes) -> None:
    signing["outbox_dkim_key_file"].write_bytes(data.replace(b"\n", ends))
    signer = Signer.of(Settings.load(smtp_from_email="shop@example.com", **signing))
    assert signer is not None
    message = signer.sign(b"From: shop@example.com\r\nSubject: Hello\r\n\r\n\r\n", "example.com")
    assert verifies(message)
    assert pem(rsa_key()).split()[4].decode() not in f"{vars(signer)!r}"


ENCRYPTED = pem(rsa_key(), secret=BestAvailableEncryption(b"pw"))
PUBLIC = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (None, r"it cannot be read \(No such file or directory\)"),
        (b"", "it holds no private key in PEM: make one with `openssl genrsa"),
        (b"-----BEGIN RSA PRIVATE KEY-----\nS3CRET==\n-----END RSA PRIVATE KEY-----\n", "it holds no private key"),
        (b"\0\xff", "it holds no private key in PEM"),
        (PUBLIC, "it holds no private key in PEM"),
        (ENCRYPTED, "encrypted with a password"),
        (pem(ed25519.Ed25519PrivateKey.generate(), PrivateFormat.PKCS8), "its key is not RSA"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "its key is not RSA"),
        (Path(__file__).with_name("short_key.pem").read_bytes(), "768 bits are unsafe"),
    ],
)
def test_a_key_that_will_not_do(signing: dict[str, Any], data: bytes | None, problem: str) -> None:
    path = signing["outbox_dkim_key_file"]
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    settings = Settings.load(smtp_from_email="shop@example.com", **signing)
    with pytest.raises(SettingsError, match=f"^OUTBOX_DKIM_KEY_FILE='{path}': .*{problem}") as refused:
        Courier(sa.create_engine("sqlite://"), settings, "worker-1")
    for word in (data or b"").split()[4:-4]:
        assert word.decode() not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"outbox_dkim_selector": "a b"}, "^OUTBOX_DKIM_SELECTOR='a b': not a DNS name"),
        ({"outbox_dkim_selector": "a;b=c"}, "^OUTBOX_DKIM_SELECTOR='a;b=c': not a DNS name"),
        ({"outbox_dkim_selector": "s\u00e9lecteur"}, "not a DNS name"),
        ({"outbox_dkim_selector": ".".join(["a" * 60] * 4)}, "too long for DNS"),
        ({"outbox_dkim_domain": "exa mple.com"}, "^OUTBOX_DKIM_DOMAIN='exa mple.com': not a domain"),
        ({"outbox_dkim_domain": "a@example.com"}, "^OUTBOX_DKIM_DOMAIN='a@example.com': not a domain"),
        ({"smtp_from_email": None}, "^OUTBOX_DKIM_DOMAIN is not set, nor is SMTP_FROM_EMAIL"),
    ],
)
def test_names_that_will_not_do(signing: dict[str, Any], values: dict[str, Any], problem: str) -> None:
    settings = Settings.load(**({"smtp_from_email": "shop@example.com"} | signing | values))
    with pytest.raises(SettingsError, match=problem):
        Signer.of(settings)


@pytest.mark.parametrize("kept", ["outbox_dkim_key_file", "outbox_dkim_selector"])
def test_key_and_selector_go_together(signing: dict[str, Any], kept: str) -> None:
    with pytest.raises(SettingsError, match="OUTBOX_DKIM_KEY_FILE and OUTBOX_DKIM_SELECTOR go together"):
        Settings.load(**{kept: signing[kept]})
    with pytest.raises(SettingsError, match="OUTBOX_DKIM_DOMAIN is set, and OUTBOX_DKIM_KEY_FILE is not"):
        Settings.load(outbox_dkim_domain="example.com")


@pytest.mark.parametrize("command", [["outbox", "drain"], ["celery", "-A", "workers", "worker"]], ids=" ".join)
def test_nothing_starts_with_a_wrong_key(sqlite_url: str, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "dkim.pem").write_text("no key")
    environment = {
        "DATABASE_URL": sqlite_url,
        "OUTBOX_DKIM_KEY_FILE": "dkim.pem",
        "OUTBOX_DKIM_SELECTOR": "outbox2026",
        "SMTP_FROM_EMAIL": "shop@example.com",
    }
    process = subprocess.run(
        [sys.executable, "-m", *command], check=False, env=os.environ | environment, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert process.returncode in {1, 2}
    assert "OUTBOX_DKIM_KEY_FILE='dkim.pem': it holds no private key in PEM" in process.stderr
    assert "Traceback" not in process.stderr
