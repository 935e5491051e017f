"""Outbox, as it runs in production: its own start scripts, in a folder of their own, and the application's sessions."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask

import migrations
from app import create_app
from app.nudge import KEY, KEY_SECONDS, connect
from benchmarks import mails
from benchmarks.contenders.commands import PROCESSES, WARM_UP, main, ready
from benchmarks.environment import ROOT
from outbox.service import EmailService

Mail = dict[str, Any]
"""The arguments of `queue_email`."""

_NOT_LINKED = frozenset({".env", ".git", "var"})
"""What a run of the benchmarks must neither read nor write."""

_TRICKLE_BYTES = 2000
_PING_SECONDS = 0.3
_STOP_SECONDS = 20


def prepare() -> None:
    """Our own migrations."""
    migrations.upgrade(os.environ["DATABASE_URL"])


def fill(count: str, size: str) -> None:
    """In one transaction, which tells nobody."""
    with _application() as app, app.extensions["sessions"].begin() as session:
        EmailService(session, wake=lambda: None).queue_emails(_mails(0, int(count), int(size)))


def enqueue(count: str, size: str, way: str) -> dict[str, float]:
    """As the application does: after each commit it wakes the workers, once for however many commits.

    What the mails say is made before; but for the templated ones, where that is what is measured.
    """
    write = {"one": _one_by_one, "bulk": _bulk, "templated": _templated}[way]
    make = _recipients if way == "templated" else partial(_mails, size=int(size))
    warm_up, batch = list(make(int(count), WARM_UP)), list(make(0, int(count)))
    with _application() as app:
        write(app, warm_up)
        began = time.monotonic()
        write(app, batch)
        return {"seconds": time.monotonic() - began}


def trickle(count: str, pause: str) -> dict[str, list[float]]:
    """One mail after the other."""
    committed: list[float] = []
    with _application() as app:

        def wake() -> None:
            committed.append(time.monotonic())  # before the nudge, whose time is a part of what the mail takes
            app.extensions["nudge"]()

        for number in range(int(count)):
            mail = _mail(number, _TRICKLE_BYTES) | {"to": f"trickle-{number}@example.com"}
            with app.extensions["sessions"].begin() as session:
                EmailService(session, wake=wake).queue_email(**mail)
            time.sleep(float(pause))
    return {"committed": committed}


def work() -> None:
    """Worker processes and a beat; the first drain is asked for when all of them answer."""
    with connect(os.environ["REDIS_URL"]) as client:
        # As if a drain were on its way: beat's nudge, at its start, does not set off a worker that is up early.
        client.set(KEY, "1", ex=KEY_SECONDS)
    with _installation() as folder:
        scripts = ["start_celery_worker.sh"] * PROCESSES + ["start_celery_beat.sh"]
        processes = [subprocess.Popen([f"./{script}"], cwd=folder, env=_environment()) for script in scripts]
        try:
            with _application() as app:
                _wait_for_answers(app)
                ready()
                app.extensions["nudge"].clear()
                app.extensions["nudge"]()
            os.wait()  # none of them ends by itself
            raise SystemExit("a process has ended: its log says why")
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(_STOP_SECONDS)


def _wait_for_answers(app: Flask) -> None:
    """Of the workers and of beat: nobody else is at this Redis."""
    control = app.extensions["celery"].control
    while len(control.ping(timeout=_PING_SECONDS)) < PROCESSES + 1:
        pass


@contextmanager
def _installation() -> Iterator[Path]:
    """A folder with links to all that we are, and a `var` and settings of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for entry in ROOT.iterdir():
            if entry.name not in _NOT_LINKED:
                (Path(folder) / entry.name).symlink_to(entry)
        yield Path(folder)


@contextmanager
def _application() -> Iterator[Flask]:
    """The application, in an empty folder: no `.env` is read."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ.update(_settings())
        app = create_app(pages=False)
        try:
            yield app
        finally:
            app.extensions["engine"].dispose()
            os.chdir(ROOT)


def _environment() -> dict[str, str]:
    return dict(os.environ) | _settings()


def _settings() -> dict[str, str]:
    settings = {
        "SMTP_FROM_EMAIL": mails.sender,
        "OUTBOX_ENVIRONMENT": "benchmark",
        "OUTBOX_TEMPLATES": "benchmarks:templates/email",
    }
    if connections := os.environ.get("CONNECTIONS"):
        settings["CELERY_WORKER_CONCURRENCY"] = str(max(1, int(connections) // PROCESSES))
    return settings


def _one_by_one(app: Flask, batch: list[Mail]) -> None:
    sessions = app.extensions["sessions"]
    for mail in batch:
        with sessions() as session:
            EmailService(session).queue_email(**mail)
            session.commit()


def _bulk(app: Flask, batch: list[Mail]) -> None:
    with app.extensions["sessions"].begin() as session:
        EmailService(session).queue_emails(batch)


def _templated(app: Flask, batch: list[Mail]) -> None:
    """From a template whose style sheet is written into its elements, mail for mail."""
    with app.extensions["sessions"].begin() as session:
        EmailService(session).queue_emails(batch, template="order")


def _recipients(first: int, count: int) -> Iterator[Mail]:
    return ({"to": mails.recipient(number), "context": {"number": number}} for number in range(first, first + count))


def _mails(first: int, count: int, size: int) -> Iterator[Mail]:
    return (_mail(number, size) for number in range(first, first + count))


def _mail(number: int, size: int) -> Mail:
    return {
        "to": mails.recipient(number),
        "subject": mails.subject(number),
        "text": mails.text(number),
        "html": mails.html(number, size),
    }


if __name__ == "__main__":
    main(prepare=prepare, fill=fill, enqueue=enqueue, trickle=trickle, work=work)
