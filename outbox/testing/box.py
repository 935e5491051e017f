"""The `outbox` of a test: what is queued, what was sent, and what became of the rest."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import NoReturn, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session

from outbox import claims
from outbox.chunk import Composer, load
from outbox.database import utcnow
from outbox.delivery import Courier
from outbox.drain import drain
from outbox.explaining import explain
from outbox.journal import Journal
from outbox.models import Base, EmailContent, QueuedEmail
from outbox.sealing import Safe
from outbox.settings import Settings
from outbox.signing import Signer
from outbox.states import Priority, Status
from outbox.testing import clock
from outbox.testing.mail import Mail, parse
from outbox.testing.savepoints import SavepointEngine, SavepointLedger
from outbox.testing.script import RelayScript
from outbox.testing.telling import Rest, Wanted, told
from outbox.testing.wire import Accepted, ScriptedRelay

WORKER = "outbox.testing"
"""As `email_attempts.worker` has it."""

_ALL = 1_000_000
"""More mail than a test queues."""

_LEASE = 60.0
"""Seconds. Nobody else is there to take a mail over."""

_PENDING = sa.select(QueuedEmail.id).where(QueuedEmail.status == Status.PENDING)
_ENDED = (
    sa.select(QueuedEmail.id, QueuedEmail.recipient, QueuedEmail.subject)
    .where(QueuedEmail.status.in_([Status.DEAD, Status.UNCERTAIN, Status.CANCELLED]))
    .order_by(QueuedEmail.id)
)


class Outbox:
    """Mail of the application under test, in the transaction of its `session`.

    Nothing goes before `deliver`: until then it is where it is in production before a worker comes.
    """

    def __init__(self, session: Session | scoped_session[Session], settings: Settings) -> None:
        self.relay = RelayScript()
        """Provokes failures."""
        self.sent: list[Mail] = []
        """What the relay has accepted, in the order in which it went."""
        self._sessions = session
        self._settings = settings

    @property
    def queued(self) -> list[Mail]:
        """Mail that is still to be sent: due, scheduled or waiting for a retry. As it will go, in the order queued."""
        with self._transaction() as connection, _taken_back(connection):
            clock.make_due(connection)
            return self._compose(connection)

    def deliver(self) -> list[Mail]:
        """Try everything that is due, once, as a worker would. Returns what the relay accepted; `sent` has it, too.

        Scheduled mail and mail that waits for a retry stays where it is: let time pass (`travel`), and deliver again.
        """
        accepted: list[Accepted] = []
        with self._transaction() as connection:
            clock.catch_up(connection)
            self._drain(_engine(connection), accepted)
            went = [self._read(connection, *mail) for mail in accepted]
        self.sent += went
        return went

    def travel(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Let time pass, for what waits for it: retries, scheduled mail, expiry, a relay that is left alone.

        All times in Outbox's tables move back by as much, the clock of the database being its own. Retries come after
        1, 2, 4, ... minutes by default, 20 % more or less, and after 72 minutes at most.
        """
        with self._transaction() as connection:
            clock.travel(connection, timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds))

    def assert_sent(self, *, to: str | None = None, subject: str | None = None, containing: str | None = None) -> Mail:
        """The one mail that was sent so: to this address, with this very subject, with these words in text or HTML."""
        __tracebackhide__ = True
        return self._one("sent", self.sent, Wanted(to, subject, containing))

    def assert_queued(
        self, *, to: str | None = None, subject: str | None = None, containing: str | None = None
    ) -> Mail:
        """The one such mail that is still to be sent."""
        __tracebackhide__ = True
        return self._one("queued", self.queued, Wanted(to, subject, containing))

    def assert_not_sent(
        self, *, to: str | None = None, subject: str | None = None, containing: str | None = None
    ) -> None:
        """No such mail was sent; without arguments: nothing was."""
        __tracebackhide__ = True
        self._none("sent", self.sent, Wanted(to, subject, containing))

    def assert_not_queued(
        self, *, to: str | None = None, subject: str | None = None, containing: str | None = None
    ) -> None:
        """No such mail is to be sent; without arguments: nothing is."""
        __tracebackhide__ = True
        self._none("queued", self.queued, Wanted(to, subject, containing))

    def _one(self, how: str, mails: Sequence[Mail], wanted: Wanted) -> Mail:
        __tracebackhide__ = True
        found = [mail for mail in mails if wanted.fits(mail)]
        if not found:
            self._fail(f"No mail{wanted} was {how}.", wanted)
        if len(found) > 1:
            self._fail(f"{len(found)} mails{wanted} were {how}, and one was asked for.", wanted)
        return found[0]

    def _none(self, how: str, mails: Sequence[Mail], wanted: Wanted) -> None:
        __tracebackhide__ = True
        if any(map(wanted.fits, mails)):
            self._fail(f"A mail{wanted} was {how}, and none was to be.", wanted)

    def _fail(self, what: str, wanted: Wanted) -> NoReturn:
        __tracebackhide__ = True
        queued = self.queued
        with self._transaction() as connection:
            due = connection.scalars(_PENDING.where(QueuedEmail.next_attempt_at <= utcnow()))
            standing = {mail.id: explain(connection, self._settings, mail.id) for mail in queued}
            ended = [
                f"to {row.recipient}, {row.subject!r}. {explain(connection, self._settings, row.id)}"
                for row in connection.execute(_ENDED)
            ]
            rest = Rest(standing, set(due), ended)
        raise AssertionError(told(what, wanted, self.sent, queued, rest))

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """The session's own. One that was open stays open; one that was not is committed, as a worker's would be."""
        session = self._sessions() if isinstance(self._sessions, scoped_session) else self._sessions
        was_open = session.in_transaction()
        if not was_open:
            session.begin()
        try:
            session.flush()
            yield session.connection(bind_arguments={"mapper": EmailContent})
        except BaseException:
            if not was_open:
                session.rollback()
            raise
        for known in session.identity_map.values():
            if isinstance(known, Base):
                session.expire(known)
        if not was_open:
            session.commit()

    def _compose(self, connection: sa.Connection) -> list[Mail]:
        """What is due, claimed."""
        claim = claims.claim(connection, dict.fromkeys(Priority, _ALL), WORKER, _LEASE)
        ids = sorted(id_ for lane in claim.ids.values() for id_ in lane)
        mails = load(connection, ids, claim.token, Safe.of(self._settings))
        composer = Composer(_engine(connection), mails, Signer.of(self._settings))
        sources = [composer.compose(mail) for mail in mails]
        return [
            Mail.read(mail.id, mail.sender, mail.recipient, source, parse(source))
            for mail, source in zip(mails, sources, strict=True)
        ]

    def _drain(self, engine: sa.Engine, accepted: list[Accepted]) -> None:
        settings = self._settings
        ledger = SavepointLedger(engine, settings.outbox_lease_seconds, Journal(settings.outbox_journal))
        open_relay = partial(ScriptedRelay, script=self.relay, accepted=accepted)
        courier = Courier(engine, settings, WORKER, ledger=ledger, open_relay=open_relay)

        def deliver(_: Priority, ids: Sequence[int], token: str) -> None:
            courier.deliver(ids, token)

        before = -1
        # A relay that was down gets one mail to try, and the next drain brings the others. Each must bring some.
        while before < len(accepted):
            before = len(accepted)
            drain(engine, settings, WORKER, deliver)
        courier.close()

    def _read(self, connection: sa.Connection, sender: str, recipient: str, source: bytes) -> Mail:
        message = parse(source)
        owed = message["X-Original-To"] if self._settings.outbox_redirect_to else recipient
        query = (
            sa.select(QueuedEmail.id)
            .join(QueuedEmail.content)
            .where(EmailContent.message_id == str(message["Message-ID"]), QueuedEmail.recipient == str(owed))
        )
        return Mail.read(connection.scalars(query).one(), sender, recipient, source, message)


@contextmanager
def _taken_back(connection: sa.Connection) -> Iterator[None]:
    savepoint = connection.begin_nested()
    try:
        yield
    finally:
        savepoint.rollback()


def _engine(connection: sa.Connection) -> sa.Engine:
    return cast("sa.Engine", SavepointEngine(connection))
