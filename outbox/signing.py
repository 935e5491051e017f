"""DKIM (RFC 6376): a signature under which receivers know that a mail is its domain's, and unaltered.

Through the `emails` library's signer, and so dkimpy, which composes the header in plain Python. It would also compute
the signature there: 5 ms and more for RSA of 2048 bits, while no other thread runs. OpenSSL (`cryptography`) takes a
tenth of that.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple, Self

import dkim
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from emails.signers import DKIMSigner

from outbox.addresses import parse_mailbox
from outbox.errors import InvalidAddress, SettingsError
from outbox.settings import Settings

LEAST_BITS = 1024
"""RFC 8301, 3.2: verifiers take no shorter RSA key for a signature. New keys should have 2048."""

HEADERS = (
    "From", "To", "Cc", "Subject", "Date", "Message-ID", "Reply-To", "MIME-Version", "Content-Type",
    "List-Unsubscribe", "List-Unsubscribe-Post", "List-Id", "Auto-Submitted",
)  # fmt: skip
"""What is signed, each once more than it stands in the mail: so none can be added, either. RFC 8058 believes in a
one-click unsubscribe only under a signature that covers it."""

_SELECTOR = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?)*", re.IGNORECASE)
_LONGEST_DNS_NAME = 253

_MAKE_ONE = "make one with `openssl genrsa -out dkim.pem 2048`"


class Signer:
    """Signs the mail of one domain, and of those below it. Threads share it."""

    def __init__(self, domain: str, selector: str, key: RSAPrivateKey) -> None:
        self.domain = domain
        self._signer = _OpenSSLSigner(
            selector,
            domain,
            key=key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
            # Relays refold headers. What they may change in a body, blanks at the ends of lines, ours do not have.
            canonicalize=(b"relaxed", b"simple"),
            include_headers=[name.lower().encode("ascii") for name in HEADERS for _ in range(2)],
        )
        self._signer.openssl = key

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """As the settings say; None if they name no key. Raises SettingsError for a key or name that will not do."""
        path, selector = settings.outbox_dkim_key_file, settings.outbox_dkim_selector
        if path is None or selector is None:
            return None  # the settings have both or neither
        return cls(_domain(settings, selector), selector, _read_key(path))

    def sign(self, message: bytes, sender_domain: str) -> bytes:
        """With the signature in front. As it is if its sender is of another domain, for which our key does not speak.

        Raises ValueError for bytes that are no message.
        """
        sender_domain = sender_domain.lower()
        if sender_domain != self.domain and not sender_domain.endswith(f".{self.domain}"):
            return message
        try:
            return self._signer.sign_message_bytes(message)
        except dkim.DKIMException as error:
            raise ValueError(f"it cannot be signed: {error}") from error


class _OpenSSLSigner(DKIMSigner):
    """The library's, with dkimpy's work done by OpenSSL."""

    openssl: RSAPrivateKey

    def get_sign_string(self, message: bytes) -> bytes | None:
        """The header."""
        signature = _Signature(message)
        signature.openssl = self.openssl
        header: bytes = signature.sign(**self._sign_params)
        return header


class _Signature(dkim.DKIM):  # type: ignore[misc]  # it has no types
    """One message's."""

    openssl: RSAPrivateKey

    def set_message(self, message: bytes) -> None:
        """Reads the headers alone: dkimpy would cut a body of 7 MB into 90,000 lines, and join them again."""
        head, blank, body = message.partition(b"\r\n\r\n")
        super().set_message(head + blank)
        self.body = body

    def gen_header(self, *arguments: Any, **named: Any) -> bytes:
        """Has us compute it: of a key of that kind, and of no other, dkimpy asks `pk.sign` for the digest's signature.
        The algorithm that the header names stands in the fields already."""
        *fields, _ = arguments
        self.signature_algorithm = b"ed25519-sha256"
        header: bytes = super().gen_header(*fields, _Key(self.openssl), **named)
        return header


class _Signed(NamedTuple):
    signature: bytes


class _Key(NamedTuple):
    """RSA, in the shape of the keys that dkimpy does not compute with itself."""

    key: RSAPrivateKey

    def sign(self, digest: bytes) -> _Signed:
        return _Signed(self.key.sign(digest, PKCS1v15(), Prehashed(SHA256())))


def _read_key(path: Path) -> RSAPrivateKey:
    """Raises SettingsError, in which no word is of the key."""
    name = f"OUTBOX_DKIM_KEY_FILE={str(path)!r}"
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise SettingsError(f"{name}: it cannot be read ({error.strerror or type(error).__name__})") from error
    except TypeError as error:
        raise SettingsError(f"{name}: the key is encrypted with a password: decrypt it") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{name}: it holds no private key in PEM: {_MAKE_ONE}") from error
    if not isinstance(key, RSAPrivateKey):
        raise SettingsError(f"{name}: its key is not RSA, which is what all receivers verify: {_MAKE_ONE}")
    if key.key_size < LEAST_BITS:
        raise SettingsError(f"{name}: {key.key_size} bits are unsafe, and receivers ignore them: {_MAKE_ONE}")
    return key


def _domain(settings: Settings, selector: str) -> str:
    """The one that signs, in ASCII and lower case, if DNS can hold its key's name."""
    domain = settings.outbox_dkim_domain
    if domain is None:
        if settings.smtp_from_email is None:
            raise SettingsError("OUTBOX_DKIM_DOMAIN is not set, nor is SMTP_FROM_EMAIL: say whose mail is to be signed")
        domain = parse_mailbox("SMTP_FROM_EMAIL", settings.smtp_from_email).domain
    try:
        ascii_domain = parse_mailbox("OUTBOX_DKIM_DOMAIN", f"x@{domain}").domain.lower()
    except InvalidAddress as error:
        raise SettingsError(
            f"OUTBOX_DKIM_DOMAIN={domain!r}: not a domain ({error.problem}): write example.com"
        ) from error
    if not _SELECTOR.fullmatch(selector):
        raise SettingsError(
            f"OUTBOX_DKIM_SELECTOR={selector!r}: not a DNS name: write letters, digits and hyphens, such as outbox2026"
        )
    if len(f"{selector}._domainkey.{ascii_domain}") > _LONGEST_DNS_NAME:
        raise SettingsError(f"OUTBOX_DKIM_SELECTOR={selector!r}: too long for DNS together with {ascii_domain}")
    return ascii_domain
