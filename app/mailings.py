"""Mail to many users, once each in a period: in batches, each of them a transaction of its own.

    users of the batch, by id -> those whose key no mail has -> what to say to them, composed together -> queue_emails

The idempotency key `<mailing>:<user>:<period>` is the memory of who has been mailed. A run that is killed leaves whole
batches behind, and the next one goes on with the rest; of two runs at once, one waits for the other's batch and finds
it done. So no run ever composes a mail anew whose figures have changed since, which its key would refuse.

What a run costs: a handful of statements for each `BATCH` users, and their mails in memory at a time.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.models import User
from outbox.errors import InvalidEmail, SettingsError
from outbox.service import EmailService
from outbox.settings import Settings

log = logging.getLogger(__name__)

BATCH = 500
"""Users at a time. Twice as many wrote no more mails a second; fewer cost more round trips."""

Compose = Callable[[Session, Sequence[User]], Mapping[int, Mapping[str, Any]]]
"""Users of a batch -> by their ids, what `queue_email` is to be told (context, attachments). Who is left out gets none.

Called in the transaction that queues the mails: what it writes holds exactly when they do.
"""


@dataclass(frozen=True)
class Mailing:
    """A mail that many users get. Its name is that of its template, and the first part of its keys."""

    name: str
    category: str


@dataclass
class Tally:
    """What a run did, in users."""

    queued: int = 0
    already: int = 0
    """Had it before."""
    nothing_to_say: int = 0
    invalid: int = 0
    """Whose mail cannot be written: their address, or what is said to them. The log says why."""


def send(
    sessions: sessionmaker[Session],
    settings: Settings,
    mailing: Mailing,
    *,
    period: str,
    users: sa.Select[User],
    compose: Compose,
) -> Tally:
    """Mail every one of `users` who has an address and has not had this mailing in this period.

    Raises SettingsError without a sender: no mail could be written, and what `compose` marks as said would be lost.
    """
    if settings.smtp_from_email is None:
        raise SettingsError(f"SMTP_FROM_EMAIL is not set, and {mailing.name} has to be from somebody: set it")
    tally = Tally()
    last = 0
    while True:
        with sessions.begin() as session:
            _one_run_at_a_time(session, mailing)
            batch = _batch(session, users, last)
            if not batch:
                return tally
            last = batch[-1].id
            keys = {user.id: f"{mailing.name}:{user.id}:{period}" for user in batch}
            service = EmailService(session, settings)
            taken = service.taken(keys.values())
            waiting = [user for user in batch if keys[user.id] not in taken]
            said = compose(session, waiting) if waiting else {}
            tally.already += len(batch) - len(waiting)
            tally.nothing_to_say += len(waiting) - len(said)
            mails = [
                {"to": user.email, "idempotency_key": keys[user.id], **said[user.id]}
                for user in waiting
                if user.id in said
            ]
            _queue(session, service, mails, {"template": mailing.name, "category": mailing.category}, tally)


def _batch(session: Session, users: sa.Select[User], last: int) -> Sequence[User]:
    return session.scalars(users.where(User.email.is_not(None), User.id > last).order_by(User.id).limit(BATCH)).all()


def _one_run_at_a_time(session: Session, mailing: Mailing) -> None:
    """Until the end of the transaction. SQLite has one writer anyway.

    A lock of the mailing's own rather than of its users' rows: nobody's login waits for it.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(mailing.name, 0))))


def _queue(
    session: Session,
    service: EmailService,
    mails: Sequence[Mapping[str, Any]],
    common: Mapping[str, Any],
    tally: Tally,
) -> None:
    try:
        service.queue_emails(mails, **common)
        tally.queued += len(mails)
    except InvalidEmail:
        for mail in mails:
            _send_alone(session, service, {**mail, **common}, tally)


def _send_alone(session: Session, service: EmailService, mail: Mapping[str, Any], tally: Tally) -> None:
    """So that one mail that cannot be written keeps nobody else's back."""
    try:
        with session.begin_nested():
            service.queue_email(**mail)
    except InvalidEmail as error:
        tally.invalid += 1
        log.warning("%s cannot be written and is left out: %s", mail["idempotency_key"], error)
    else:
        tally.queued += 1
