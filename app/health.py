"""Health: for probes, which restart or spare a process; for monitoring; and for a person who asks what is wrong.

`/healthz`          restart me if this does not answer
`/readyz`           send me requests, if this says 200
`/health/detailed`  everything, in sentences and figures: 503 if something is wrong
`/health/tasks`     how the Celery tasks fare

The first two are for anybody, and say no more than yes or no.
"""

from flask import Blueprint, Response, current_app, jsonify, make_response, render_template
from werkzeug.wrappers import Response as AnyResponse

from app import checks
from app.accounts.access import ask_nobody, monitoring_required, wants_json
from app.task_statistics import statistics
from outbox import heartbeats
from outbox.database import reading
from outbox.times import duration

_UNAVAILABLE = 503

NAMES = {
    "database": "Database",
    "database_disk": "Database's disk",
    "broker": "Broker",
    "workers": "Workers",
    "beat": "Beat",
    "oldest_due": "Queue",
    "relays": "Relays",
    "troubles": "Troubles",
    "journal": "Journal",
    "disk": "Disk",
    "memory": "Memory",
}
"""For people, in the order in which they look."""

health = Blueprint("health", __name__)
health.add_app_template_filter(duration)


@health.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers. It asks neither database nor Redis: restarting this process would mend neither."""
    return {"status": "ok"}


@health.get("/readyz")
def readyz() -> tuple[dict[str, str], int]:
    """Whether requests can be served; 503 with what they cannot be served for.

    Anybody may ask, so it says no more than whether: hosts, versions and errors are in `/health/detailed`.
    """
    ask_nobody()
    found = checks.ready(current_app.extensions)
    said = {name: "ok" if finding.healthy else "not ready" for name, finding in found.items()}
    return said, 200 if all(finding.healthy for finding in found.values()) else _UNAVAILABLE


@health.get("/health/detailed")
@monitoring_required
def detailed() -> AnyResponse:
    """Every check: for programs JSON, for people a page."""
    found = checks.every(current_app.extensions)
    healthy = all(finding.healthy for finding in found.values())
    status = 200 if healthy else _UNAVAILABLE
    if wants_json():
        told = {name: finding.as_json() for name, finding in found.items()}
        return make_response(jsonify(healthy=healthy, checks=told), status)
    ordered = {NAMES[name]: found[name] for name in NAMES}
    page = render_template("health.html", healthy=healthy, checks=ordered, workers=found["workers"].data.get("workers"))
    return make_response(page, status)


@health.get("/health/tasks")
@monitoring_required
def tasks() -> Response:
    """Task statistics, of the workers that live."""
    with reading(current_app.extensions["engine"]) as connection:
        workers = [sign for sign in heartbeats.signs(connection, heartbeats.WORKER) if not sign.silent]
    return jsonify(
        workers=len(workers),
        counted_for_seconds=max((sign.detail.get("up_seconds", 0) for sign in workers), default=0),
        tasks=statistics(workers),
    )
