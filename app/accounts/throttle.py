"""How often somebody may guess a password: so often from one network, by one name."""

import logging
from hashlib import sha256
from ipaddress import IPv6Address, ip_address, ip_network

from limits import parse
from limits.errors import StorageError
from limits.strategies import MovingWindowRateLimiter

from app.rates import RedisWindows
from outbox.logs import tell

log = logging.getLogger(__name__)

RATE = parse("10 per 15 minute")
"""A thousand guesses a day and network, and nobody who has forgotten theirs notices. For one name and network
together: a stranger cannot lock a user out, nor an office its colleagues. Who has an address has two names, and twice
as many guesses at them."""


class Throttle:
    """Counts in Redis. While that is away everybody may try: a lost hint must not keep anybody out."""

    def __init__(self, redis_url: str) -> None:
        self._windows = MovingWindowRateLimiter(RedisWindows(redis_url))

    def takes(self, name: str, address: str | None) -> bool:
        """Count a guess, before it is looked at; False: it is one too many, and must not be looked at."""
        try:
            return self._windows.hit(RATE, *_key(name, address))
        except (StorageError, OSError) as error:
            _tell_uncounted(error)
            return True

    def forget(self, name: str, address: str | None) -> None:
        """The guess was right: those before it were slips."""
        try:
            self._windows.clear(RATE, *_key(name, address))
        except (StorageError, OSError) as error:
            _tell_uncounted(error)


def _tell_uncounted(error: Exception) -> None:
    sentence = "logins are not counted: Redis does not answer (%(why)s)"
    tell(log, logging.WARNING, "logins.uncounted", sentence, why=str(error))


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
