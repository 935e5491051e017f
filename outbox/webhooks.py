"""A webhook: one address that takes JSON. It may be slow, wrong or away; whoever posts says for how long to wait."""

from collections.abc import Mapping
from urllib.parse import urlsplit

import urllib3
from pydantic import SecretStr

_HEADERS = {"Content-Type": "application/json", "User-Agent": "outbox"}

_SUCCESS = 2


def post(
    pool: urllib3.PoolManager, name: str, url: SecretStr, body: bytes, headers: Mapping[str, str] | None = None
) -> str | None:
    """Why it was not taken, which begins with the webhook's `name`; None: it was.

    Of its address only the host is named: the rest of it is a secret as a rule.
    """
    address = url.get_secret_value()
    who = f"{name} at {urlsplit(address).hostname}"
    try:
        # What it answers is not read: its status says all. No redirect: it would take secrets and addresses elsewhere.
        answer = pool.request(
            "POST", address, body=body, headers=_HEADERS | dict(headers or {}),
            retries=False, redirect=False, preload_content=False,
        )  # fmt: skip
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        # Its own words may hold the address.
        said = getattr(error.__cause__, "strerror", None) or type(error).__name__
        return f"{who} cannot be reached: {said}"
    answer.close()
    return None if answer.status // 100 == _SUCCESS else f"{who} answered {answer.status}"
