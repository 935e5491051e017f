"""`flask dead`: the Celery tasks that failed for good, read, sent once more and deleted."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import sqlalchemy as sa
from flask import current_app
from flask.cli import AppGroup
from rich.text import Text

from app import dead_tasks
from app.dead_tasks import DeadTask
from outbox.auditing import record
from outbox.cli.surroundings import explain, who
from outbox.cli.terminal import RemarkTable, cell, count, facts, json_option, put, put_json
from outbox.errors import NotPossible
from outbox.printable import safe, safe_lines
from outbox.times import clock, distance

_id = click.IntRange(1, 2**63 - 1)  # what the column holds


class _Dead(AppGroup):
    """Turns what is not possible, and what the database says, into a sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NotPossible as error:
            raise click.ClickException(safe(str(error))) from error
        except sa.exc.SQLAlchemyError as error:
            raise click.ClickException(safe(explain(error))) from error


dead = _Dead("dead", help="Celery tasks that failed for good: read them, send them once more, delete them.")


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    days = click.FloatRange(0, 36_500)  # a time that a database knows
    command = click.option("--older-than", metavar="DAYS", type=days, help="Failed longer ago than that.")(command)
    return click.option("--name", metavar="TASK", help="Of this task, as in workers.cleanup_files.")(command)


@dead.command("list", short_help="List what failed, newest first, or counted by task.")
@_filters
@click.option("--by-name", is_flag=True, help="A line for each task, with how many of it failed.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@json_option
def list_(*, name: str | None, older_than: float | None, by_name: bool, limit: int, as_json: bool) -> None:
    """List the tasks that failed for good, newest first.

    One that was sent once more and has not ended yet is among them, and says so; one that has succeeded is not.
    """
    with _sessions()() as session:
        if by_name:
            groups = dead_tasks.by_name(session, name, _before(older_than))
            _put_groups(groups, as_json=as_json)
            return
        found = dead_tasks.listed(session, limit=limit, name=name, failed_before=_before(older_than))
        if as_json:
            put_json([_fields(one) for one in found])
        elif not found:
            click.echo("No dead tasks.", err=True)
        else:
            columns = ("Id", "Task", "Tries", "Failed", "State")
            lines = [(_cells(one), one.exception.partition("\n")[0]) for one in found]
            put(RemarkTable(columns, "Why", lines, cut=("Task",), right=("Id", "Tries")))
            if len(found) == limit:
                click.echo(f"The newest {count(limit, 'task')}; --limit shows more, --by-name counts all.", err=True)


@dead.command(short_help="Show one, with its arguments and where it failed.")
@click.argument("id_", metavar="ID", type=_id)
@json_option
def show(id_: int, *, as_json: bool) -> None:
    """Show all that is known of a dead task: its arguments, what it raised and where."""
    with _sessions()() as session:
        one = session.get(DeadTask, id_)
    if one is None:
        raise click.ClickException(f"there is no dead task {id_}: `flask dead list` has them all")
    if as_json:
        put_json(_fields(one))
        return
    kept = one.args is not None and one.kwargs is not None
    put(
        facts(
            (
                ("Task", f"{one.name} (Celery's id {one.task_id}, queue {one.queue})"),
                ("Arguments", _call(one) if kept else "too long to be kept: it cannot be sent once more"),
                ("Request", one.request_id),
                ("Failed", f"{clock(one.failed_at)}, at try {one.tries}"),
                ("Sent again", one.retried_at and f"{clock(one.retried_at)} by {one.retried_by}; it has not ended"),
                ("Why", Text(safe_lines(one.exception), style="red")),
            )
        )
    )
    if one.traceback:
        click.echo(f"\n{safe_lines(one.traceback).rstrip()}")


@dead.command(short_help="Send some once more, with the arguments that they had.")
@click.argument("ids", metavar="[ID]...", type=_id, nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All, or those that --name and --older-than choose.")
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def retry(
    ctx: click.Context,
    ids: tuple[int, ...],
    *,
    all_: bool,
    name: str | None,
    older_than: float | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Send dead tasks once more, under their own ids. One that succeeds leaves the list; one that fails stays.

    Exit status: 0 if all were sent; 1 if some could not be, each with a sentence why.
    """
    if bool(ids) == all_:
        raise click.UsageError("give the ids of dead tasks, or --all")
    if (name or older_than is not None) and not all_:
        raise click.UsageError("--name and --older-than choose among --all")
    if all_:
        ids = _ask("Send {} once more?", name, older_than, yes=yes)
    celery, sent, refused = current_app.extensions["celery"], [], {}
    for id_ in dict.fromkeys(ids):
        try:
            with _sessions().begin() as session:
                dead_tasks.retry(session, celery, id_, who())
            sent.append(id_)
        except NotPossible as error:
            refused[id_] = str(error)
            if isinstance(error, dead_tasks.BrokerAway):
                break  # each would wait for it, and be told the same
    if as_json:
        put_json({"retried": sent, "refused": refused})
    else:
        click.echo(f"{count(len(sent), 'task')} sent once more.")
        for sentence in refused.values():
            click.echo(safe(f"Error: {sentence}"), err=True)
    if refused:
        ctx.exit(1)


@dead.command(short_help="Delete those that failed long ago.")
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def purge(*, name: str | None, older_than: float | None, yes: bool, as_json: bool) -> None:
    """Delete dead tasks that failed more than DAYS ago. Those past OUTBOX_RETENTION_DAYS go by themselves."""
    before = _before(older_than)
    if before is None:
        raise click.UsageError("give --older-than DAYS: 0 for all of them")
    _ask("Delete {}?", name, older_than, yes=yes)
    engine = current_app.extensions["engine"]
    purged = dead_tasks.purge(engine, before, name)
    with engine.begin() as connection:
        record(connection, who(), "purge", "dead tasks", deleted=purged, older_than_days=older_than, name=name)
    if as_json:
        put_json({"deleted": purged})
    else:
        click.echo(f"{count(purged, 'task')} deleted.")


def _ask(question: str, name: str | None, older_than: float | None, *, yes: bool) -> tuple[int, ...]:
    """The ids that the filter chooses, once a person has seen how many they are."""
    query = sa.select(DeadTask.id).where(*dead_tasks.conditions(name, _before(older_than))).order_by(DeadTask.id)
    with _sessions()() as session:
        ids = tuple(session.scalars(query))
    if ids and not yes:
        which = f" of {name}" if name else ""
        click.confirm(safe(question.format(f"{count(len(ids), 'dead task')}{which}")), abort=True, err=True)
    return ids


def _put_groups(groups: list[dead_tasks.OfOneName], *, as_json: bool) -> None:
    if as_json:
        put_json([group._asdict() for group in groups])
        return
    if not groups:
        click.echo("No dead tasks.", err=True)
        return
    lines = [
        (
            [cell(group.name), cell(group.failures), cell(distance(group.first)), cell(distance(group.last))],
            group.exception.partition("\n")[0],
        )
        for group in groups
    ]
    put(RemarkTable(("Task", "Failed", "First", "Last"), "Why, at last", lines, cut=("Task",), right=("Failed",)))


def _cells(one: DeadTask) -> list[Text]:
    state = cell(f"sent again {distance(one.retried_at)}", "yellow") if one.retried_at else cell("failed", "red")
    return [cell(one.id), cell(one.name), cell(one.tries), cell(distance(one.failed_at), "dim"), state]


def _call(one: DeadTask) -> str:
    said = [json.dumps(value, ensure_ascii=False) for value in one.args or ()]
    said += [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in (one.kwargs or {}).items()]
    return ", ".join(said) or "none"


def _fields(one: DeadTask) -> dict[str, Any]:
    return {column.key: getattr(one, column.key) for column in sa.inspect(DeadTask).column_attrs}


def _before(older_than: float | None) -> datetime | None:
    return None if older_than is None else datetime.now(UTC) - timedelta(days=older_than)


def _sessions() -> Any:
    return current_app.extensions["sessions"]
