"""The DKIM-Signature header of a mail: composed by dkimpy, computed by OpenSSL.

dkimpy composes the header in plain Python. It would also compute the signature there: 5 ms and more for RSA of 2048
bits, while no other thread runs. OpenSSL (`cryptography`) takes a tenth of that.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import dkim
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from emails.signers import DKIMSigner


class Signatures(DKIMSigner):
    """The `emails` library's signer, of one domain and key, with dkimpy's work done by OpenSSL. Threads share it."""

    def __init__(self, selector: str, domain: str, key: RSAPrivateKey, headers: Sequence[str]) -> None:
        """`headers`: those that are signed, each as often as it is named."""
        super().__init__(
            selector,
            domain,
            key=key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
            # Relays refold headers. What they may change in a body, blanks at the ends of lines, ours do not have.
            canonicalize=(b"relaxed", b"simple"),
            include_headers=[name.lower().encode("ascii") for name in headers],
        )
        self._openssl = key

    def get_sign_string(self, message: bytes) -> bytes | None:
        """The header. Raises ValueError for bytes that are no message."""
        try:
            signature = _Signature(message)
            signature.openssl = self._openssl
            header: bytes = signature.sign(**self._sign_params)
        except dkim.DKIMException as error:
            raise ValueError(f"it cannot be signed: {error}") from error
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
