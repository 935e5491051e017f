"""Settings come from the environment, then `.env`; what is wrong with them is said in a sentence."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices, SecretStr

from app.settings import AppSettings
from outbox.errors import SettingsError
from outbox.settings import Settings
from outbox.states import OnUncertain

_EXAMPLE = Path(__file__).parents[2] / ".env.example"


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.load()
    assert settings.database_url == "sqlite:///var/outbox.db"
    assert settings.endpoints[0].name == "localhost:25"
    assert settings.smtp_from_email is None
    assert settings.outbox_drain_seconds == 60
    assert settings.outbox_max_attempts == 5
    assert settings.outbox_retry_base_seconds == 60
    assert settings.outbox_retry_max_seconds == 3600
    assert settings.outbox_on_uncertain is OnUncertain.RETRY


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("SMTP_HOST", "mx", "smtp_host", "mx"),
        ("MAIL_SERVER", "mx", "smtp_host", "mx"),
        ("SMTP_PORT", "2525", "smtp_port", 2525),
        ("MAIL_PORT", "2525", "smtp_port", 2525),
        ("SMTP_PASSWORD", "secret", "smtp_password", SecretStr("secret")),
        ("MAIL_PASSWORD", "secret", "smtp_password", SecretStr("secret")),
        ("SMTP_FROM_EMAIL", "Ada <ada@example.com>", "smtp_from_email", "Ada <ada@example.com>"),
        ("MAIL_DEFAULT_SENDER", "ada@example.com", "smtp_from_email", "ada@example.com"),
        ("SMTP_USE_TLS", "1", "smtp_use_tls", True),
        ("MAIL_USE_TLS", "true", "smtp_use_tls", True),
        ("SMTP_USE_SSL", "1", "smtp_use_ssl", True),
        ("MAIL_USE_SSL", "on", "smtp_use_ssl", True),
        ("SMTP_CA_FILE", "ca.pem", "smtp_ca_file", "ca.pem"),
        ("SMTP_PORT", "", "smtp_port", None),
        ("OUTBOX_ON_UNCERTAIN", "hold", "outbox_on_uncertain", OnUncertain.HOLD),
        ("OUTBOX_RETRY_BASE_SECONDS", "0.5", "outbox_retry_base_seconds", 0.5),
    ],
)
def test_a_variable_is_read(monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, expected: Any) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(Settings.load(), field) == expected


@pytest.mark.parametrize(("user", "password"), [("SMTP_USER", "SMTP_PASSWORD"), ("MAIL_USERNAME", "MAIL_PASSWORD")])
def test_a_user_has_a_password(monkeypatch: pytest.MonkeyPatch, user: str, password: str) -> None:
    monkeypatch.setenv(user, "ada")
    monkeypatch.setenv(password, "secret")
    assert Settings.load().smtp_user == "ada"


def test_our_spelling_wins_over_flasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_SERVER", "theirs")
    monkeypatch.setenv("SMTP_HOST", "ours")
    assert Settings.load().smtp_host == "ours"


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("SMTP_HOST=file\nSMTP_PORT=2525\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("SMTP_HOST", "environment")
    assert Settings.load().endpoints[0].name == "environment:2525"


@pytest.mark.parametrize(
    ("kind", "port"), [({}, 25), ({"smtp_use_tls": True}, 587), ({"smtp_use_ssl": True}, 465), ({"smtp_port": 26}, 26)]
)
def test_the_port_goes_with_the_kind_of_tls(kind: dict[str, Any], port: int) -> None:
    assert Settings.load(**kind).endpoints[0].port == port


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (
            {"SMTP_USE_TLS": "1", "SMTP_USE_SSL": "1"},
            (
                "SMTP_USE_TLS (STARTTLS, port 587) and SMTP_USE_SSL (TLS from the start, port 465) exclude each other: "
                "keep one"
            ),
        ),
        ({"SMTP_USER": "ada"}, "SMTP_USER is set and SMTP_PASSWORD is not: set both or neither"),
        (
            {"OUTBOX_LEASE_SECONDS": "600"},
            (
                "OUTBOX_LEASE_SECONDS=600 must be longer than SMTP_DOT_TIMEOUT=600: "
                "a lease outlives the longest wait for the relay"
            ),
        ),
        (
            {"SMTP_FROM_EMAIL": "nobody"},
            "SMTP_FROM_EMAIL or MAIL_DEFAULT_SENDER='nobody': An email address must have an @-sign.",
        ),
        ({"MAIL_PORT": "0"}, "SMTP_PORT or MAIL_PORT='0': Input should be greater than 0"),
        ({"SMTP_PORT": "65536"}, "SMTP_PORT or MAIL_PORT='65536': Input should be less than 65536"),
        ({"OUTBOX_ON_UNCERTAIN": "maybe"}, "OUTBOX_ON_UNCERTAIN='maybe': Input should be 'retry' or 'hold'"),
        ({"OUTBOX_DRAIN_SECONDS": "inf"}, "OUTBOX_DRAIN_SECONDS='inf': Input should be a finite number"),
        (
            {"OUTBOX_CHUNK": "0", "OUTBOX_IN_FLIGHT": "-1"},
            "OUTBOX_CHUNK='0': Input should be greater than 0; OUTBOX_IN_FLIGHT='-1': Input should be greater than 0",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], sentence: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        Settings.load()
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    "field", [name for name, field in Settings.model_fields.items() if field.annotation in {int, float}]
)
def test_a_figure_is_above_zero(field: str) -> None:
    with pytest.raises(SettingsError, match=f"^{field.upper()}=0: "):
        Settings.load(**{field: 0})


def test_no_password_in_any_message(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SMTP_USER": "ada",
        "SMTP_PASSWORD": "swordfish",
        "SMTP_PORT": "x",
        "REDIS_URL": "http://:swordfish@redis/0",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        AppSettings.load()
    assert "REDIS_URL='http://***@redis/0'" in str(refused.value)
    assert "swordfish" not in f"{refused.value}{refused.value.__cause__}"

    monkeypatch.delenv("SMTP_PORT")
    monkeypatch.delenv("REDIS_URL")
    assert "swordfish" not in repr(Settings.load())


def test_the_example_lists_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    text = _EXAMPLE.read_text()
    lines = dict(re.findall(r"^#([A-Z_]+)=(.*)$", text, re.MULTILINE))
    flowers_own = {"FLOWER_ADDRESS", "FLOWER_BASIC_AUTH", "FLOWER_PORT", "FLOWER_READ_ONLY"}
    assert set(lines) - flowers_own == {name.upper() for name in AppSettings.model_fields}
    for field in AppSettings.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            assert all(str(spelling) in text for spelling in field.validation_alias.choices)

    defaults = AppSettings.load()
    assert lines.pop("OUTBOX_ALLOW_RECIPIENTS"), "empty, as the default would have to be written, allows nobody"
    for name, value in lines.items():
        monkeypatch.setenv(name, value)
    assert AppSettings.load() == defaults
