"""Celery tasks that failed for good: read, sent once more, deleted. And what is started by hand."""

from collections.abc import Callable

from flask import Blueprint, Response, abort, current_app, flash, redirect, render_template, request, url_for
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as AnyResponse

from app import dead_tasks
from app.admin.telling import plain, who
from app.background import accepted, dispatch
from app.database import request_session
from app.dead_tasks import DeadTask
from app.fields import Fields
from app.queues import SEND_DAILY_REMINDERS
from outbox.errors import NotPossible

_PAGE = 50

tasks_pages = Blueprint("tasks", __name__, url_prefix="/tasks")


@tasks_pages.get("/")
def index() -> str:
    """The newest first, in pages."""
    before, settings = Fields(request.args).id("before"), current_app.extensions["settings"]
    found = dead_tasks.listed(request_session(), before, _PAGE + 1)
    return render_template(
        "admin/tasks.html",
        found=found[:_PAGE],
        older=found[_PAGE - 1].id if found[_PAGE:] else None,
        before=before,
        reminder_hour=settings.daily_reminder_hour,
        time_zone=settings.celery_timezone,
    )


@tasks_pages.get("/<int:id_>")
def show(id_: int) -> str:
    """One, with its traceback."""
    task = request_session().get(DeadTask, id_)
    if task is None:
        abort(404, f"There is no dead task {id_}: it succeeded when it was sent once more, or was deleted.")
    return render_template("admin/task.html", task=task)


@tasks_pages.post("/<int:id_>/retry")
def retry(id_: int) -> AnyResponse:
    """Send it once more, as it was."""

    def act(session: Session) -> str:
        dead_tasks.retry(session, current_app.extensions["celery"], id_, who())
        return f"Task {id_} is sent once more. If it fails again it is listed as failed, and if it succeeds not at all."

    return _do(act, url_for(".show", id_=id_))


@tasks_pages.post("/<int:id_>/delete")
def delete(id_: int) -> AnyResponse:
    """Nobody needs it any more."""

    def act(session: Session) -> str:
        dead_tasks.delete(session, id_, who())
        return f"Task {id_} is deleted."

    return _do(act, url_for(".index"))


@tasks_pages.post("/send-reminders")
def send_reminders() -> Response:
    """Do now what beat does daily. Whoever had theirs today gets no second one."""
    return accepted(dispatch(SEND_DAILY_REMINDERS), "The reminders are being sent", url_for(".index"))


def _do(act: Callable[[Session], str], back: str) -> AnyResponse:
    session = request_session()
    try:
        said = act(session)
        session.commit()
        flash(said)
    except NotPossible as error:
        session.rollback()
        flash(plain(error), "trouble")
        back = url_for(".index")
    return redirect(back, 303)
