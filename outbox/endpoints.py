"""Endpoints: the relays that mail may go through."""

from dataclasses import dataclass

from limits import RateLimitItem
from pydantic import SecretStr


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
    domain_rate: RateLimitItem | None = None

    @property
    def name(self) -> str:
        """`host:port`, as `email_attempts.relay` and `email_relays.name` have it."""
        return f"{self.host}:{self.port}"
