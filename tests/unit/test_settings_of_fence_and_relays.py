"""Who may be written to, and through which relays: settings of which a misreading sends mail to the wrong people."""

from pathlib import Path
from typing import Any

import pytest
from limits import parse
from pydantic import SecretStr

from app.settings import AppSettings
from outbox.endpoints import Endpoint
from outbox.errors import SettingsError
from outbox.settings import Settings

ALLOW = "OUTBOX_ALLOW_RECIPIENTS"
EVERY_WAY = pytest.mark.parametrize(
    "read", [Settings, Settings.load, AppSettings, AppSettings.load], ids=["made", "loaded", "app-made", "app-loaded"]
)
EMPTY = pytest.mark.parametrize("empty", ["", " ", ",", " , "])


@EVERY_WAY
def test_unset_allows_everybody(read: Any) -> None:
    assert read().outbox_allow_recipients is None


@EVERY_WAY
@EMPTY
def test_set_and_empty_allows_nobody(read: Any, empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW, empty)
    assert read().outbox_allow_recipients == ()


@EVERY_WAY
@EMPTY
def test_empty_in_the_file_allows_nobody(read: Any, empty: str) -> None:
    Path(".env").write_text(f"SMTP_HOST=mx\n{ALLOW}={empty}\n")
    assert read().outbox_allow_recipients == ()
    assert read().smtp_host == "mx"


@EVERY_WAY
def test_a_name_without_a_value_in_the_file_allows_nobody(read: Any) -> None:
    Path(".env").write_text(f"{ALLOW}\n")
    assert read().outbox_allow_recipients == ()


@EVERY_WAY
def test_the_environment_wins_even_when_it_is_empty(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text(f"{ALLOW}=example.com\n")
    assert read().outbox_allow_recipients == ("example.com",)
    monkeypatch.setenv(ALLOW.lower(), "")
    assert read().outbox_allow_recipients == ()
    monkeypatch.setenv(ALLOW.lower(), "example.org")
    Path(".env").write_text(f"{ALLOW}=\n")
    assert read().outbox_allow_recipients == ("example.org",)


@EVERY_WAY
def test_another_file_is_read_or_none(read: Any) -> None:
    Path(".env").write_text(f"{ALLOW}=\n")
    Path("other.env").write_text(f"{ALLOW}=example.com\n")
    assert read(_env_file="other.env").outbox_allow_recipients == ("example.com",)
    assert read(_env_file=None).outbox_allow_recipients is None


@EVERY_WAY
@pytest.mark.parametrize(
    ("given", "held"), [("", ()), ((), ()), ([], ()), (None, None), (("a.example",), ("a.example",))]
)
def test_what_is_passed_wins(read: Any, given: Any, held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW, "example.com")
    assert read(outbox_allow_recipients=given).outbox_allow_recipients == held


def test_other_settings_that_are_empty_are_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SMTP_HOST", "OUTBOX_RELAYS", "OUTBOX_RELAY_RATE", "OUTBOX_REDIRECT_TO", "OUTBOX_ENVIRONMENT"):
        monkeypatch.setenv(name, "")
    assert Settings.load() == Settings.load(_env_file=None, outbox_allow_recipients=None)
    assert Settings.load().outbox_environment == "development"


def test_addresses_and_domains_are_compared_in_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW, "Ada@Example.com, @Example.ORG,example.net ,bücher.example")
    assert Settings.load().outbox_allow_recipients == (
        "ada@example.com", "example.org", "example.net", "xn--bcher-kva.example",
    )  # fmt: skip


@pytest.mark.parametrize("entry", ["*", "*.example.com", "ada@", "a b", "@", "ada@x@y", "Ada <ada@example.com>;x"])
def test_who_cannot_be_allowed(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW, f"example.com,{entry}")
    with pytest.raises(SettingsError, match=f"^{ALLOW}=.*is neither an address nor a domain") as refused:
        Settings.load()
    assert repr(entry) in str(refused.value)


def test_the_redirect_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_REDIRECT_TO", "Test <qa@Example.com>")
    assert Settings.load().outbox_redirect_to == "qa@example.com"
    monkeypatch.setenv("OUTBOX_REDIRECT_TO", "qa")
    with pytest.raises(SettingsError, match=r"^OUTBOX_REDIRECT_TO='qa': An email address must have an @-sign"):
        Settings.load()


def test_the_environment_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_ENVIRONMENT", " staging ")
    assert Settings.load().outbox_environment == "staging"
    for name in (" ", "a\nb"):
        monkeypatch.setenv("OUTBOX_ENVIRONMENT", name)
        with pytest.raises(SettingsError, match=r"^OUTBOX_ENVIRONMENT="):
            Settings.load()


@pytest.mark.parametrize("name", ["OUTBOX_RELAY_RATE", "OUTBOX_DOMAIN_RATE"])
def test_a_rate_is_checked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "14/second")
    assert getattr(Settings.load(), name.lower()) == parse("14/second")
    monkeypatch.setenv(name, "14")
    with pytest.raises(SettingsError, match=f"^{name}='14': a rate is one number of mails"):
        Settings.load()


def test_one_relay_is_the_only_endpoint() -> None:
    settings = Settings.load(
        smtp_host="mx", smtp_user="ada", smtp_password="pw", smtp_use_tls=True, outbox_relay_rate="1/hour",
        outbox_domain_rate="2/hour",
    )  # fmt: skip
    assert settings.endpoints == (
        Endpoint("mx", 587, "ada", SecretStr("pw"), starttls=True, rate=parse("1/hour"), domain_rate=parse("2/hour")),
    )


def test_several_relays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_RELAYS", "smtp://a smtps://ada:pw@b?rate=5/minute")
    monkeypatch.setenv("OUTBOX_RELAY_RATE", "1/hour")
    monkeypatch.setenv("SMTP_USE_TLS", "false")
    assert Settings.load().endpoints == (
        Endpoint("a", 25, rate=parse("1/hour")),
        Endpoint("b", 465, "ada", SecretStr("pw"), tls=True, rate=parse("5/minute")),
    )


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("SMTP_HOST", "localhost", "SMTP_HOST or MAIL_SERVER"),
        ("MAIL_SERVER", "mx", "SMTP_HOST or MAIL_SERVER"),
        ("MAIL_PORT", "25", "SMTP_PORT or MAIL_PORT"),
        ("SMTP_PASSWORD", "S3CRET", "SMTP_PASSWORD or MAIL_PASSWORD"),
        ("MAIL_USE_TLS", "1", "SMTP_USE_TLS or MAIL_USE_TLS"),
    ],
)
def test_two_ways_to_name_the_relay_are_one_too_many(
    name: str, value: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTBOX_RELAYS", "smtp://ada:S3CRET@a")
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        Settings.load()
    assert str(refused.value).startswith(f"OUTBOX_RELAYS is set, and so is {named}: keep one.")
    assert "S3CRET" not in str(refused.value)


def test_a_relay_that_is_none_is_an_error_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_RELAYS", "smtp://ada:S3CRET@a:b")
    with pytest.raises(SettingsError, match=r"^OUTBOX_RELAYS: smtp://\*\*\*@a:b: a relay is written") as refused:
        Settings.load()
    assert "S3CRET" not in f"{refused.value}{refused.value.__cause__!r}"
    monkeypatch.setenv("OUTBOX_RELAYS", "smtp://ada:S3CRET@a")
    assert "S3CRET" not in f"{Settings.load()!r}{Settings.load().endpoints!r}"


def test_no_relay_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_RELAYS", " , ")
    with pytest.raises(SettingsError, match=r"^OUTBOX_RELAYS: "):
        Settings.load()


@pytest.mark.parametrize("update", [{"smtp_host": "b"}, {"outbox_relays": SecretStr("smtp://b")}])
def test_a_copy_with_another_relay_has_another_endpoint(update: dict[str, Any]) -> None:
    assert Settings.load().model_copy(update=update).endpoints[0].host == "b"
