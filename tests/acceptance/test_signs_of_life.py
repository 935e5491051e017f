"""Worker and beat say that they live; who is missed is told of, by whoever is left."""

import signal
import socket
import sys

import pytest
import sqlalchemy as sa

from app.task_statistics import statistics
from outbox import heartbeats
from outbox.cli import main
from outbox.database import reading
from outbox.heartbeats import BEAT, WORKER, Sign
from outbox.models import EmailTrouble
from tests.receiving import receiver
from tests.system import Part, StartSystem, System, wait_until

_QUICK = """
from outbox import alerting, heartbeats
from workers import pulse
from celery.__main__ import main
heartbeats.EVERY_SECONDS, heartbeats.SILENT_AFTER = 0.25, 3.0
pulse.WATCH_LATE_SECONDS, alerting.ENDS_AFTER = 2.0, 0.5
main()
"""
"""Celery, with half minutes of a quarter of a second."""


def signs(system: System, kind: str) -> list[Sign]:
    with reading(system.engine) as connection:
        return [sign for sign in heartbeats.signs(connection, kind) if sign.seconds_ago < 1]


def start(system: System, name: str, arguments: list[str]) -> Part:
    return system.start(name, sys.executable, "-c", _QUICK, *arguments, HEARTBEAT_FILE=f"var/{name}")


def troubles(system: System) -> list[str]:
    with reading(system.engine) as connection:
        return list(connection.scalars(sa.select(EmailTrouble.key)))


def test_who_is_missed_is_told_of(
    start_system: StartSystem,
    postgresql_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(heartbeats, "SILENT_AFTER", 5.0)
    with receiver() as hook:
        system = start_system(postgresql_url, OUTBOX_ALERT_WEBHOOK=hook.url, OUTBOX_DRAIN_SECONDS="1")
        worker = start(system, "worker", system.worker_arguments())
        beat = start(system, "beat", system.beat_arguments())
        wait_until(lambda: signs(system, WORKER) and signs(system, BEAT), what="signs of life")
        wait_until(lambda: not troubles(system))  # whoever was up first may have missed the other
        hook.got.clear()

        _one_mail_is_followed(system, monkeypatch, capsys)
        (sign,) = signs(system, WORKER)
        assert sign.detail["queues"] == ["celery", "email.high", "email.low", "email.normal"]
        assert sign.detail["concurrency"] == 16
        wait_until(lambda: "outbox.send_emails" in statistics(signs(system, WORKER)))
        assert system.app.test_client().get("/readyz").json == {"database": "ok", "broker": "ok"}
        pinged = system.celery.control.inspect([f"celerybeat@{socket.gethostname()}"], timeout=5).ping()
        assert pinged == {f"celerybeat@{socket.gethostname()}": {"ok": "pong"}}
        assert hook.got == []

        beat.kill()
        told = hook.texts
        wait_until(lambda: told() and "beat has said nothing for" in told()[0], what="the worker misses beat")
        beat = start(system, "beat", system.beat_arguments())
        wait_until(lambda: len(told()) > 1, what="beat is back")
        assert told()[1].startswith("Over (development): beat ")
        wait_until(lambda: not troubles(system), what="that being written down: who is stopped before tells it twice")

        worker.send(signal.SIGSTOP)  # it hangs: what a probe should see, and beat
        file = system.folder / "var/worker"
        before = file.stat().st_mtime
        wait_until(lambda: any("no worker lives" in text for text in told()), what="beat misses the worker")
        assert file.stat().st_mtime == before
        worker.send(signal.SIGCONT)
        wait_until(lambda: sum("no worker lives" in text for text in told()) == 2, what="the worker is back")
        assert [text.partition(" ")[0] for text in told()] == ["Trouble", "Over"] * 2
        assert worker.stop() == 0
        assert (signs(system, WORKER), file.exists()) == ([], False)
        beat.stop()
        assert signs(system, BEAT) == []


def _one_mail_is_followed(system: System, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in system.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as left:
        main.main(["doctor", "--send-test", "ada@example.com"], prog_name="outbox")
    said = capsys.readouterr().out
    wrong = [line for line in said.splitlines() if line.startswith("WRONG")]
    assert (len(wrong), left.value.code) == (1, 1), said
    assert "with fsync off" in wrong[0], "as it is for tests"
    relay = f"{system.relay.host}:{system.relay.port}"
    steps = [line.split(maxsplit=2)[2] for line in said.splitlines() if " s  " in line]
    assert steps[0].startswith("queued as mail ")
    assert steps[-1].startswith(f"{relay} took it after ")
    assert "was sent at" in said
    assert system.received() == {"ada@example.com": 1}
