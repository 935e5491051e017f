"""A few mails through the real thing: queued in a transaction of the application, and waited for."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session, joinedload

from app.categories import NEWS
from outbox import templates
from outbox.attachments import Attachment
from outbox.models import QueuedEmail
from outbox.service import EmailService
from outbox.states import FINAL, Status
from outbox.templates import Templates

PATIENCE_SECONDS = 30
"""For all of them to arrive. It takes one; a relay that needs longer has something to say in the worker's log."""

ADA = "ada@example.com"
ROLLED_BACK = "Another receipt"

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Demo:
    """The mails of one run: the ids of their rows, and the Message-ID of the one that must not exist."""

    ids: tuple[int, ...]
    rolled_back: str


def queue(app: Flask, only_to: str | None) -> Demo:
    """Queue mails of each priority in one transaction, and one more in a transaction that is rolled back.

    `only_to`: with a real relay, the one address that gets them all.
    """
    session: Session
    with app.app_context():
        sessions, settings = app.extensions["sessions"], app.extensions["settings"]
        with sessions.begin() as session:
            samples = templates.of(settings)
            mails = list(_queue_all(EmailService(session, settings), samples, only_to))
            session.flush()
            ids = tuple(row.id for mail in mails for row in mail.content.recipients)
        with sessions() as session:
            mail = EmailService(session, settings).queue_email(
                only_to or ADA, ROLLED_BACK, text="This must not arrive."
            )
            rolled_back = mail.content.message_id
            session.flush()  # it is in the database, and then it is not
            session.rollback()
    return Demo(ids, rolled_back)


def _queue_all(service: EmailService, samples: Templates, only_to: str | None) -> Iterator[QueuedEmail]:
    """The application's own mails, each with what its preview shows."""
    news = samples.sample("weekly_news")
    del news["unsubscribe_url"]  # the recipient has a link of their own
    for name in ("Ada", "Alan", "Grace")[: 1 if only_to else 3]:
        yield service.queue_email(
            only_to or f"{name.lower()}@example.com",
            template="weekly_news",
            context=news | {"name": name},
            category=NEWS,
            priority="low",
        )
    yield service.queue_email(
        only_to or f"Ada Lovelace <{ADA}>",
        template="receipt",
        context=samples.sample("receipt"),
        cc=() if only_to else "Alan Turing <alan@example.com>",
        bcc=() if only_to else "books@example.com",
        attachments=[Attachment("order.csv", b"title,price\r\nSketch of the Analytical Engine,42.00\r\n")],
    )
    secrets = {"password_reset": ADA, "login_code": "grace@example.com"}
    for template, address in secrets.items():
        yield service.queue_email(
            only_to or address,
            template=template,
            context=samples.sample(template),
            priority="high",
            sensitive=True,
        )


def wait(app: Flask, demo: Demo, progress: Callable[[int, int], None]) -> list[QueuedEmail]:
    """The rows, with their contents, when there is nothing to wait for or the time is up.

    `progress` hears how many are sent, of how many.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        rows = _rows(app, demo)
        sent = sum(row.status == Status.SENT for row in rows)
        progress(sent, len(rows))
        if all(row.status in FINAL for row in rows) or time.monotonic() > deadline:
            return rows
        time.sleep(_POLL_SECONDS)


def _rows(app: Flask, demo: Demo) -> list[QueuedEmail]:
    session: Session
    with app.app_context(), app.extensions["sessions"]() as session:
        rows = sa.select(QueuedEmail).where(QueuedEmail.id.in_(demo.ids)).options(joinedload(QueuedEmail.content))
        return list(session.scalars(rows.order_by(QueuedEmail.priority, QueuedEmail.id)))
