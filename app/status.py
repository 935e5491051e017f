"""The landing page and the liveness probe. They show numbers, never an address: nobody has logged in."""

import sqlalchemy as sa
from flask import Blueprint, current_app, render_template

from outbox.models import QueuedEmail
from outbox.states import Status

MEANINGS = {
    Status.PENDING: "waiting for their time, or for a worker",
    Status.CLAIMED: "in a worker's hands",
    Status.SENDING: "in conversation with the relay",
    Status.SENT: "accepted by the relay",
    Status.UNCERTAIN: "perhaps sent: a person decides",
    Status.DEAD: "not delivered, with the reason on record",
    Status.CANCELLED: "called back in time",
}

status = Blueprint("status", __name__)


@status.get("/")
def index() -> tuple[str, int]:
    """What this is, and how the mail stands; 503 while the database cannot say."""
    settings = current_app.extensions["settings"]
    links = {"Documentation": settings.docs_url, "Flower": settings.flower_url, "Inbox": settings.inbox_url}
    try:
        counts = count_by_status()
    except sa.exc.SQLAlchemyError:
        current_app.logger.exception("the landing page cannot read email_queue")
        counts = None
    page = render_template(
        "index.html",
        counts=counts,
        meanings=MEANINGS,
        links={name: url for name, url in links.items() if url},
        drain_seconds=settings.outbox_drain_seconds,
    )
    return page, 200 if counts is not None else 503


@status.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers. It asks neither database nor Redis: restarting this process would mend neither."""
    return {"status": "ok"}


def count_by_status() -> dict[str, int]:
    """Every status, with the number of its rows."""
    with current_app.extensions["sessions"]() as session:
        found = session.execute(sa.select(QueuedEmail.status, sa.func.count()).group_by(QueuedEmail.status))
        counts = dict(found.all())
    return {name: counts.get(name, 0) for name in Status}
