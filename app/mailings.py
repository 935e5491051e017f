"""Mail to many users, once each in a period: in batches, each of them a transaction of its own.

    users of the batch, by id -> those whose key no mail has -> what to say to them, composed together -> queue_emails

The idempotency key `<mailing>:<user>:<period>` is the memory of who has been mailed. A run that is killed leaves whole
batches behind, and the next one goes on with the rest; of two runs at once, one waits for the other's batch and finds
it done. So no run ever composes a mail anew whose figures have changed since, which its key would refuse.

What a run costs: a handful of statements for each `BATCH` users, and their mails in memory at a time.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from time import sleep
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.models import User
from outbox.database import BigId
from outbox.errors import InvalidEmail, SettingsError
from outbox.logs import tell
from outbox.service import EmailService
from outbox.settings import Settings

log = logging.getLogger(__name__)

BATCH = 500
"""Users at a time: few enough to be in memory with all that is said to them, and for another run to wait for. What a
mail costs is its rendering, 2 to 3 ms; with 100 users or 1,000 a batch it costs the same."""

SQLITE_PAUSE = 0.15
"""Seconds between two batches, for whoever else wants to write: who waits for SQLite's one lock looks for it each tenth
of a second. Without the pause the next batch has it before they look, and a login waits for several."""

LAST = sa.bindparam("last_user", type_=BigId)
"""The id of the last user of the batch before. `users` that are picked by their rows in another table ask there for
`user_id > LAST`, too: else every batch reads that table from its beginning."""

Compose = Callable[[Session, Sequence[User]], Mapping[int, Mapping[str, Any]]]
"""Users of a batch -> by their ids, what `queue_email` is to be told (context, attachments). Who is left out gets none.

Called in the transaction that queues the mails: what it writes holds exactly when they do. If one of them cannot be
written, it is undone with them, and called again for fewer of the users.
"""

Record = Callable[[Session, Collection[int]], object]
"""What to write about those who have the mail now, by their ids: once the mails are, which takes seconds, so that what
it locks is soon free."""


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
    record: Record = lambda _, __: None,
) -> Tally:
    """Mail every one of `users` who has an address and has not had this mailing in this period.

    Raises SettingsError without a sender: then no mail can be written, and it is nobody's fault among them.
    """
    if settings.smtp_from_email is None:
        raise SettingsError(f"SMTP_FROM_EMAIL is not set, and {mailing.name} has to be from somebody: set it")
    run = _Run(settings, mailing, period, compose, record)
    last = 0
    while True:
        with sessions.begin() as session:
            _one_run_at_a_time(session, mailing)
            batch = _batch(session, users, last)
            if batch:
                last = batch[-1].id
                run.mail(session, batch)
        if len(batch) < BATCH:
            return run.tally
        if session.get_bind().dialect.name == "sqlite":
            sleep(SQLITE_PAUSE)


def _batch(session: Session, users: sa.Select[User], last: int) -> Sequence[User]:
    rest = users.where(User.email.is_not(None), User.id > LAST).order_by(User.id).limit(BATCH)
    return session.scalars(rest, {LAST.key: last}).all()


def _one_run_at_a_time(session: Session, mailing: Mailing) -> None:
    """Until the end of the transaction. SQLite has one writer anyway.

    A lock of the mailing's own rather than of its users' rows: nobody's login waits for it.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(mailing.name, 0))))


@dataclass(frozen=True)
class _Run:
    settings: Settings
    mailing: Mailing
    period: str
    compose: Compose
    record: Record
    tally: Tally = field(default_factory=Tally)

    def mail(self, session: Session, batch: Sequence[User]) -> None:
        taken = EmailService(session, self.settings).taken(map(self._key, batch))
        waiting = [user for user in batch if self._key(user) not in taken]
        self.tally.already += len(batch) - len(waiting)
        if waiting:
            self._write(session, waiting)

    def _write(self, session: Session, users: Sequence[User]) -> None:
        """If one of the mails cannot be written, each half of them by itself: so it keeps nobody else's back.

        In halves, for a wrong address among 500 costs 18 more rounds then, and not 500.
        """
        try:
            with session.begin_nested():
                said = self.compose(session, users)
                mails = [
                    {"to": user.email, "idempotency_key": self._key(user), **said[user.id]}
                    for user in users
                    if user.id in said
                ]
                service = EmailService(session, self.settings)
                service.queue_emails(mails, template=self.mailing.name, category=self.mailing.category)
                self.record(session, said.keys())
        except InvalidEmail as error:
            if len(users) == 1:
                self.tally.invalid += 1
                tell(
                    log, logging.WARNING, "mailing.left_out", "%(key)s cannot be written and is left out: %(why)s",
                    key=self._key(users[0]), user=users[0].id, why=str(error),
                )  # fmt: skip
                return
            middle = len(users) // 2
            self._write(session, users[:middle])
            self._write(session, users[middle:])
        else:
            self.tally.queued += len(mails)
            self.tally.nothing_to_say += len(users) - len(mails)

    def _key(self, user: User) -> str:
        return f"{self.mailing.name}:{user.id}:{self.period}"
