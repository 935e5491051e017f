"""The application's settings: the library's, and what Flask, Celery and Redis need beside them."""

import re
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from app.categories import SUBSCRIPTIONS
from app.queues import QUEUES
from outbox.settings import Count, Listed, Rate, Settings

Hour = Annotated[int, Field(ge=0, le=23)]
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]

_TOPIC_ARN = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}")


class AppSettings(Settings):
    """Every field is an environment variable of the same name, in capitals, as in the library's `Settings`."""

    outbox_templates: Annotated[tuple[str, ...], NoDecode, Listed] = ("app:templates/email",)
    """Those of this application, wherever it is started."""

    secret_key: SecretStr | None = None
    """Signs the browser's session, and with it what protects forms. Unset: another one for each process."""
    admin_password: SecretStr | None = None
    """What the users that `flask seed` makes log in with."""

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

    heartbeat_file: Path | None = None
    """Touched twice a minute by the worker, or the beat, that it is set for, while its main loop turns: for a probe."""

    app_url: str = "http://127.0.0.1:8000"
    """Where the application is reached, without a slash at its end: what the links in its mails begin with."""

    daily_reminder_hour: Hour = 18
    """This and all hours and days below are those of `CELERY_TIMEZONE`."""
    reminder_inactive_days: Count = 2
    monthly_report_day: Annotated[int, Field(ge=1, le=28)] = 1
    """Every month has a 28th."""
    monthly_report_hour: Hour = 9
    task_report_hour: Hour = 7
    task_reminder_hour: Hour = 8
    overdue_alert_hour: Hour = 9
    weekly_summary_day: Weekday = "monday"
    weekly_summary_hour: Hour = 10
    task_cleanup_day: Weekday = "sunday"
    task_cleanup_hour: Hour = 2
    file_cleanup_hour: Hour = 2
    purge_hour: Hour = 3

    files_dir: Path = Path("var/files")
    """On a disk that the web server and the workers share."""
    max_upload_bytes: Count = 10_000_000

    notification_streams: Annotated[int, Field(ge=0)] = 2
    """Pages of one web process that hear of notifications at once, each holding a thread: of four, which waitress has
    by default, half. Further pages ask every ten seconds."""

    log_format: Literal["auto", "json", "pretty"] = "auto"
    """`json`: an object a line. `pretty`: for people. `auto`: pretty where stderr is a terminal, JSON elsewhere."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    log_addresses: bool = False
    """Whether a line of the log may hold whole addresses, and what the database was to write when it raised an error.
    Secrets are in none."""
    metrics_token: SecretStr | None = Field(default=None, min_length=16)
    """Who shows it as a bearer token may read `/metrics` and `/health/...`. Unset: admins alone."""
    metrics_dir: Path = Path("var/metrics")
    """Where the workers of a host count, for its web processes to read: on a local disk."""

    api_rate: Rate = Field(default="600/minute", validate_default=True)
    """Requests of one API token, of all web processes together."""
    api_max_queue: Count = 100_000
    """Mails that may be due and not yet taken by a worker; beyond it the API takes no more."""

    ses_topic_arns: Annotated[tuple[str, ...], NoDecode, Listed] = ()
    """The SNS topics whose notices are believed: anybody can have a topic that Amazon signs for."""
    sendgrid_webhook_key: str = ""
    """SendGrid's verification key: the public half, in base64."""
    postmark_webhook_auth: SecretStr | None = None
    """`user:password` of the webhook's address."""
    mailgun_signing_key: SecretStr | None = None

    flower_url: str = ""
    inbox_url: str = ""
    """Shown on the landing page where they are set."""

    @model_validator(mode="before")
    @classmethod
    def _own_subscriptions(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Once links can be signed, users can unsubscribe from what this application sends by itself."""
        if values.get("outbox_signing_keys") and "outbox_subscriptions" not in values:
            url = str(values.get("app_url") or cls.model_fields["app_url"].default).rstrip("/")
            values = {"outbox_unsubscribe_url": f"{url}/unsubscribe"} | values
            values["outbox_subscriptions"] = ",".join(SUBSCRIPTIONS)
        return values

    @field_validator("app_url")
    @classmethod
    def _app_url_is_one(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("give the whole address, such as https://quiz.example")
        return value.rstrip("/")

    @field_validator("ses_topic_arns")
    @classmethod
    def _topics_are_arns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for arn in value:
            if not _TOPIC_ARN.fullmatch(arn):
                raise ValueError(f"{arn!r} is no topic: use arn:aws:sns:REGION:ACCOUNT:NAME, separated by commas")
        return value

    @field_validator("sendgrid_webhook_key")
    @classmethod
    def _sendgrid_key_verifies(cls, value: str) -> str:
        try:
            is_one = not value or isinstance(load_der_public_key(b64decode(value)), EllipticCurvePublicKey)
        except (ValueError, UnsupportedAlgorithm):
            is_one = False
        if not is_one:
            raise ValueError("give the verification key as SendGrid shows it: base64, on one line")
        return value

    @field_validator("postmark_webhook_auth")
    @classmethod
    def _postmark_auth_has_both(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all(value.get_secret_value().partition(":")[::2]):
            raise ValueError("give user:password, as they stand in the webhook's address")
        return value

    @field_validator("weekly_summary_day", "task_cleanup_day", "log_format", mode="before")
    @classmethod
    def _words_in_lower_case(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _level_in_capitals(cls, value: object) -> object:
        return value.strip().upper() if isinstance(value, str) else value

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
