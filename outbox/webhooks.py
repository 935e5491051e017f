"""A webhook: one address that takes JSON. It may be slow, wrong or away, and nobody waits for it for long."""

import json
import logging
from typing import Any
from urllib.parse import urlsplit

import urllib3
from pydantic import SecretStr

log = logging.getLogger(__name__)

_TIMEOUT = urllib3.Timeout(connect=3.0, read=5.0)
"""Seconds. Who takes alerts answers in one."""

_SUCCESS = 2


class Webhook:
    """Where alerts go; nowhere, without a `url`. Only its host is named: the rest of such an address is a secret."""

    def __init__(self, url: SecretStr | None) -> None:
        self._url = url
        self._pool = urllib3.PoolManager(num_pools=1, timeout=_TIMEOUT)
        self._failing = False

    def post(self, said: dict[str, Any]) -> bool:
        """Whether it is told; there being nobody to tell counts. That it cannot be is logged until it can, once."""
        if self._url is None:
            return True
        problem = self._problem(self._url.get_secret_value(), said)
        if problem and not self._failing:
            log.error("alerts: the webhook at %s does not take them: %s; it is tried again", self._host, problem)
        elif not problem and self._failing:
            log.info("alerts: the webhook at %s takes them again", self._host)
        self._failing = bool(problem)
        return not problem

    def _problem(self, url: str, said: dict[str, Any]) -> str | None:
        try:
            # Not read: its status says all. No redirect: it would take the secret elsewhere.
            answer = self._pool.request(
                "POST",
                url,
                body=json.dumps(said).encode(),
                headers={"Content-Type": "application/json", "User-Agent": "outbox"},
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # Its own words may hold the address.
            return getattr(error.__cause__, "strerror", None) or type(error).__name__
        answer.close()
        return None if answer.status // 100 == _SUCCESS else f"it answered {answer.status}"

    @property
    def _host(self) -> str | None:
        return urlsplit(self._url.get_secret_value()).hostname if self._url else None
