"""The landing page. It shows numbers, never an address: nobody need have logged in."""

import logging

import sqlalchemy as sa
from flask import Blueprint, current_app, render_template, url_for

from app.accounts.access import is_admin
from outbox import stats
from outbox.database import reading
from outbox.logs import tell

log = logging.getLogger(__name__)

MEANINGS = {
    "due": "waits for a worker",
    "scheduled": "waits for its time, or for its next try",
    "claimed": "in a worker's hands",
    "sending": "being handed to the mail server",
    "sent": "taken by the mail server",
    "uncertain": "perhaps sent: a person decides",
    "dead": "not delivered, with the reason on record",
    "cancelled": "called back in time",
}
"""The rows of the table."""

OF_THE_DAY = ("sent", "cancelled")
"""What is shown of the last 24 hours alone: to count all of history would read it."""

status = Blueprint("status", __name__)


@status.get("/")
def index() -> tuple[str, int]:
    """What this is, and how the mail stands; 503 while the database cannot say."""
    settings = current_app.extensions["settings"]
    admin_url = url_for("admin.index") if is_admin() else ""
    links = {"Flower": settings.flower_url, "Inbox": settings.inbox_url, "Admin": admin_url}
    try:
        counts = count_mail()
    except sa.exc.SQLAlchemyError as error:
        tell(log, logging.ERROR, "queue.uncounted", "the landing page cannot read email_queue", exc_info=error)
        counts = None
    page = render_template(
        "index.html",
        counts=counts,
        meanings=MEANINGS,
        of_the_day=OF_THE_DAY,
        links={name: url for name, url in links.items() if url},
        drain_seconds=settings.outbox_drain_seconds,
    )
    return page, 200 if counts is not None else 503


def count_mail() -> dict[str, int]:
    """How many mails stand where, by the names in `MEANINGS`; from partial indexes, without a lock."""
    with reading(current_app.extensions["engine"]) as connection:
        waiting = stats.waiting(connection).values()
        in_flight = stats.in_flight(connection).values()
        failed = stats.failed(connection).values()
        finished = stats.finished(connection).values()
    return {
        "due": sum(lane.due for lane in waiting),
        "scheduled": sum(lane.scheduled for lane in waiting),
        "claimed": sum(lane.claimed for lane in in_flight),
        "sending": sum(lane.sending for lane in in_flight),
        "sent": sum(lane.sent_day for lane in finished),
        "uncertain": sum(lane.uncertain for lane in failed),
        "dead": sum(sum(lane.dead.values()) for lane in failed),
        "cancelled": sum(lane.cancelled_day for lane in finished),
    }
