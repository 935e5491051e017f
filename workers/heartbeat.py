"""What a worker and beat have to say with their signs of life, and what they do with them: see `pulse`."""

import os
import socket
import time
from collections.abc import Callable
from typing import Any

from celery.worker import state
from flask import Flask

from outbox import disks, heartbeats
from outbox.journal import Journal
from workers.pulse import Process, Pulse
from workers.tally import Tally

TURN_SECONDS = 10.0
"""Between two looks of a worker's main loop at its own watch."""


class Turns:
    """When a main loop last turned."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def __call__(self) -> None:
        """It turns."""
        self._at = time.monotonic()

    def ago(self) -> float:
        """Seconds since."""
        return time.monotonic() - self._at


def of_worker(flask_app: Flask, consumer: Any, tally: Tally) -> Pulse:
    """The pulse of the worker whose consumer this is."""
    turns = Turns()
    consumer.timer.call_repeatedly(TURN_SECONDS, turns)

    def turned_ago() -> float:
        if consumer.connection is None:  # the broker is away, and the loop waits for it: it does what it should
            turns()
        return turns.ago()

    def detail() -> dict[str, Any]:
        return _of_this_host(flask_app) | {
            "queues": sorted(consumer.app.amqp.queues.consume_from),
            "concurrency": consumer.controller.concurrency,
            "active": len(state.active_requests),
            "tasks": tally.counts(),
        }

    process = Process(heartbeats.WORKER, flask_app.extensions["worker"], turned_ago, detail)
    return _pulse(flask_app, process)


def of_beat(flask_app: Flask, turned_ago: Callable[[], float]) -> Pulse:
    """The pulse of the beat whose scheduler last ticked `turned_ago()` seconds ago."""
    name = f"beat@{socket.gethostname()}"

    def detail() -> dict[str, Any]:
        return _of_this_host(flask_app) | {"ticked_seconds_ago": round(turned_ago(), 1)}

    return _pulse(flask_app, Process(heartbeats.BEAT, name, turned_ago, detail))


def _pulse(flask_app: Flask, process: Process) -> Pulse:
    parts = flask_app.extensions
    return Pulse(
        parts["engine"], process, parts["settings"].heartbeat_file, parts["watch"].relieve, parts["watch"].alert
    )


def _of_this_host(flask_app: Flask) -> dict[str, Any]:
    settings = flask_app.extensions["settings"]
    full = [disk for disk in disks.look([*disks.written_to(settings), settings.files_dir]) if disk.nearly_full]
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "journal": Journal(settings.outbox_journal).exists,
        "disk": "; ".join(map(str, full)),
    }
