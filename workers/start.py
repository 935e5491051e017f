"""What the start scripts run: `python -m workers.start worker`, `beat` or `flower`, from the environment alone.

`.env` is put into the environment, which wins where both speak, since Flower and Celery read it from there. Wrong
settings have ended the process in one sentence when `workers` was imported.
"""

import os
import sys
from pathlib import Path

from celery import __main__ as celery
from dotenv import load_dotenv

from app.settings import AppSettings

BEAT_PID = Path("var/celerybeat.pid")
"""`stop_celery_beat.sh` reads it."""


def worker_arguments(settings: AppSettings) -> list[str]:
    """One process of many threads; run one process a core. The pid tells several on one machine apart."""
    return [
        "worker",
        f"--queues={','.join(settings.celery_worker_queues)}",
        f"--hostname=outbox-{os.getpid()}@%h",
        f"--loglevel={settings.log_level}",
        # Workers need not know of each other: the rows say who has what. It also saves a second at the start.
        "--without-gossip",
        "--without-mingle",
    ]


def beat_arguments(settings: AppSettings) -> list[str]:
    """One is enough; two are harmless."""
    return ["beat", f"--pidfile={BEAT_PID}", f"--loglevel={settings.log_level}"]


def _banner(settings: AppSettings) -> list[str]:
    """Celery's is for people: no line of JSON."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    return ["--quiet"] if as_json else []


def main(part: str) -> None:
    """Be the process that was asked for: signals reach it, and its pid is the one that was started.

    In place of this one, by `exec`, it would import all of the application a second time.
    """
    load_dotenv(".env")
    for name in [name for name, value in os.environ.items() if name.startswith("FLOWER_") and not value.strip()]:
        del os.environ[name]  # set to nothing is not set; Flower would take it for a number, or for true or false
    settings = AppSettings.load()
    arguments = {"worker": worker_arguments(settings), "beat": beat_arguments(settings), "flower": ["flower"]}[part]
    # The first is where a worker that is told to restart itself looks.
    sys.argv = [celery.__file__, *_banner(settings), "-A", "workers", *arguments]
    celery.main()


if __name__ == "__main__":
    main(sys.argv[1])
