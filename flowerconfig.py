"""Flower's settings: it reads this file by itself (`celery -A workers flower`), after the environment's `FLOWER_*`.

Flower shows what every task was given and can stop workers, so it stays on this machine unless it asks who comes.
"""

import ipaddress

from flower.views.monitor import Healthcheck, Metrics
from tornado.options import options
from tornado.web import authenticated


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _logins(entries: list[str]) -> list[str]:
    """The entries that say something. An empty one would let in whoever sends an empty login."""
    logins = [entry.strip() for entry in entries if entry.strip()]
    for login in logins:
        user, _, password = login.partition(":")
        if not (user and password):
            raise SystemExit(  # without the entry: it may be a password
                "FLOWER_BASIC_AUTH has an entry that is not user:password: use user:password, several of them "
                "separated by commas (a password can have none), or leave it empty."
            )
    return logins


# Flower takes both from here.
address = options.address or "127.0.0.1"
basic_auth = _logins(options.basic_auth)

if not (_is_loopback(address) or options.unix_socket or basic_auth or options.auth):
    raise SystemExit(
        f"Flower will not listen on {address} without a password: set FLOWER_BASIC_AUTH=user:password, "
        "or leave FLOWER_ADDRESS at 127.0.0.1."
    )

# Flower leaves these two open where everything else asks for the password.
Metrics.get = authenticated(Metrics.get)
Healthcheck.get = authenticated(Healthcheck.get)
