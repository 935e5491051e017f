"""A worker whose tasks are killed: `python -m tests.killed` with a JSON list of [task, arguments, time, after].

Each task runs at its time in a process of its own, which dies of SIGKILL as it is about to commit what it has written
for the `after`th time. The settings come from the environment. Exits 0 if all have died.
"""

import json
import os
import sys
from datetime import datetime
from signal import SIGKILL
from typing import Any

import sqlalchemy as sa
import time_machine

import workers
from app import mailings
from app.projects import cleanup

BATCH = 2
WRITES = ("INSERT INTO email_queue", "UPDATE tasks SET archived_at")


def main() -> None:
    mailings.BATCH = cleanup.BATCH = BATCH
    workers.celery.loader.import_default_modules()
    for name, arguments, moment, after in json.loads(sys.argv[1]):
        child = os.fork()
        if child == 0:
            _die(after)
            with time_machine.travel(datetime.fromisoformat(moment), tick=False):
                workers.celery.tasks[name].apply(kwargs=arguments, throw=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -SIGKILL:
            sys.exit(f"{name} was not killed: {status}")


def _die(after: int) -> None:
    engine = workers.flask_app.extensions["engine"]
    written = 0

    def see(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal written
        written += any(words in statement for words in WRITES)

    def die(_: sa.Connection) -> None:
        if written >= after:
            os.kill(os.getpid(), SIGKILL)

    sa.event.listen(engine, "before_cursor_execute", see)
    sa.event.listen(engine, "commit", die)


if __name__ == "__main__":
    main()
