"""The application's settings: the library's, and what Flask, Celery and Redis need beside them."""

from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from app.queues import QUEUES
from outbox.settings import Count, Listed, Settings


class AppSettings(Settings):
    """Every field is an environment variable of the same name, in capitals, as in the library's `Settings`."""

    outbox_templates: Annotated[tuple[str, ...], NoDecode, Listed] = ("app:templates/email",)
    """Those of this application, wherever it is started."""

    secret_key: SecretStr | None = None
    """Signs the browser's session, and with it what protects forms. Unset: another one for each process."""
    admin_password: SecretStr | None = None
    """What `admin` logs in with. Unset: nobody does."""

    redis_url: str = "redis://localhost:6379/0"
    """Carries hints, never mail: it may be flushed or lost at any time."""
    celery_broker_url: str = ""
    """`REDIS_URL` unless it is set."""
    celery_result_backend: str = ""
    """`REDIS_URL` unless it is set. Mail keeps no results; other tasks may."""
    celery_timezone: str = "UTC"

    celery_worker_queues: Annotated[tuple[str, ...], NoDecode] = QUEUES
    """What a worker started by `start_celery_worker.sh` takes from, separated by commas."""
    # Threads that wait for a relay, not for the processor: 16 brought the most mail a second from one process, since
    # they share the ledger's commits.
    celery_worker_concurrency: Count = 16

    flower_url: str = ""
    inbox_url: str = ""
    """Shown on the landing page where they are set."""

    @field_validator("celery_worker_queues", mode="before")
    @classmethod
    def _queues_are_known(cls, value: object) -> object:
        names = tuple(filter(None, (name.strip() for name in value.split(",")))) if isinstance(value, str) else value
        unknown = [name for name in names if name not in QUEUES] if isinstance(names, tuple) else []
        if unknown or not names:
            raise ValueError(f"use one or more of {', '.join(QUEUES)}, separated by commas")
        return names

    @field_validator("celery_timezone")
    @classmethod
    def _timezone_exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("there is no such time zone; use a name such as UTC or Europe/Berlin") from error
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_url_is_one(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://")):
            raise ValueError("a Redis address begins with redis:// or, for TLS, rediss://")
        return value

    @model_validator(mode="after")
    def _celery_uses_redis_unless_told(self) -> Self:
        for name in ("celery_broker_url", "celery_result_backend"):
            url = getattr(self, name) or self.redis_url
            if url.startswith("rediss://") and "ssl_cert_reqs=" not in url:
                # Celery would not look at the certificate.
                url += ("&" if "?" in url else "?") + "ssl_cert_reqs=required"
            object.__setattr__(self, name, url)  # frozen for everybody else
        return self
