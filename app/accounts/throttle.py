"""How often somebody may guess a password: so often from one network, by one name."""

from hashlib import sha256
from ipaddress import IPv6Address, ip_address, ip_network

from limits import parse

from app.rates import Allowance

RATE = parse("10 per 15 minute")
"""A thousand guesses a day and network, and nobody who has forgotten theirs notices. For one name and network
together: a stranger cannot lock a user out, nor an office its colleagues. Who has an address has two names, and twice
as many guesses at them."""


class Throttle:
    """Counts guesses."""

    def __init__(self, redis_url: str) -> None:
        self._allowance = Allowance(redis_url, "logins")

    def takes(self, name: str, address: str | None) -> bool:
        """Count a guess, before it is looked at; False: it is one too many, and must not be looked at."""
        return self._allowance.takes(RATE, *_key(name, address))

    def forget(self, name: str, address: str | None) -> None:
        """The guess was right: those before it were slips."""
        self._allowance.forget(RATE, *_key(name, address))


def _key(name: str, address: str | None) -> tuple[str, str, str]:
    # As a digest: what is typed into a login is anything of any length, and at times a password.
    return ("login", sha256(name.encode(errors="surrogatepass")).hexdigest(), network(address))


def network(address: str | None) -> str:
    """An IPv4 address itself; of IPv6 the /64, which is what one subscriber has."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return address or "nowhere"  # a Unix socket
    return str(ip_network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else str(parsed)
