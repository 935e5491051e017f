"""The application's settings: what they take over, and what they refuse."""

import pytest

from app.queues import DRAIN, QUEUES, REAP
from app.settings import AppSettings
from outbox.errors import SettingsError


def test_celery_uses_redis_unless_told() -> None:
    settings = AppSettings.load(redis_url="redis://r/1", celery_result_backend="redis://results/2")
    assert settings.celery_broker_url == "redis://r/1"
    assert settings.celery_result_backend == "redis://results/2"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("rediss://r/1", "rediss://r/1?ssl_cert_reqs=required"),
        ("rediss://r/1?ssl_ca_certs=/ca", "rediss://r/1?ssl_ca_certs=/ca&ssl_cert_reqs=required"),
        ("rediss://r/1?ssl_cert_reqs=none", "rediss://r/1?ssl_cert_reqs=none"),
    ],
)
def test_tls_is_verified_unless_told(given: str, used: str) -> None:
    assert AppSettings.load(redis_url=given).celery_broker_url == used


def test_a_worker_takes_all_queues_or_those_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AppSettings.load().celery_worker_queues == QUEUES
    monkeypatch.setenv("CELERY_WORKER_QUEUES", "email.high, celery")
    assert AppSettings.load().celery_worker_queues == ("email.high", "celery")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CELERY_WORKER_QUEUES", "emial.high", "use one or more of celery, email.high, email.normal, email.low"),
        ("CELERY_WORKER_QUEUES", " , ", "use one or more of"),
        ("CELERY_WORKER_CONCURRENCY", "0", "greater than 0"),
        ("CELERY_TIMEZONE", "Mars/Olympus", "there is no such time zone"),
        ("REDIS_URL", "localhost:6379", "begins with redis://"),
    ],
)
def test_nonsense_is_refused_by_name(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said) as refusal:
        AppSettings.load()
    assert f"{name}={value!r}" in str(refusal.value)


@pytest.mark.parametrize("period", [1.0, 60.0])
def test_beat_drops_an_entry_before_its_successor_comes(period: float) -> None:
    from workers.schedule import beat_schedule  # noqa: PLC0415 - importing `workers` reads settings: not from a .env

    schedule = beat_schedule(AppSettings.load(outbox_drain_seconds=period))
    for entry in (schedule[DRAIN], schedule[REAP]):
        assert period * 0.5 < entry["options"]["expires"] < entry["schedule"] == period
