"""A few mails through the real thing: queued in a transaction of the application, and waited for."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session, joinedload

from outbox.draft import Attachment
from outbox.models import QueuedEmail
from outbox.service import EmailService
from outbox.states import Status

PATIENCE_SECONDS = 30
"""For all of them to arrive. It takes one; a relay that needs longer has something to say in the worker's log."""

_POLL_SECONDS = 0.05

_RECEIPT = """<h1>Thank you for your order</h1>
<table><tr><td>Sketch of the Analytical Engine</td><td>12.00</td></tr><tr><th>Total</th><th>12.00</th></tr></table>
<p>It leaves our house tomorrow.</p>"""


@dataclass(frozen=True)
class Demo:
    """The mails of one run: the ids of their rows, and the subject of the one that must not exist."""

    ids: tuple[int, ...]
    rolled_back: str


def queue(app: Flask, only_to: str | None) -> Demo:
    """Queue mails of each priority in one transaction, and one more in a transaction that is rolled back.

    `only_to`: with a real relay, the one address that gets them all.
    """
    order = datetime.now().astimezone().strftime("%y%m%d-%H%M%S")
    rolled_back = f"Receipt for order {order}-2"
    session: Session
    with app.app_context():
        sessions = app.extensions["sessions"]
        with sessions.begin() as session:
            mails = list(_queue_all(EmailService(session), order, only_to))
            session.flush()
            ids = tuple(row.id for mail in mails for row in mail.content.recipients)
        with sessions() as session:
            EmailService(session).queue_email(only_to or "ada@example.com", rolled_back, text="This must not arrive.")
            session.flush()  # it is in the database, and then it is not
            session.rollback()
    return Demo(ids, rolled_back)


def _queue_all(service: EmailService, order: str, only_to: str | None) -> Iterator[QueuedEmail]:
    for name in ("ada", "charles", "grace")[: 1 if only_to else 3]:
        yield service.queue_email(
            only_to or f"{name}@example.com", "News of the week", text="It was quiet.", priority="low"
        )
    yield service.queue_email(
        only_to or "Ada Lovelace <ada@example.com>",
        f"Receipt for order {order}",
        text="Thank you for your order. It leaves our house tomorrow.",
        html=_RECEIPT,
        cc=() if only_to else "Charles Babbage <charles@example.com>",
        bcc=() if only_to else "bookkeeping@example.com",
        attachments=[Attachment("order.csv", b"title,price\r\nSketch of the Analytical Engine,12.00\r\n")],
    )
    yield service.queue_email(only_to or "ada@example.com", "Reset your password", text="Here you go.", priority="high")
    yield service.queue_email(only_to or "grace@example.com", "Your code is 142857", text="142857", priority="high")


def wait(app: Flask, demo: Demo, progress: Callable[[int, int], None]) -> list[QueuedEmail]:
    """The rows, with their contents, when all are sent or the time is up. `progress` hears how many of how many are."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        rows = _rows(app, demo)
        sent = sum(row.status == Status.SENT for row in rows)
        progress(sent, len(rows))
        if sent == len(rows) or time.monotonic() > deadline:
            return rows
        time.sleep(_POLL_SECONDS)


def _rows(app: Flask, demo: Demo) -> list[QueuedEmail]:
    session: Session
    with app.app_context(), app.extensions["sessions"]() as session:
        rows = sa.select(QueuedEmail).where(QueuedEmail.id.in_(demo.ids)).options(joinedload(QueuedEmail.content))
        return list(session.scalars(rows.order_by(QueuedEmail.priority, QueuedEmail.id)))
