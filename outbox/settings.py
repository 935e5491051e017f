"""Settings: read from the environment and `.env`, checked before anything starts."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from outbox.addresses import parse_mailbox
from outbox.errors import InvalidAddress, SettingsError
from outbox.states import OnUncertain

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]

_IN_A_URL = re.compile(r"//[^/]*@")


NOT_THERE_YET = (
    "OUTBOX_REDIRECT_TO",
    "OUTBOX_ALLOW_RECIPIENTS",
    "OUTBOX_RELAY_RATE",
    "OUTBOX_DOMAIN_RATE",
    "OUTBOX_ENCRYPTION_KEYS",
)
"""Settings of later versions that hold mail back or protect it. To ignore one could send mail to the wrong people."""


class Settings(BaseSettings):
    """What the library needs to know. Every field is an environment variable of the same name, in capitals."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,  # `SMTP_USER=` in a file of settings means that there is none
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # it may be a password
        populate_by_name=True,
    )

    database_url: str = "sqlite:///var/outbox.db"

    smtp_host: str = Field("localhost", validation_alias=AliasChoices("SMTP_HOST", "MAIL_SERVER"))
    smtp_port: int | None = Field(None, gt=0, lt=65536, validation_alias=AliasChoices("SMTP_PORT", "MAIL_PORT"))
    smtp_user: str | None = Field(None, validation_alias=AliasChoices("SMTP_USER", "MAIL_USERNAME"))
    smtp_password: SecretStr | None = Field(None, validation_alias=AliasChoices("SMTP_PASSWORD", "MAIL_PASSWORD"))
    smtp_from_email: str | None = Field(None, validation_alias=AliasChoices("SMTP_FROM_EMAIL", "MAIL_DEFAULT_SENDER"))
    smtp_use_tls: bool = Field(False, validation_alias=AliasChoices("SMTP_USE_TLS", "MAIL_USE_TLS"))
    smtp_use_ssl: bool = Field(False, validation_alias=AliasChoices("SMTP_USE_SSL", "MAIL_USE_SSL"))
    smtp_ca_file: str | None = None
    # RFC 5321, 4.5.3.2: a client waits 5 minutes for an answer to a command and 10 for the one to the final dot.
    smtp_connect_timeout: Seconds = 30
    smtp_timeout: Seconds = 300
    smtp_dot_timeout: Seconds = 600

    outbox_drain_seconds: Seconds = 60
    outbox_chunk: Count = 100
    outbox_in_flight: Count = 5000
    outbox_lease_seconds: Seconds = 900
    outbox_max_attempts: Count = 5
    outbox_retry_base_seconds: Seconds = 60
    outbox_retry_max_seconds: Seconds = 3600
    outbox_max_age_hours: Seconds = 72
    outbox_on_uncertain: OnUncertain = OnUncertain.RETRY
    outbox_max_message_bytes: Count = 25_000_000
    outbox_journal: Path = Path("var/outbox-journal.jsonl")

    @field_validator("smtp_from_email")
    @classmethod
    def _sender_is_a_mailbox(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_mailbox("SMTP_FROM_EMAIL", value)
            except InvalidAddress as error:
                raise ValueError(error.problem) from error
        return value

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.smtp_use_tls and self.smtp_use_ssl:
            raise ValueError(
                "SMTP_USE_TLS (STARTTLS, port 587) and SMTP_USE_SSL (TLS from the start, port 465) exclude each other: "
                "keep one"
            )
        if self.smtp_user and self.smtp_password is None:
            raise ValueError("SMTP_USER is set and SMTP_PASSWORD is not: set both or neither")
        if (
            not (self.smtp_user or "").isascii()
            or not (self.smtp_password or SecretStr("")).get_secret_value().isascii()
        ):
            raise ValueError("SMTP_USER and SMTP_PASSWORD must be ASCII: SMTP's login carries nothing else")
        if self.outbox_lease_seconds <= self.smtp_dot_timeout:
            raise ValueError(
                f"OUTBOX_LEASE_SECONDS={self.outbox_lease_seconds:g} must be longer than "
                f"SMTP_DOT_TIMEOUT={self.smtp_dot_timeout:g}: a lease outlives the longest wait for the relay"
            )
        return self

    @property
    def relay_port(self) -> int:
        """`SMTP_PORT`, or the port that goes with the kind of TLS: 587, 465, or 25 without."""
        if self.smtp_port is not None:
            return self.smtp_port
        return 465 if self.smtp_use_ssl else 587 if self.smtp_use_tls else 25

    @property
    def relay_name(self) -> str:
        """`host:port`, as `email_attempts.relay` records it."""
        return f"{self.smtp_host}:{self.relay_port}"

    @classmethod
    def load(cls, **values: Any) -> Self:
        """Read the environment; raise a `SettingsError` of one line for each thing that is wrong with it."""
        env_file = values.get("_env_file", cls.model_config["env_file"])
        given = os.environ | (dotenv_values(env_file) if env_file else {})
        if promised := [name for name in NOT_THERE_YET if given.get(name)]:
            raise SettingsError(
                f"{', '.join(promised)}: this version does not do that yet, and mail would go out without it; unset it"
            )
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError("; ".join(cls._sentence(line) for line in error.errors())) from error

    @classmethod
    def _sentence(cls, error: Any) -> str:
        """One pydantic error as `NAME=value: problem`, without the password, which a URL may hold, too."""
        problem = str(error["msg"]).removeprefix("Value error, ")
        if not error["loc"]:
            return problem
        name = str(error["loc"][0])
        spellings = next((names for names in cls._spellings() if name in names), [name.upper()])
        value = "(hidden)" if "PASSWORD" in name else _IN_A_URL.sub("//***@", repr(error["input"]))
        return f"{' or '.join(spellings)}={value}: {problem}"

    @classmethod
    def _spellings(cls) -> Iterator[list[str]]:
        for field in cls.model_fields.values():
            if isinstance(field.validation_alias, AliasChoices):
                yield [str(name) for name in field.validation_alias.choices]
