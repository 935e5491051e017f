"""A whole system, as it runs in production: worker, beat and Flower as processes, an application that queues mail.

    def test_something(start_system: StartSystem, postgresql_url: str) -> None:
        system = start_system(postgresql_url, OUTBOX_DRAIN_SECONDS="1")
        worker, beat = system.worker(), system.beat()
        with system.sessions.begin() as session:
            system.emails(session).queue_email("ada@example.com", "Hello", text="...")
        system.wait_until_sent(1)
        assert system.received() == {"ada@example.com": 1}

Every process is ended with the test; what they said is shown if it fails.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app import create_app
from app.settings import AppSettings
from outbox.models import QueuedEmail
from outbox.service import EmailService
from tests.smtp_server import SmtpProcess, SmtpServer

CELERY = (sys.executable, "-m", "celery")

PATIENCE = 30.0
"""Seconds to wait for what should take one or two: a machine under load must not fail a test."""


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE, what: str = "") -> None:
    """Look 20 times a second until `condition` holds; AssertionError if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        time.sleep(0.05)


class Part:
    """One process of the system."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self._path = folder / f"{name}.log"
        with self._path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for pytest, which then ends us in its own order
            )

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._path.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, text: str, seconds: float = PATIENCE) -> None:
        """Until it has said `text`."""
        wait_until(lambda: text in self.log or not self.running, seconds, f"{self.name} saying {text!r}")
        assert text in self.log, f"{self.name} ended with {self.process.returncode} before it said {text!r}"

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        self.process.send_signal(number)

    def stop(self, seconds: float = PATIENCE) -> int:
        """SIGTERM, as a supervisor does; returns the exit status."""
        self.send(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL: no last word."""
        self.process.kill()
        self.process.wait(PATIENCE)


class System:
    """Starts parts against one database, one Redis and one SMTP server. `settings` are environment variables."""

    def __init__(self, folder: Path, relay: SmtpServer | SmtpProcess, settings: dict[str, str]) -> None:
        self.folder = folder
        self.relay = relay
        self.environment = {
            "SMTP_HOST": relay.host,
            "SMTP_PORT": str(relay.port),
            "SMTP_FROM_EMAIL": "shop@example.com",
            "PYTHONUNBUFFERED": "1",
            **settings,
        }
        self.app = create_app(AppSettings.load(**{name.lower(): value for name, value in self.environment.items()}))
        self.settings: AppSettings = self.app.extensions["settings"]
        self.engine: sa.Engine = self.app.extensions["engine"]
        self.sessions = self.app.extensions["sessions"]
        self.celery = self.app.extensions["celery"]
        self.parts: list[Part] = []
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        for part in self.parts:
            print(f"----- {part.name}, exit status {part.process.returncode}\n{part.log}")  # noqa: T201 - pytest shows it

    def close(self) -> None:
        """End what still runs."""
        for part in self.parts:
            if part.running:
                part.send(signal.SIGTERM)
        deadline = time.monotonic() + 10
        for part in self.parts:
            try:
                part.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                part.kill()
        self.engine.dispose()

    def start(self, name: str, *command: str, **settings: str) -> Part:
        """Any process, in the system's folder and environment, with `settings` beside."""
        part = Part(f"{name}-{self._started}", list(command), self.folder, self.environment | settings)
        self.parts.append(part)
        self._started += 1
        return part

    def worker(self, *arguments: str, **settings: str) -> Part:
        """A worker that is ready to take tasks."""
        part = self.start("worker", *CELERY, *self.worker_arguments(), *arguments, **settings)
        part.wait_for(" ready.")
        return part

    def worker_arguments(self) -> list[str]:
        """For Celery, to start one more worker."""
        quick = ("--without-mingle", "--without-gossip")  # a second less, as in start_celery_worker.sh
        return ["-A", "workers", "worker", f"--hostname=w{self._started}@%h", "--loglevel=INFO", *quick]

    def beat(self, **settings: str) -> Part:
        """A beat that has begun to tick; each has a schedule of its own."""
        part = self.start("beat", *CELERY, *self.beat_arguments(), **settings)
        part.wait_for("beat: Starting")
        return part

    def beat_arguments(self) -> list[str]:
        """For Celery, to start one more beat."""
        return ["-A", "workers", "beat", f"--schedule=beat-{self._started}", "--loglevel=INFO"]

    def emails(self, session: Session) -> EmailService:
        """The service with this system's settings."""
        return EmailService(session, self.settings)

    def queue(self, *recipients: str, priority: str = "normal") -> None:
        """One mail to each, in one transaction, as an application does it."""
        with self.sessions.begin() as session:
            for recipient in recipients:
                self.emails(session).queue_email(recipient, f"For {recipient}", text="Hello.", priority=priority)

    def statuses(self) -> Counter[str]:
        """How many rows stand where."""
        with self.sessions() as session:
            query = sa.select(QueuedEmail.status, sa.func.count()).group_by(QueuedEmail.status)
            return Counter(dict(session.execute(query).all()))

    def wait_until_sent(self, count: int, seconds: float = PATIENCE) -> None:
        """Until `count` rows, and no other, are there and all are sent."""
        wait_until(lambda: self.statuses() == {"sent": count}, seconds, f"{count} sent rows")

    def received(self) -> Counter[str]:
        """How many mails the SMTP server took for each recipient."""
        return Counter(mail.recipient for mail in self.relay.mails)


StartSystem = Callable[..., System]
"""The fixture `start_system`."""
