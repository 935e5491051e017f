"""Settings: read from the environment and `.env`, checked before anything starts."""

import re
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from limits import RateLimitItem
from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from outbox import standard_webhooks
from outbox.addresses import Mailbox, parse_mailbox
from outbox.endpoints import Endpoint, carried_by_login, default_port, parse_endpoints, parse_rate
from outbox.errors import InvalidAddress, SettingsError
from outbox.states import OnUncertain

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Listed = BeforeValidator(
    lambda value: [*filter(None, map(str.strip, value.split(",")))] if isinstance(value, str) else value
)
"""Several, separated by commas. With `NoDecode`, or pydantic takes the text for JSON."""
Rate = Annotated[RateLimitItem, BeforeValidator(parse_rate)]
"""Mails in a time: `14/second`."""

LONGEST_CATEGORY = 63
"""Of a subscription: its name is a label of the List-Id, and stands in every link."""
LONGEST_LINK = 400
"""Of `OUTBOX_UNSUBSCRIBE_URL`: with the token for the longest address (some 460 characters) it fits a header's line."""
SHORTEST_KEY = 32
"""Characters of a signing key: 128 bits and more, however it was made."""

_CATEGORY = re.compile(rf"(?=.{{1,{LONGEST_CATEGORY}}}\Z)[a-z0-9]+(?:[_-]+[a-z0-9]+)*")
_LINK = re.compile(r"https?://[!#-;=?-~]+", re.IGNORECASE)  # what a URL holds, and a header in angle brackets can


def _category(value: str) -> str:
    if not _CATEGORY.fullmatch(value):
        raise ValueError(
            f"a subscription has a name of up to {LONGEST_CATEGORY} letters a-z, digits, _ and - between them, such as "
            "product-news: it stands in the List-Id header"
        )
    return value


def _signing_key(value: SecretStr) -> SecretStr:
    if len(value) < SHORTEST_KEY:
        raise ValueError(
            f"a signing key has {SHORTEST_KEY} characters or more; make one with "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return value


Category = Annotated[str, AfterValidator(_category)]
SigningKey = Annotated[SecretStr, AfterValidator(_signing_key)]

MAKE_A_KEY = 'python -c "from cryptography.fernet import Fernet as F; print(F.generate_key().decode())" makes one'
"""For `OUTBOX_ENCRYPTION_KEYS`."""

_FERNET_KEY = re.compile(r"[A-Za-z0-9_-]{43}=")  # 32 bytes in base64
_IN_A_URL = re.compile(r"//.*@")

_ONE_RELAY = ("smtp_host", "smtp_port", "smtp_user", "smtp_password", "smtp_use_tls", "smtp_use_ssl")
_ALLOW = "outbox_allow_recipients"


class _AllowList(PydanticBaseSettingsSource):
    """`OUTBOX_ALLOW_RECIPIENTS=` allows nobody. The usual sources drop what is empty, and would allow everybody."""

    def __init__(self, settings_cls: type[BaseSettings], *sources: EnvSettingsSource) -> None:
        super().__init__(settings_cls)
        self._sources = sources

    def __call__(self) -> dict[str, Any]:
        """The first source that has the name decides, whatever it says."""
        return next(
            ({_ALLOW: source.env_vars[_ALLOW] or ""} for source in self._sources if _ALLOW in source.env_vars), {}
        )

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Asked for by the base class, and not called."""
        raise NotImplementedError


class Settings(BaseSettings):
    """What the library needs to know. Every field is an environment variable of the same name, in capitals."""

    model_config = SettingsConfigDict(
        arbitrary_types_allowed=True,  # a rate is the `limits` library's
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

    outbox_relays: SecretStr | None = None
    """Several relays, in order of preference, in place of `SMTP_HOST` and its companions. Read `endpoints`."""
    outbox_relay_rate: Rate | None = None
    outbox_domain_rate: Rate | None = None

    outbox_environment: str = "development"
    outbox_redirect_to: str | None = None
    outbox_allow_recipients: Annotated[tuple[str, ...] | None, NoDecode] = None
    """Addresses, and domains without an `@`, in lower case. None: everybody. Empty: nobody."""

    outbox_journal: Path = Path("var/outbox-journal.jsonl")
    outbox_drain_seconds: Seconds = 60
    outbox_chunk: Count = 100
    outbox_in_flight: Count = 5000
    outbox_lease_seconds: Seconds = 900
    outbox_max_attempts: Count = 5
    outbox_retry_base_seconds: Seconds = 60
    outbox_retry_max_seconds: Seconds = 3600
    outbox_max_age_hours: Seconds = 72
    outbox_on_uncertain: OnUncertain = OnUncertain.RETRY
    outbox_retention_days: Count = 90
    """Since a mail's last recipient was final: then all that is known of it goes, its idempotency key included."""
    outbox_body_retention_days: Count = 30
    """The same for what it says, and for the files that it carries."""
    outbox_audit_retention_days: Count = 365
    """How long it is known who did what."""
    outbox_max_message_bytes: Count = 25_000_000
    outbox_max_attachment_bytes: Count = 18_000_000

    outbox_templates: Annotated[tuple[str, ...], NoDecode, Listed] = Field(default_factory=lambda: (_usual_folder(),))
    """Where templates are looked for, the first that has one wins: folders, or `package:folder` in a Python package."""
    outbox_subscriptions: Annotated[tuple[Category, ...], NoDecode, Listed] = ()
    """The categories that a recipient can unsubscribe from. All others are transactional."""
    outbox_unsubscribe_url: str | None = None
    """Where the application answers `GET` and `POST` of `URL/<token>`: `https://shop.example/unsubscribe`."""
    outbox_signing_keys: Annotated[tuple[SigningKey, ...], NoDecode, Listed] = ()
    """Sign the links of mails. The first signs; links that the others have signed stay valid."""
    outbox_encryption_keys: Annotated[tuple[SecretStr, ...], NoDecode, Listed] = ()
    """Fernet keys for sensitive mail. The first encrypts; what the others have encrypted can still be read."""
    outbox_alert_webhook: standard_webhooks.Address | None = None
    """Is told of each trouble when it begins and when it is over. Such addresses hold a secret: it is never shown."""
    outbox_alert_late_seconds: Seconds | None = None
    """For which the oldest due mail may wait. None: five periods of the drain."""
    outbox_alert_dead: Count = 1
    outbox_alert_uncertain: Count = 1
    """Mails that died, or became uncertain, within an hour: so many are a trouble."""

    outbox_event_webhook: standard_webhooks.Address | None = None
    """Who is told what became of mails. Read `publishing`."""
    outbox_event_secret: standard_webhooks.Secret | None = None
    outbox_dkim_key_file: Path | None = None
    outbox_dkim_selector: str | None = None
    outbox_dkim_domain: str | None = None
    """Empty: the domain of `SMTP_FROM_EMAIL`."""

    @field_validator("smtp_from_email")
    @classmethod
    def _sender_is_a_mailbox(cls, value: str | None) -> str | None:
        if value is not None:
            _mailbox("SMTP_FROM_EMAIL", value)
        return value

    @field_validator("outbox_redirect_to")
    @classmethod
    def _redirect_is_an_address(cls, value: str | None) -> str | None:
        return None if value is None else _mailbox("OUTBOX_REDIRECT_TO", value).address

    @field_validator("outbox_allow_recipients", mode="before")
    @classmethod
    def _allowed_are_addresses_or_domains(cls, value: object) -> object:
        entries = value.split(",") if isinstance(value, str) else value
        if not isinstance(entries, list | tuple):
            return value
        return tuple(_address_or_domain(entry.strip()) for entry in map(str, entries) if entry.strip())

    @field_validator("outbox_encryption_keys")
    @classmethod
    def _keys_encrypt(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, key in enumerate(keys, 1):
            # `Fernet` is lenient: it overlooks what base64 does not know, and what follows the end.
            if not _FERNET_KEY.fullmatch(key.get_secret_value()):
                raise ValueError(f"number {number} is no Fernet key; {MAKE_A_KEY}")
        return keys

    @field_validator("outbox_environment")
    @classmethod
    def _environment_is_a_name(cls, value: str) -> str:
        name = value.strip()
        if not name or not name.isprintable():
            raise ValueError("an environment has a name on one line, such as production")
        return name

    @field_validator("outbox_unsubscribe_url")
    @classmethod
    def _unsubscribe_url_takes_a_token(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            fits = _LINK.fullmatch(value) and parts.hostname and parts.username is None and parts.port != 0
        except ValueError:
            fits = False
        if not fits or "?" in value or "#" in value or len(value) > LONGEST_LINK:
            raise ValueError(
                f"give an address of at most {LONGEST_LINK} ASCII characters that a token can be appended to, without "
                "user, query or fragment, such as https://shop.example/unsubscribe"
            )
        return value.rstrip("/")

    @model_validator(mode="after")
    def _subscriptions_have_a_link(self) -> Self:
        needed = ("outbox_unsubscribe_url", "outbox_signing_keys")
        missing = [name.upper() for name in needed if not getattr(self, name)]
        if self.outbox_subscriptions and missing:
            raise ValueError(
                f"OUTBOX_SUBSCRIPTIONS is set and {' and '.join(missing)} not: each of their mails has a signed link"
            )
        return self

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.smtp_use_tls and self.smtp_use_ssl:
            raise ValueError(
                "SMTP_USE_TLS (STARTTLS, port 587) and SMTP_USE_SSL (TLS from the start, port 465) exclude each other: "
                "keep one"
            )
        if self.smtp_user and self.smtp_password is None:
            raise ValueError("SMTP_USER is set and SMTP_PASSWORD is not: set both or neither")
        if not carried_by_login(self.smtp_user, self.smtp_password):
            raise ValueError("SMTP_USER and SMTP_PASSWORD must be ASCII: SMTP's login carries nothing else")
        if self.outbox_lease_seconds <= self.smtp_dot_timeout:
            raise ValueError(
                f"OUTBOX_LEASE_SECONDS={self.outbox_lease_seconds:g} must be longer than "
                f"SMTP_DOT_TIMEOUT={self.smtp_dot_timeout:g}: a lease outlives the longest wait for the relay"
            )
        if self.outbox_body_retention_days > self.outbox_retention_days:
            raise ValueError(
                f"OUTBOX_BODY_RETENTION_DAYS={self.outbox_body_retention_days} must not be more than "
                f"OUTBOX_RETENTION_DAYS={self.outbox_retention_days}: a body goes with its mail at the latest"
            )
        if (self.outbox_dkim_key_file is None) is not (self.outbox_dkim_selector is None):
            raise ValueError(
                "OUTBOX_DKIM_KEY_FILE and OUTBOX_DKIM_SELECTOR go together, a key and where DNS has its other half: "
                "set both or neither"
            )
        if (self.outbox_event_webhook is None) is not (self.outbox_event_secret is None):
            raise ValueError("OUTBOX_EVENT_WEBHOOK and OUTBOX_EVENT_SECRET go together: set both or neither")
        if self.outbox_dkim_domain and self.outbox_dkim_key_file is None:
            raise ValueError("OUTBOX_DKIM_DOMAIN is set, and OUTBOX_DKIM_KEY_FILE is not: nothing would be signed")
        set_too = [name for name in _ONE_RELAY if name in self.model_fields_set and getattr(self, name)]
        if self.outbox_relays and set_too:
            named = ", ".join(" or ".join(self._names(name)) for name in set_too)
            raise ValueError(
                f"OUTBOX_RELAYS is set, and so is {named}: keep one. Move the relay, with its user and password, into "
                "OUTBOX_RELAYS, or unset that"
            )
        assert self.endpoints  # what OUTBOX_RELAYS says is read now
        return self

    @property
    def throttle_seconds(self) -> float:
        """The first pause of a relay, or of a domain at one, that wants mail to come more slowly."""
        return self.outbox_retry_base_seconds / 6

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The relays, in order of preference: those of `OUTBOX_RELAYS`, or the one that `SMTP_HOST` names."""
        rates = {"rate": self.outbox_relay_rate, "domain_rate": self.outbox_domain_rate}
        if self.outbox_relays:
            return parse_endpoints(self.outbox_relays.get_secret_value(), **rates)
        return (
            Endpoint(
                host=self.smtp_host,
                port=self.smtp_port or default_port(starttls=self.smtp_use_tls, tls=self.smtp_use_ssl),
                user=self.smtp_user,
                password=self.smtp_password,
                starttls=self.smtp_use_tls,
                tls=self.smtp_use_ssl,
                **rates,
            ),
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The usual, and before them the one setting whose emptiness says something."""
        assert isinstance(dotenv_settings, DotEnvSettingsSource)
        allow = _AllowList(
            settings_cls,
            EnvSettingsSource(settings_cls, env_ignore_empty=False),
            DotEnvSettingsSource(settings_cls, env_file=dotenv_settings.env_file, env_ignore_empty=False),
        )
        return init_settings, allow, env_settings, dotenv_settings, file_secret_settings

    @classmethod
    def load(cls, **values: Any) -> Self:
        """Read the environment; raise a `SettingsError` of one line for each thing that is wrong with it."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError("; ".join(cls._sentence(line) for line in error.errors())) from error

    @classmethod
    def _sentence(cls, error: Any) -> str:
        """One pydantic error as `NAME=value: problem`, without what is secret; a URL may hold a password, too."""
        problem = str(error["msg"]).removeprefix("Value error, ")
        if not error["loc"]:
            return problem
        name = str(error["loc"][0])
        # By the variable or, for what a validator of ours refuses, by the field.
        field = next(field for field in cls.model_fields if name in {field, *cls._names(field)})
        secret = "SecretStr" in str(cls.model_fields[field].annotation)
        value = "(hidden)" if secret else _IN_A_URL.sub("//***@", repr(error["input"]))
        return f"{' or '.join(cls._names(field))}={value}: {problem}"

    @classmethod
    def _names(cls, field: str) -> list[str]:
        """The variables that a field is read from."""
        alias = cls.model_fields[field].validation_alias
        return [str(name) for name in alias.choices] if isinstance(alias, AliasChoices) else [field.upper()]


def _usual_folder() -> str:
    """Where Flask keeps templates: beside an application of one file, or in the package `app`."""
    found = (folder for folder in ("templates/email", "app/templates/email") if Path(folder).is_dir())
    return next(found, "templates/email")


def _mailbox(name: str, value: str) -> Mailbox:
    try:
        return parse_mailbox(name, value)
    except InvalidAddress as error:
        raise ValueError(error.problem) from error


def _address_or_domain(entry: str) -> str:
    """`Ada@Example.com`, `example.com`, `@example.com` -> in lower case, a domain without its `@`."""
    domain = entry.removeprefix("@")
    try:
        return (_mailbox(entry, entry).address if "@" in domain else _mailbox(entry, f"x@{domain}").domain).lower()
    except ValueError as error:
        raise ValueError(
            f"{entry!r} is neither an address nor a domain ({error}); write ada@example.com, example.com, separated by "
            "commas; unset it to allow everybody"
        ) from error
