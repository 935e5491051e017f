"""Projects, their tasks, and what may be done with a task."""

from datetime import UTC, datetime

import sqlalchemy as sa
from flask import Blueprint, current_app, flash, jsonify, redirect, render_template, request, url_for
from flask_login import login_required
from werkzeug.exceptions import BadRequest, Forbidden
from werkzeug.wrappers import Response

from app.accounts.access import me
from app.accounts.models import User
from app.background import accepted, dispatch
from app.database import request_session
from app.fields import Fields
from app.projects import changes, lists
from app.projects.access import may_assign, may_change, member, members, project_or_404, task_or_404
from app.projects.models import Project, Task, TaskPriority, TaskStatus
from app.queues import UPDATE_TASK_STATUS

LONGEST_TITLE = 200
LONGEST_REASON = 1000
"""Characters: of what goes into a subject line, and of what goes into a mail."""

projects = Blueprint("projects", __name__)

_PAGE_DIGITS = 6
"""Fifty million tasks."""


@projects.get("/projects/")
@login_required  # type: ignore[untyped-decorator]  # Flask-Login ships no types
def index() -> str:
    """The projects of the user's organisation; an admin's page has all."""
    rows = lists.projects(request_session(), me(), datetime.now(UTC))
    return render_template("projects/projects.html", projects=rows)


@projects.get("/projects/<int:project_id>")
@login_required  # type: ignore[untyped-decorator]
def project(project_id: int) -> str:
    """A project with its tasks, and a form for another."""
    session = request_session()
    found = project_or_404(session, project_id, me())
    assigns = may_assign(me(), found)
    return render_template(
        "projects/project.html",
        project=found,
        priorities=TaskPriority,
        members=members(session, found) if assigns else None,
        longest_title=LONGEST_TITLE,
        **_listed(Task.project_id == found.id),
    )


@projects.post("/projects/<int:project_id>/tasks")
@login_required  # type: ignore[untyped-decorator]
def add_task(project_id: int) -> Response:
    """Add a task: who sees the project may. To hand it to somebody at once takes who may assign."""
    session, user = request_session(), me()
    found = project_or_404(session, project_id, user)
    fields = Fields()
    assignee_id = fields.id("assignee_id")
    task = Task(
        project=found,
        title=fields.line("title", LONGEST_TITLE),
        due_at=fields.moment("due_at", user),
        priority=fields.choice("priority", TaskPriority, TaskPriority.NORMAL),
    )
    session.add(task)
    if assignee_id is not None:
        _require(may_assign(user, found))
        assignee = _member(found, assignee_id)
        changes.assign(session, current_app.extensions["settings"], task, assignee, user, "", datetime.now(UTC))
    session.commit()
    if request.is_json:
        made = jsonify(id=task.id)
        made.status_code = 201
        return made
    flash(f"“{task.title}” is on the list.")
    return redirect(url_for(".project", project_id=project_id), 303)


@projects.get("/tasks/")
@login_required  # type: ignore[untyped-decorator]
def my_tasks() -> str:
    """What is assigned to the user, in whatever project."""
    return render_template("projects/tasks.html", **_listed(Task.assignee_id == me().id))


@projects.get("/tasks/<int:task_id>")
@login_required  # type: ignore[untyped-decorator]
def task(task_id: int) -> str:
    """A task, what happened to it, and what the user may do with it."""
    session = request_session()
    found = task_or_404(session, task_id, me())
    return render_template(
        "projects/task.html",
        task=found,
        now=datetime.now(UTC),
        history=lists.history(session, found),
        may_change=may_change(me(), found),
        members=members(session, found.project) if may_assign(me(), found.project) else None,
        statuses=TaskStatus,
        longest_reason=LONGEST_REASON,
    )


@projects.post("/tasks/<int:task_id>/complete")
@login_required  # type: ignore[untyped-decorator]
def complete(task_id: int) -> Response:
    """Have a worker complete the task."""
    return _have_changed(task_id, Fields(), TaskStatus.DONE)


@projects.post("/tasks/<int:task_id>/status")
@login_required  # type: ignore[untyped-decorator]
def change_status(task_id: int) -> Response:
    """Have a worker set the status that is asked for."""
    fields = Fields()
    return _have_changed(task_id, fields, fields.choice("status", TaskStatus))


@projects.post("/tasks/<int:task_id>/assign")
@login_required  # type: ignore[untyped-decorator]
def assign(task_id: int) -> Response:
    """Hand the task to a member of the project's organisation, or to nobody."""
    session, user, fields = request_session(), me(), Fields()
    found = task_or_404(session, task_id, user)
    _require(may_assign(user, found.project))
    assignee_id, reason = fields.id("assignee_id"), fields.text("reason", LONGEST_REASON)
    assignee = None if assignee_id is None else _member(found.project, assignee_id)
    settings = current_app.extensions["settings"]
    changed = changes.assign(session, settings, found, assignee, user, reason, datetime.now(UTC))
    said = f"It is assigned to {assignee.name if assignee else 'nobody'}{'' if changed else ' already'}."
    session.commit()
    if request.is_json:
        return jsonify(changed=changed)
    flash(said)
    return redirect(url_for(".task", task_id=task_id), 303)


def _have_changed(task_id: int, fields: Fields, status: TaskStatus) -> Response:
    """Whether they may is asked here and now; a worker does it, and the answer is 202."""
    user = me()
    found = task_or_404(request_session(), task_id, user)
    _require(may_change(user, found))
    reason, user_id = fields.text("reason", LONGEST_REASON), user.id
    dispatched = dispatch(UPDATE_TASK_STATUS, task_id, status.value, user_id, reason)
    return accepted(dispatched, "The task is being changed", url_for(".task", task_id=task_id))


def _listed(whose: sa.ColumnElement[bool]) -> dict[str, object]:
    """The page of tasks that the address asks for, `?status=pending&page=2`."""
    wanted = request.args.get("status", "")
    if wanted and wanted not in set(TaskStatus):
        raise BadRequest(f"status={wanted[:100]!r}: choose from {', '.join(TaskStatus)}, or leave it out.")
    number = request.args.get("page", "1")
    if not (number.isascii() and number.isdigit() and len(number) <= _PAGE_DIGITS and int(number)):
        raise BadRequest(f"page={number[:100]!r}: give a number from 1.")
    status = TaskStatus(wanted) if wanted else None
    page = lists.tasks(request_session(), whose, status, int(number))
    return {"page": page, "status": status, "statuses": TaskStatus, "now": datetime.now(UTC)}


def _member(project: Project, user_id: int) -> User:
    found = member(request_session(), project, user_id)
    if found is None:
        raise BadRequest(f"assignee_id={user_id}: choose a member of the project's organisation.")
    return found


def _require(allowed: bool) -> None:
    if not allowed:
        raise Forbidden("The owner of the project can do that, and the assignee can say how far the task is.")
