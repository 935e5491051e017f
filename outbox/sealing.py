"""What a sensitive mail says, encrypted: the database holds nothing that could be read without a key from the settings.

`Fernet` is AES-128-CBC with an HMAC-SHA256 over it, by the `cryptography` library: what was tampered with does not
open. The attachments of a mail are locked under a key of their own, which is in the sealed text: a change of keys
rewrites that text, and not 18 MB beside it.
"""

import json
from collections.abc import Sequence
from hmac import digest
from typing import Any, Self

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from outbox.errors import KeyMissing
from outbox.settings import Settings

_FIELDS = frozenset({"subject", "text", "html", "headers", "files", "files_key"})


class Safe:
    """The keys of the settings: the first one locks, all of them open."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._first = Fernet(keys[0])
        self._any = MultiFernet([Fernet(key) for key in keys])
        # The same key must not serve two purposes.
        self._fingerprint_keys = [digest(key.encode(), b"outbox payload_hash", "sha256") for key in keys]

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """None where there are no keys."""
        keys = [key.get_secret_value() for key in settings.outbox_encryption_keys]
        return cls(keys) if keys else None

    def seal(self, said: dict[str, Any]) -> bytes:
        """`said`: what can be JSON, with `subject`, `text`, `html`, `headers`, `files` and `files_key`."""
        return self._first.encrypt(json.dumps(said).encode())

    def open(self, sealed: bytes) -> dict[str, Any]:
        """What was said. Raises KeyMissing where no key fits, and ValueError for what was sealed by something else."""
        said = _parsed(self._decrypted(sealed))
        if said is None:
            raise ValueError("what was sealed is not the text of a mail")
        return said

    def rotate(self, sealed: bytes) -> bytes:
        """The same under the first key, unchanged if it is. Raises KeyMissing where no key fits."""
        try:
            self._first.decrypt(sealed)
        except InvalidToken:
            return self._first.encrypt(self._decrypted(sealed))
        return sealed

    def fingerprints(self, payload: bytes) -> tuple[str, ...]:
        """The payload's HMAC under each key; the first one is for the table.

        A bare SHA-256 of a mail that holds a code of six digits is found by a million guesses.
        """
        return tuple(digest(key, payload, "sha256").hex() for key in self._fingerprint_keys)

    def _decrypted(self, sealed: bytes) -> bytes:
        try:
            return self._any.decrypt(sealed)
        except InvalidToken:
            raise KeyMissing from None


def new_key() -> str:
    """For `lock`."""
    return Fernet.generate_key().decode("ascii")


def lock(data: bytes, key: str) -> bytes:
    """Differs each time, even for the same data and key: nobody sees that two mails carry the same file."""
    return Fernet(key).encrypt(data)


def unlock(data: bytes, key: str) -> bytes:
    """What was locked. Raises ValueError for what was not locked with that key."""
    try:
        return Fernet(key).decrypt(data)
    except InvalidToken:
        raise ValueError("an attachment was not locked with the key of its mail") from None


def _parsed(data: bytes) -> dict[str, Any] | None:
    """Rather than raise what json raises: that error holds the whole text."""
    try:
        said = json.loads(data)
    except ValueError:
        return None
    return said if isinstance(said, dict) and said.keys() >= _FIELDS else None
