"""What a relay may prove itself with, and what proves nothing."""

import ssl
from datetime import UTC, datetime, timedelta

import trustme

from tests.smtp_server import HOST


def certificate(authority: trustme.CA, name: str = HOST, *, expired: bool = False) -> ssl.SSLContext:
    """Issued by this authority, for this name."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    authority.issue_cert(name, not_after=yesterday if expired else None).configure_cert(context)
    return context


def self_signed() -> ssl.SSLContext:
    """An authority's own certificate, which signs itself."""
    alone = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with alone.cert_pem.tempfile() as cert, alone.private_key_pem.tempfile() as key:
        context.load_cert_chain(cert, key)
    return context
