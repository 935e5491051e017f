"""`flask tasks list` and `flask tasks run NAME`: the Celery tasks, looked at and run by hand."""

import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from celery import Celery, Task
from celery.schedules import crontab, maybe_schedule
from flask import current_app
from flask.cli import AppGroup

from outbox.cli.terminal import cell, json_option, put, put_json, table
from outbox.printable import safe
from outbox.times import distance, duration

_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
"""As crontab numbers them."""

tasks = AppGroup("tasks", help="Look at the Celery tasks, or run one here.")


@tasks.command("list", short_help="Show every task, when it runs, and when next.")
@json_option
def list_(*, as_json: bool) -> None:
    """Show every task with its schedule and its next run, by CELERY_TIMEZONE. On demand: when it is asked for."""
    celery = current_app.extensions["celery"]
    now = datetime.now(UTC)
    found = [_describe(celery, name, now) for name in _names(celery)]
    found.sort(key=lambda line: (line["schedule"] is None, line["next_run"] is None, line["next_run"] or line["task"]))
    if as_json:
        put_json([line | {"next_run": line["next_run"] and line["next_run"].isoformat()} for line in found])
        return
    made = table("Task", "Schedule", f"Next run ({celery.conf.timezone})", "", cut=("Schedule",))
    for line in found:
        made.add_row(
            cell(line["task"]),
            cell(line["schedule"] or "on demand", "" if line["schedule"] else "dim"),
            *_next_cells(line, now),
        )
    put(made)


@tasks.command("run", short_help="Run a task in this process and print its result.")
@click.argument("name")
@click.option("--arg", "arguments", metavar="NAME=VALUE", multiple=True, help="An argument; as often as needed.")
@click.option("--traceback", is_flag=True, help="If the task fails, show where.")
@click.pass_context
def run(ctx: click.Context, name: str, arguments: Sequence[str], *, traceback: bool) -> None:
    """Run a task in this process, now, and print its result as JSON.

    NAME may be said without what stands before its dot. A VALUE that is JSON is taken as such (42, true, [1,2],
    "42"), anything else as text.

    Exit status: 0 done; 1 the task failed; 2 no such task, or not its arguments.
    """
    task = _task(current_app.extensions["celery"], name)
    keywords = dict(_argument(argument) for argument in arguments)
    _check_arguments(task, keywords)
    # Celery logs the trace of what fails, to a reader who has a sentence of ours.
    logging.getLogger("celery.app.trace").setLevel(logging.CRITICAL)
    result = task.apply(kwargs=keywords)
    if result.successful():
        put_json(result.result)
        return
    if traceback and result.traceback:
        click.echo(safe(result.traceback, keep="\n"), err=True)
    error = result.result
    said = " ".join(str(error).split())
    click.echo(safe(f"Error: {task.name} failed: {type(error).__name__}{f': {said}' if said else ''}"), err=True)
    ctx.exit(1)


def _names(celery: Celery) -> list[str]:
    celery.loader.import_default_modules()
    return sorted(name for name in celery.tasks if not name.startswith("celery."))


def _describe(celery: Celery, name: str, now: datetime) -> dict[str, Any]:
    """`every_seconds` rather than `next_run`, if it runs at an interval: that counts from a run only beat knows of."""
    entry = celery.conf.beat_schedule.get(name)
    line = {"task": name, "schedule": None, "every_seconds": None, "next_run": None}
    if entry is None:
        return line
    schedule = maybe_schedule(entry["schedule"], app=celery)
    if not isinstance(schedule, crontab):
        seconds = schedule.run_every.total_seconds()
        return line | {"schedule": f"every {duration(seconds)}", "every_seconds": seconds}
    return line | {"schedule": in_words(schedule), "next_run": next_run(schedule, celery, now)}


def next_run(schedule: crontab, celery: Celery, now: datetime) -> datetime:
    """When it runs next, in `CELERY_TIMEZONE`."""
    local = now.astimezone(celery.timezone)
    asked = crontab(
        minute=schedule._orig_minute,  # noqa: SLF001 - as it was given; its public fields are sets, which it takes, too
        hour=schedule._orig_hour,  # noqa: SLF001
        day_of_week=schedule._orig_day_of_week,  # noqa: SLF001
        day_of_month=schedule._orig_day_of_month,  # noqa: SLF001
        nowfun=lambda: local,
        app=celery,
    )
    due: datetime = now + asked.remaining_estimate(local)
    # It is estimated from the time of day, to the microsecond; what runs, runs on the minute.
    return (due + timedelta(seconds=30)).replace(second=0, microsecond=0).astimezone(celery.timezone)


def in_words(schedule: crontab) -> str:
    """`daily at 18:00`, `Mondays at 10:00`, `hourly`: the kinds that our schedule has."""
    if len(schedule.hour) > 1:
        return "hourly"
    at = f"at {min(schedule.hour):02}:{min(schedule.minute):02}"
    if len(schedule.day_of_week) < len(_DAYS):
        return f"{', '.join(f'{_DAYS[day]}s' for day in sorted(schedule.day_of_week))} {at}"
    if len(schedule.day_of_month) < 31:  # noqa: PLR2004 - days of a month
        return f"monthly on day {' and '.join(map(str, sorted(schedule.day_of_month)))} {at}"
    return f"daily {at}"


def _next_cells(line: Mapping[str, Any], now: datetime) -> Sequence[Any]:
    if line["next_run"] is not None:
        return cell(f"{line['next_run']:%a %d %b %H:%M}"), cell(distance(line["next_run"], now), "dim")
    return cell(""), cell("")


def _task(celery: Celery, name: str) -> Task:
    names = _names(celery)
    meant = [full for full in names if name in {full, full.rpartition(".")[2]}]
    if len(meant) != 1:
        raise click.UsageError(safe(f"there is no task {name!r}; there are {', '.join(names)}"))
    return celery.tasks[meant[0]]


def _argument(argument: str) -> tuple[str, Any]:
    name, equals, value = argument.partition("=")
    if not (name and equals):
        raise click.UsageError(safe(f"--arg {argument!r}: give a name and a value, as in --arg task_id=42"))
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _check_arguments(task: Task, keywords: Mapping[str, Any]) -> None:
    signature = inspect.signature(task.run)
    try:
        signature.bind(**keywords)
    except TypeError as error:
        takes = ", ".join(str(parameter) for parameter in signature.parameters.values()) or "no arguments"
        raise click.UsageError(safe(f"{task.name}: {error}; it takes {takes}")) from error
