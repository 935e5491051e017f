"""Work that a request asks a worker to do: a Celery task, by its name, and the answer 202 that has its id."""

from typing import Any

import redis
from flask import Response, current_app, jsonify, make_response, render_template, request
from kombu.exceptions import KombuError
from werkzeug.exceptions import ServiceUnavailable

from app.database import request_session

UNREACHABLE = (redis.RedisError, KombuError, OSError, RuntimeError)
"""What publishing raises if it cannot. RuntimeError: Celery's, of a result backend that does not answer when it is told
to watch for the result."""

_AWAY = "Nothing was changed: the workers in the background cannot be reached. Please try again in a minute."


def dispatch(name: str, *arguments: Any, task_id: str | None = None) -> str:
    """Publish a task; returns its id. ServiceUnavailable (503) if the broker does not answer, within half a second.

    Call it after the commit of what the task is about: a worker may be faster. What is not committed is rolled back:
    on SQLite it would keep the worker, and everybody else, from writing.
    """
    request_session().rollback()
    try:
        result = current_app.extensions["celery"].send_task(name, arguments, task_id=task_id)
    except UNREACHABLE as error:
        current_app.logger.warning("%s cannot be published: %s", name, error)
        raise ServiceUnavailable(_AWAY, retry_after=60) from error
    return str(result.id)


def accepted(task_id: str, what: str, back: str) -> Response:
    """202: for programs, JSON with `task_id`; for people, a page that says `what` is done and goes on to `back`."""
    best = request.accept_mimetypes.best_match(["application/json", "text/html"])
    if best == "text/html":
        page = render_template("accepted.html", what=what, back=back, task_id=task_id)
        response = make_response(page, 202)
        response.headers["Refresh"] = f"1; url={back}"
        return response
    response = jsonify(task_id=task_id)
    response.status_code = 202
    return response
