"""DKIM (RFC 6376): a signature under which receivers know that a mail is its domain's, and unaltered.

Whose mail is signed, and with which key. The header itself is `dkim_signature`'s.
"""

import re
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

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
        from outbox.dkim_signature import Signatures  # noqa: PLC0415 - slow: dkimpy brings a resolver of DNS along

        self.domain = domain
        self._signatures = Signatures(selector, domain, key, [name for name in HEADERS for _ in range(2)])

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
        return self._signatures.sign_message_bytes(message)


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
