"""Endpoints: the relays that mail may go through, and how their settings are written.

smtp://mx.example                                  port 25, in the clear
smtp+starttls://user:password@mx.example           port 587, STARTTLS required
smtps://user:password@[2001:db8::1]?rate=5/second  port 465, TLS from the start
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import parse_qsl, unquote

from limits import RateLimitItem, parse_many
from pydantic import SecretStr

_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
_SCHEMES = "smtp://, smtp+starttls:// or smtps://"
_OPTIONS = ("rate", "domain_rate")

_NEXT = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
"""What separates two URLs. A comma elsewhere is part of one, and its URL is refused as a whole: a password that holds
a comma must not be taken for the name of a host, and shown."""

_URL = re.compile(
    r"(?P<scheme>[A-Za-z0-9+.-]+)://"
    r"(?:(?P<user>[^:@/?#\s]*)(?::(?P<password>[^@/?#\s]*))?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"/?(?:\?(?P<options>[^@#]*))?"
)
_SHAPE = (
    "a relay is written smtps://user:password@host:port; in user and password, percent-encode what is neither letter "
    "nor digit (@ is %40, / is %2F)"
)
_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A relay that mail may go through."""

    host: str
    port: int
    user: str | None = None
    password: SecretStr | None = None
    starttls: bool = False
    """Required: mail never falls back to clear text."""
    tls: bool = False
    """From the start."""
    rate: RateLimitItem | None = None
    """Mails that it may be handed in a time, by all workers together."""
    domain_rate: RateLimitItem | None = None
    """The same, for each recipient domain."""
    name: str = field(init=False, repr=False, compare=False)
    """`host:port`, as `email_attempts.relay` and `email_relays.name` have it."""

    def __post_init__(self) -> None:
        """Its name is asked for ten times a mail."""
        host = self.host.lower()
        object.__setattr__(self, "name", f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}")


def default_port(*, starttls: bool, tls: bool) -> int:
    """The port that goes with the kind of TLS."""
    return _PORTS["smtps"] if tls else _PORTS["smtp+starttls"] if starttls else _PORTS["smtp"]


def parse_rate(value: object) -> RateLimitItem:
    """`14/second`, `500 per 10 minutes` -> what the `limits` library counts with. Raises ValueError."""
    if isinstance(value, RateLimitItem):
        return value
    try:
        found = parse_many(value) if isinstance(value, str) else []
    except ValueError:
        found = []
    if len(found) != 1 or found[0].amount < 1:  # of several, the library would quietly take the first
        raise ValueError("a rate is one number of mails, above 0, in a time: 14/second, 500/minute, 20000/day")
    return found[0]


def carried_by_login(user: str | None, password: SecretStr | None) -> bool:
    """Whether SMTP's login, which is ASCII, can carry them."""
    return (user or "").isascii() and (password.get_secret_value() if password else "").isascii()


@lru_cache(maxsize=16)  # asked for with every mail
def parse_endpoints(
    urls: str, *, rate: RateLimitItem | None = None, domain_rate: RateLimitItem | None = None
) -> tuple[Endpoint, ...]:
    """The relays of `OUTBOX_RELAYS`, in order. `rate` and `domain_rate` hold for those that name none.

    Raises ValueError; its sentence names the relay, without user and password.
    """
    written = [url.strip(" \t\r\n,") for url in _NEXT.split(urls.strip(" \t\r\n,"))]
    endpoints: dict[str, Endpoint] = {}
    for url in written:
        endpoint = _parse(url, rate, domain_rate)
        if endpoint.name in endpoints:
            raise ValueError(f"OUTBOX_RELAYS: {_shown(url)}: {endpoint.name} is there twice: keep one of them")
        endpoints[endpoint.name] = endpoint
    return tuple(endpoints.values())


def _parse(url: str, rate: RateLimitItem | None, domain_rate: RateLimitItem | None) -> Endpoint:
    try:
        return _endpoint(url, rate, domain_rate)
    except ValueError as error:
        raise ValueError(f"OUTBOX_RELAYS: {_shown(url)}: {error}") from None  # its cause may quote the password


def _endpoint(url: str, rate: RateLimitItem | None, domain_rate: RateLimitItem | None) -> Endpoint:
    scheme, found, _ = url.lower().partition("://")
    if not found or scheme not in _PORTS:
        raise ValueError(f"a relay begins with {_SCHEMES}")
    parts = _URL.fullmatch(url)
    if parts is None:
        raise ValueError(_SHAPE)
    user, password = _login(parts["user"], parts["password"])
    options = _options(parts["options"] or "")
    return Endpoint(
        host=_host(parts["host"]),
        port=_port(parts["port"], scheme),
        user=user,
        password=password,
        starttls=scheme == "smtp+starttls",
        tls=scheme == "smtps",
        rate=options.get("rate", rate),
        domain_rate=options.get("domain_rate", domain_rate),
    )


def _login(user: str | None, password: str | None) -> tuple[str | None, SecretStr | None]:
    if user is None:
        return None, None
    if not user or not password:
        raise ValueError("a user has a password, and a password a user: give both, or neither and no @")
    if _NO_ESCAPE.search(f"{user}:{password}"):
        raise ValueError("user or password hold a % that begins no escape: a percent sign itself is written %25")
    login = unquote(user), SecretStr(unquote(password))
    if not carried_by_login(*login):
        raise ValueError("user and password must be ASCII: SMTP's login carries nothing else")
    return login


def _host(host: str) -> str:
    if not host.startswith("["):
        return host
    try:
        return str(IPv6Address(host[1:-1]))
    except AddressValueError:
        raise ValueError(f"{host} is no IPv6 address") from None


def _port(port: str | None, scheme: str) -> int:
    if port is None:
        return _PORTS[scheme]
    if not 0 < int(port) < 65536:  # noqa: PLR2004 - TCP has 16 bits for it
        raise ValueError(f"there is no port {port}: ports are 1 to 65535")
    return int(port)


def _options(query: str) -> dict[str, RateLimitItem]:
    options: dict[str, RateLimitItem] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise ValueError(f"{name!r} is no option of a relay; there are {' and '.join(_OPTIONS)}")
        if name in options:
            raise ValueError(f"{name} is given twice: keep one")
        try:
            options[name] = parse_rate(value)
        except ValueError as error:
            raise ValueError(f"{name}={value!r}: {error}") from None
    return options


def _shown(url: str) -> str:
    """The URL for a reader who must not see the password, however badly the URL is written."""
    scheme, found, rest = url.partition("://")
    if not found:
        scheme, rest = "", url
    if "@" in rest:
        rest = f"***@{rest.rpartition('@')[2]}"
    elif _URL.fullmatch(f"x://{rest}") is None and ":" in rest:
        rest = f"{rest.partition(':')[0]}:***"  # it may be the first half of `user:password`
    return f"{scheme}{found}{rest}"
