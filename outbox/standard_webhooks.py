"""How a webhook is signed, as standardwebhooks.com says, version 1: receivers find a library for it in most languages.

`webhook-signature: v1,<base64>` is HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>`. A receiver refuses what
has another signature, and what is older than some minutes; it drops what it has had before.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

_PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64
"""Bytes of a key, by the standard."""

_MAKE_ONE = "echo whsec_$(openssl rand -base64 32)"


def headers(secret: str, id_: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of a message; `timestamp` in seconds, of this try."""
    signed = f"{id_}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()
    return {"webhook-id": id_, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signature}"}


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)


def _is_a_secret(value: SecretStr) -> SecretStr:
    try:
        length = len(_key(value.get_secret_value()))
    except (binascii.Error, ValueError):
        length = 0
    if not value.get_secret_value().startswith(_PREFIX) or not _SHORTEST <= length <= _LONGEST:
        raise ValueError(
            f"give {_PREFIX} and {_SHORTEST} to {_LONGEST} bytes in base64, as `{_MAKE_ONE}` does (Standard Webhooks)"
        )
    return value


def _is_an_address(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("give the whole address that takes the requests, such as https://shop.example/hooks/mail")
    return value


Secret = Annotated[SecretStr, AfterValidator(_is_a_secret)]
Address = Annotated[SecretStr, AfterValidator(_is_an_address)]
"""A secret, too: it may hold a token."""
