"""What the world's mail servers look up about us: the records of the sending domain."""

from collections.abc import Iterator
from functools import partial

import dns.exception
import dns.resolver
from cryptography.hazmat.primitives import serialization

from outbox.addresses import parse_mailbox
from outbox.cli.findings import Finding, fine, unknown, wrong
from outbox.settings import Settings

SECONDS = 4.0
"""For an answer from whatever resolver this machine has."""

_RESERVED = ("example", "example.com", "example.net", "example.org", "invalid", "local", "localhost", "test")
"""RFC 2606 and 6762: nobody publishes records there."""


class Unreachable(Exception):
    """No resolver answers: nothing is known."""


def look_up(name: str, kind: str) -> list[str]:
    """The records, texts put together; none if there are none."""
    resolver = dns.resolver.Resolver()
    resolver.lifetime = SECONDS
    try:
        answer = resolver.resolve(name, kind)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    except (dns.exception.DNSException, OSError) as error:
        raise Unreachable(str(error).partition("\n")[0]) from error
    if kind == "TXT":
        return ["".join(part.decode("utf-8", "replace") for part in record.strings) for record in answer]
    return [record.to_text() for record in answer]


def records(settings: Settings) -> Iterator[Finding]:
    """MX, for bounces; SPF; DKIM where mail is signed; DMARC."""
    if settings.smtp_from_email is None:
        yield unknown("DNS", "SMTP_FROM_EMAIL is not set: there is no domain to look up")
        return
    domain = parse_mailbox("SMTP_FROM_EMAIL", settings.smtp_from_email).domain
    if any(domain == name or domain.endswith(f".{name}") for name in _RESERVED):
        yield unknown("DNS", f"{domain} is reserved for examples and tests: it has no records")
        return
    checks = {
        "DNS MX": partial(_mx, domain),
        "DNS SPF": partial(_spf, domain),
        "DNS DKIM": partial(_dkim, domain, settings),
        "DNS DMARC": partial(_dmarc, domain),
    }
    try:
        _see_the_world(domain)
        for name, check in checks.items():
            yield check(name)
    except Unreachable as error:
        yield unknown("DNS", f"{domain} could not be looked up from here: {error}")


def _see_the_world(domain: str) -> None:
    """A resolver that knows its own network alone says of all others that they do not exist."""
    top = domain.rpartition(".")[2]
    if not look_up(f"{top}.", "SOA"):
        raise Unreachable(f"the resolver of this machine knows no {top!r}")


def _mx(domain: str, name: str) -> Finding:
    found = look_up(domain, "MX") or look_up(domain, "A") or look_up(domain, "AAAA")
    if found:
        return fine(name, f"{domain} takes mail: {found[0]}")
    return wrong(name, f"{domain} takes no mail", "publish an MX record: bounces and answers have nowhere to go")


def _spf(domain: str, name: str) -> Finding:
    found = [text for text in look_up(domain, "TXT") if text.lower().startswith("v=spf1")]
    if len(found) > 1:
        return wrong(name, f"{domain} has {len(found)} SPF records", "keep one: with two, none counts (RFC 7208, 3.2)")
    if not found:
        return wrong(name, f"{domain} names nobody who may send for it", "publish TXT `v=spf1 include:YOUR-RELAY -all`")
    return fine(name, found[0])


def _dkim(domain: str, settings: Settings, name: str) -> Finding:
    if settings.outbox_dkim_key_file is None:
        return unknown(name, "OUTBOX_DKIM_KEY_FILE is not set: fine, if the relay signs")
    place = f"{settings.outbox_dkim_selector}._domainkey.{settings.outbox_dkim_domain or domain}"
    found = [text for text in look_up(place, "TXT") if "p=" in text]
    try:
        ours = _public_key(settings.outbox_dkim_key_file.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        return wrong(
            name, f"OUTBOX_DKIM_KEY_FILE={settings.outbox_dkim_key_file}: {error}", "name a PEM file with a key"
        )
    if not found:
        return wrong(name, f"{place} has no key", f"publish TXT `v=DKIM1; k=rsa; p={ours}`")
    if ours not in found[0].replace(" ", ""):
        return wrong(name, f"{place} has another key than ours", f"publish TXT `v=DKIM1; k=rsa; p={ours}`")
    return fine(name, f"{place} has our key")


def _public_key(pem: bytes) -> str:
    """As a record has it: the key's DER in base64, which is PEM without its first and last line."""
    key = serialization.load_pem_private_key(pem, password=None).public_key()
    encoded = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "".join(encoded.decode().split("\n")[1:-2])


def _dmarc(domain: str, name: str) -> Finding:
    labels = domain.split(".")
    # Or of a domain above: which one is the organisation's takes a list; the nearest that has a policy is close to it.
    for start in range(len(labels) - 1):
        place = "_dmarc." + ".".join(labels[start:])
        found = [text for text in look_up(place, "TXT") if text.lower().startswith("v=dmarc1")]
        if found:
            return fine(name, f"{place}: {found[0]}")
    return wrong(name, f"{domain} has no policy", f"publish TXT at _dmarc.{domain}, such as `v=DMARC1; p=none`")
