"""Flower's settings: it reads this file by itself (`celery -A workers flower`), after the environment's `FLOWER_*`.

Flower shows what workers do, and can stop them. So it stays on this machine, asks who comes even there (any user of the
machine can reach it, and so can a web page whose name is made to point here), and only shows, unless told otherwise.
Arguments, and who is named in what went wrong, are left out at their source: `app.redaction`, `workers.requests`.
"""

import os

from celery.events.state import Task
from flower.api.tasks import TaskResult
from flower.views.monitor import Healthcheck, Metrics
from tornado.options import options
from tornado.web import authenticated

from app.masking import Mask


def _logins(entries: list[str]) -> list[str]:
    """The entries that say something. An empty one would let in whoever sends an empty login."""
    logins = [entry.strip() for entry in entries if entry.strip()]
    for login in logins:
        user, _, password = login.partition(":")
        if not (user and password):
            raise SystemExit(  # without the entry: it may be a password
                "FLOWER_BASIC_AUTH has an entry that is not user:password: use user:password, several of them "
                "separated by commas (a password can have none), or leave it empty."
            )
    return logins


# Flower takes these from here.
address = options.address or "127.0.0.1"
basic_auth = _logins(options.basic_auth or [])
read_only = options.read_only if "FLOWER_READ_ONLY" in os.environ else True
# A drain reads "250 mails in 3 chunks: 50 high, 200 normal", and each chunk "(100 ids, …)", "98 sent, 2 pending".
tasks_columns = "name,state,args,result,received,runtime,routing_key,worker,uuid"
# A worker is named after its process: each restart would leave one behind.
purge_offline_workers = options.purge_offline_workers or 3600


def format_task(task: Task) -> Task:
    """What came of it in one column: what it said, or what went wrong."""
    said = task.result if task.result is not None else task.exception
    task.result = said.strip("'") if isinstance(said, str) else said
    return task


if not (basic_auth or options.auth):
    raise SystemExit("Flower asks everybody for a password, and has none: set FLOWER_BASIC_AUTH=user:password.")

# Flower leaves these two open where everything else asks for the password.
Metrics.get = authenticated(Metrics.get)
Healthcheck.get = authenticated(Healthcheck.get)

# This one reads what a task returned, or raised, from where workers keep it, rather than from their events.
_mask = Mask()
_respond = TaskResult.update_response_result


def _respond_masked(self: TaskResult, response: dict[str, object], result: object) -> None:
    _respond(self, response, result)
    response.update(_mask(response, keep="\n"))


TaskResult.update_response_result = _respond_masked
