"""`flask tasks`: what there is, when it runs, and running one by hand. In processes of their own, as people do."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import time_machine
from flask import Flask
from flask.testing import FlaskCliRunner

from app.queues import DRAIN, HEALTH_CHECK, PURGE, SEND_EMAILS, SEND_MONTHLY_REPORTS, WATCH
from app.settings import AppSettings
from tests.application import World
from workers.cli import in_words, next_run, tasks
from workers.schedule import beat_schedule

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cli(sqlite_world: World) -> FlaskCliRunner:
    import workers  # noqa: PLC0415 - reads settings: not from a .env

    celery = sqlite_world.app.extensions["celery"]
    celery.conf.update(include=workers.celery.conf.include, beat_schedule=beat_schedule(sqlite_world.settings))
    if "tasks" not in sqlite_world.app.cli.commands:
        sqlite_world.app.cli.add_command(tasks)
    return sqlite_world.app.test_cli_runner()


def test_the_list_has_all_tasks_and_the_next_runs(cli: FlaskCliRunner) -> None:
    result = cli.invoke(args=["tasks", "list", "--json"])
    listed = {line["task"]: line for line in json.loads(result.stdout)}
    assert {DRAIN, SEND_EMAILS, PURGE, WATCH, HEALTH_CHECK} <= listed.keys()
    assert not [name for name in listed if name.startswith("celery.")]
    assert listed[DRAIN] == {"task": DRAIN, "schedule": "every 1 min", "every_seconds": 60, "next_run": None}
    assert listed[SEND_EMAILS]["schedule"] is None
    assert listed[PURGE]["schedule"] == "daily at 03:00"
    assert datetime.fromisoformat(listed[PURGE]["next_run"]) > datetime.now(UTC)
    shown = cli.invoke(args=["tasks", "list"]).stdout
    assert "Next run (UTC)" in shown
    assert "on demand" in shown


def test_schedules_in_words(sqlite_world: World) -> None:
    made = beat_schedule(sqlite_world.settings)
    words = {in_words(entry["schedule"]) for entry in made.values() if not isinstance(entry["schedule"], float)}
    assert words == {
        "hourly", "daily at 02:00", "daily at 03:00", "daily at 07:00", "daily at 08:00", "daily at 09:00",
        "daily at 18:00", "Mondays at 10:00", "Sundays at 02:00", "monthly on day 1 and 2 at 09:00",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("now", "then"),
    [
        (datetime(2026, 3, 28, 12, tzinfo=UTC), "2026-03-29T03:00:00+02:00"),  # 02:00 is left out
        (datetime(2026, 10, 24, 12, tzinfo=UTC), "2026-10-25T02:00:00+02:00"),  # the first of two
        (datetime(2026, 11, 22, 1, 0, 30, tzinfo=UTC), "2026-11-23T02:00:00+01:00"),
    ],
)
def test_the_next_run_where_the_clocks_change(sqlite_world: World, now: datetime, then: str) -> None:
    celery = sqlite_world.app.extensions["celery"]
    celery.conf.timezone = "Europe/Berlin"
    del celery.timezone  # it was asked for before
    schedule = beat_schedule(AppSettings.load(file_cleanup_hour=2))["workers.cleanup_files"]["schedule"]
    with time_machine.travel(now, tick=False):
        assert next_run(schedule, celery, now).isoformat() == then


def test_a_task_is_run_and_its_result_printed(cli: FlaskCliRunner) -> None:
    for name in ("purge", PURGE):
        result = cli.invoke(args=["tasks", "run", name])
        assert result.exit_code == 0
        purged = dict.fromkeys(("mails", "bodies", "files", "bytes", "lines", "dead_tasks"), 0)
        assert json.loads(result.stdout) == purged


def test_arguments_are_json_or_text(cli: FlaskCliRunner, sqlite_world: World) -> None:
    @sqlite_world.app.extensions["celery"].task(name="workers.echo", shared=False)  # type: ignore[untyped-decorator]
    def echo(*, number: int, words: str = "") -> list[object]:
        return [number, words]

    result = cli.invoke(args=["tasks", "run", "echo", "--arg", "number=42", "--arg", "words=a=b c"])
    assert json.loads(result.stdout) == [42, "a=b c"]


def test_what_cannot_be_run_is_said(cli: FlaskCliRunner) -> None:
    for arguments, said in (
        (["purges"], "there is no task 'purges'; there are outbox.drain, outbox.publish_events, outbox.purge,"),
        (
            ["purge", "--arg", "days=7"],
            "outbox.purge: got an unexpected keyword argument 'days'; it takes no arguments",
        ),
        (["send_emails"], "missing a required argument: 'ids'; it takes ids: list[int], token: str"),
        (["purge", "--arg", "days"], "--arg 'days': give a name and a value"),
    ):
        result = cli.invoke(args=["tasks", "run", *arguments])
        assert result.exit_code == 2
        assert said in result.stderr


def test_a_task_that_fails_says_why_in_one_sentence(cli: FlaskCliRunner, sqlite_world: World) -> None:
    @sqlite_world.app.extensions["celery"].task(name="workers.break_down", shared=False)  # type: ignore[untyped-decorator]
    def break_down() -> None:
        raise ValueError("there is\nno such thing")

    short = cli.invoke(args=["tasks", "run", "break_down"])
    assert short.exit_code == 1
    assert short.stderr == "Error: workers.break_down failed: ValueError: there is no such thing\n"
    full = cli.invoke(args=["tasks", "run", "break_down", "--traceback"])
    assert "Traceback (most recent call last)" in full.stderr
    assert full.stderr.endswith(short.stderr)


def test_flask_finds_the_commands_by_itself(sqlite_url: str) -> None:
    environment = os.environ | {"DATABASE_URL": sqlite_url, "CELERY_TIMEZONE": "Asia/Kolkata"}
    asked = [sys.executable, "-m", "flask", "tasks", "list"]
    done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert "Next run (Asia/Kolkata)" in done.stdout
    assert SEND_MONTHLY_REPORTS in done.stdout or DRAIN in done.stdout


def test_the_application_alone_knows_no_tasks() -> None:
    assert "tasks" not in Flask(__name__).cli.commands
