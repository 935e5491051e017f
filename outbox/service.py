"""What an application calls: mail, written into the application's own transaction.

    with Session.begin() as session:
        EmailService(session).queue_email(to="ada@example.com", subject="Hello", text="Hello, Ada")

Rolled back: no mail. Committed: it will be sent, whatever dies next. Nothing here commits, and nothing talks to a
network: after the commit, one call of `wake` tells the workers that there is something to do.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from itertools import islice
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy.orm import Session, make_transient_to_detached, scoped_session
from sqlalchemy.orm.attributes import set_committed_value

from outbox import enqueue, operations, superseding
from outbox.attachments import Attachment, Blob, file_bytes
from outbox.database import utcnow
from outbox.draft import Draft, draft
from outbox.errors import InvalidEmail, TooLarge
from outbox.explaining import explain
from outbox.logs import tell
from outbox.models import EmailAttachment, EmailContent, QueuedEmail
from outbox.settings import Settings
from outbox.states import OnUncertain, Priority
from outbox.superseding import Digest
from outbox.waking import WAKE, Wake, log_after_commit, wake_after_commit

log = logging.getLogger(__name__)

BATCH = 1000
"""Mails that a bulk has in memory at a time: fewer cost round trips, more bring nothing."""


class EmailService:
    """Queues mail in `session`'s transaction.

    `wake` is called once after a commit that holds mail; it defaults to `session.info["outbox_wake"]`. Without one, the
    mail waits for the next drain. What it raises is logged: the mail is committed, and must not look as if it failed.
    """

    def __init__(
        self, session: Session | scoped_session[Session], settings: Settings | None = None, wake: Wake | None = None
    ) -> None:
        self._session = session
        self._settings = settings or _environment()
        self._wake: Wake | None = wake or session.info.get(WAKE)

    def queue_email(
        self,
        to: str | Iterable[str],
        subject: str | None = None,
        *,
        text: str | None = None,
        html: str | None = None,
        template: str | None = None,
        context: Mapping[str, Any] | None = None,
        locale: str | None = None,
        from_email: str | None = None,
        reply_to: str | Iterable[str] | None = None,
        cc: str | Iterable[str] = (),
        bcc: str | Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
        attachments: Iterable[Attachment] = (),
        priority: str | Priority = "normal",
        scheduled_at: datetime | None = None,
        expires_at: datetime | None = None,
        max_attempts: int | None = None,
        on_uncertain: str | OnUncertain | None = None,
        category: str | None = None,
        idempotency_key: str | None = None,
        sensitive: bool = False,
        request_id: str | None = None,
        supersedes: str | None = None,
        collapse: str | None = None,
        within: float | None = None,
    ) -> QueuedEmail:
        """Add a mail to the session: one content, and one row for each address in `to`, `cc` and `bcc`.

        Returns the row of the first recipient; `.content.recipients` holds them all. Addresses are strings, with a
        name or without; one, or a list of them. Times are aware. `priority` is high, normal or low. `scheduled_at`
        holds the mail back until then; after `expires_at` it is not sent any more. `on_uncertain` says what to do when
        the relay may have had the mail: `retry` (risk a second copy) or `hold` (wait for a person). A `category` of
        OUTBOX_SUBSCRIPTIONS puts the recipient's unsubscribe link into the headers, and takes one recipient a mail.

        `supersedes` is a key: of the mails that have it only the newest is sent, and the older ones that have not gone
        are cancelled. `collapse` is a key, too: as long as a mail of it to the same recipient waits, a further one
        takes it up and becomes a digest, whose template finds all their contexts, oldest first, in `contexts`. It goes
        `within` so many seconds of the first. What makes no mail together with what waits begins another digest.

        `sensitive` encrypts what the mail says, files included, with a key of OUTBOX_ENCRYPTION_KEYS, shows it nowhere,
        and wipes it when its last recipient has it or never will.

        The same `idempotency_key` with the same mail returns the row that is there; with another mail it raises
        IdempotencyConflict. Anything that cannot be a mail raises InvalidEmail, naming the argument and its value;
        nothing is written then.
        """
        mail: dict[str, Any] = {
            "to": to, "subject": subject, "text": text, "html": html, "template": template, "context": context,
            "locale": locale, "from_email": from_email, "reply_to": reply_to, "cc": cc, "bcc": bcc, "headers": headers,
            "attachments": attachments, "priority": priority, "scheduled_at": scheduled_at, "expires_at": expires_at,
            "max_attempts": max_attempts, "on_uncertain": on_uncertain, "category": category,
            "idempotency_key": idempotency_key, "sensitive": sensitive, "request_id": request_id,
            "supersedes": supersedes, "collapse": collapse, "within": within,
        }  # fmt: skip
        return self._add(draft(self._settings, **mail)) if collapse is None else self._collapse(mail)

    def queue_emails(
        self,
        mails: Iterable[Mapping[str, Any]],
        *,
        progress: Callable[[int], object] | None = None,
        **common: Any,
    ) -> list[int]:
        """Queue many mails, each a mapping of `queue_email`'s arguments, at the speed of a bulk insert.

        `common` are arguments of all of them: `queue_emails(({"to": u.email, "context": {"name": u.name}} for u in
        users), template="news")`. All are queued, or with an error none. `mails` may be a generator: it is read a
        thousand at a time, and `progress` is told after each how many are written. Returns, in order, the id of each
        mail's first row; to load the rows would cost more than to write them.
        """
        self._session.flush()
        ids: list[int] = []
        # Whether a key means another mail is only known for certain when the rest is written.
        with self._session.begin_nested():
            for batch in _batches(enumerate(mails)):
                drafts = [self._numbered_draft(number, mail, common) for number, mail in batch]
                ids += self._write(drafts, len(ids))
                if progress is not None:
                    progress(len(ids))
        return ids

    def taken(self, keys: Iterable[str]) -> set[str]:
        """Those of the idempotency keys that a mail has already: what a job that runs again need not compose again."""
        self._session.flush()
        return enqueue.taken(self._connection(), keys)

    def store(self, data: bytes | BinaryIO) -> Blob:
        """Write a file, in the session's transaction, for `Attachment(filename, blob)` in this mail and later ones.

        For a file that goes with many mails, or that comes long before its mail: the Blob is all that need be kept.
        It stays as long as a mail has it, and for `OUTBOX_BODY_RETENTION_DAYS` from when it was first stored.
        The same bytes are stored once, whoever gives them. `data` is bytes, or a stream opened in binary mode.
        """
        read = file_bytes(data)
        largest = self._settings.outbox_max_attachment_bytes
        if len(read) > largest:
            raise TooLarge("data", len(read), f"bytes, more than OUTBOX_MAX_ATTACHMENT_BYTES={largest}")
        blob = Attachment("stored", read).blob
        enqueue.store(self._connection(), {blob.sha256: read})
        return blob

    def cancel(self, id_: int) -> None:
        """Call a pending mail back. Raises NotPossible if it is not there or not pending (any more)."""
        self._move(id_, operations.cancel, "cancelled")

    def requeue(self, id_: int) -> None:
        """Send a dead, cancelled or uncertain mail, as if it were queued now. Raises NotPossible if it is none."""
        self._move(id_, operations.requeue, "requeued")
        self._wake_after_commit()

    def explain(self, id_: int) -> str:
        """One sentence on how a mail stands: why it has not gone yet, and when it will; or what became of it."""
        self._session.flush()
        return explain(self._connection(), self._settings, id_)

    def _move(self, id_: int, move: Callable[[sa.Connection, Iterable[int]], set[int]], wish: str) -> None:
        self._session.flush()  # the row may be waiting in this very session
        if not move(self._connection(), [id_]):
            raise operations.refusal(self._connection(), id_, wish)
        self._expire([id_])

    def _expire(self, ids: Iterable[int]) -> None:
        """Rows that the session may hold, and that must not go on saying what is not so any more."""
        for id_ in ids:
            row = self._session.identity_map.get(self._session.identity_key(QueuedEmail, id_))
            if row is not None:
                self._session.expire(row)

    def _add(self, checked: Draft) -> QueuedEmail:
        """The first row of the new mail, or of the one that has its idempotency key."""
        if enqueue.fits_one_statement(self._connection(), checked):
            if any(isinstance(waiting, QueuedEmail) for waiting in self._session.new):
                self._session.flush()  # they keep their order
            if written := enqueue.write(self._connection(), checked):
                self._follow_up(written.row_ids, checked.content["request_id"])
                return self._loaded(checked, written)
        enqueue.check_blobs(self._connection(), [("", checked)])
        content = EmailContent(**checked.content)
        key, supersedes = checked.content["idempotency_key"], checked.row["supersedes"]
        if key is not None:
            # At once and not at the flush: of two transactions with the same key, one waits here for the other.
            inserted = self._insert_keyed(checked)
            if inserted is None:
                self._session.flush()  # its rows may be waiting in this very session
                return self._session.get_one(QueuedEmail, enqueue.first_rows(self._connection(), [checked])[key])
            content = inserted
        enqueue.store_blobs(self._connection(), [checked])
        ends = enqueue.ends(self._connection(), [checked])
        content.recipients = [QueuedEmail(**row) for row in enqueue.rows(checked, ends)]
        content.attachments = [EmailAttachment(**link) for link in enqueue.links(checked)]
        enqueue.wipe_if_born_dead(self._connection(), content, checked, ends)
        self._session.add(content)
        if supersedes is not None:
            self._session.flush()
            self._supersede([supersedes])
        self._follow_up(list(content.recipients), content.request_id)
        return content.recipients[0]

    def _follow_up(self, mails: Sequence[QueuedEmail | int], request_id: str | None) -> None:
        """What there is to do after the commit: mails that are queued are told of and sent."""
        log_after_commit(self._session, mails, request_id)
        self._wake_after_commit()

    def _loaded(self, checked: Draft, written: enqueue.Written) -> QueuedEmail:
        """The first row of a mail that is in the database, as if the session had read it from there."""
        columns = enqueue.rows(checked, {})[0]
        row = QueuedEmail(id=written.row_ids[0], content_id=written.content_id, **columns)
        make_transient_to_detached(row)
        self._session.add(row)
        return row

    def _collapse(self, mail: Mapping[str, Any]) -> QueuedEmail:
        """The same for a mail that collapses: it takes up the digest that waits, or begins one."""
        # It is drafted twice, and what can be read but once would be empty then.
        mail = {name: list(value) if isinstance(value, Iterator) else value for name, value in mail.items()}
        checked = draft(self._settings, **mail)
        assert checked.within is not None
        ((_, recipient),) = checked.recipients
        self._session.flush()
        digest = superseding.waiting(
            self._connection(), mail["collapse"], recipient, checked.row["category"], mail["template"]
        )
        grown = None if digest is None else self._grown(digest, mail)
        if digest is None or grown is None:
            now = self._connection().execute(sa.select(utcnow())).scalar_one()
            digest, due = None, now + timedelta(seconds=checked.within)
        else:
            checked, due = grown, digest.due
        checked.row.update(scheduled_at=due, next_attempt_at=due)
        row = self._add(checked)
        # Not for a mail that was queued before, whose key is taken; nor for one born dead: what waits may yet go.
        is_new = row.content.message_id == checked.content["message_id"]
        if digest is not None and is_new and row.finalized_at is None:
            superseding.take_up(self._connection(), digest)
            self._expire([digest.id])
        return row

    def _grown(self, digest: Digest, mail: Mapping[str, Any]) -> Draft | None:
        """The mail with the digest's contexts; None if they make no mail together, though each of them does.

        They are too large for one, or the template was reworded and wants what the older ones do not have. That must
        not fail whoever queues the newest: the digest goes as it is, and another begins.
        """
        try:
            return draft(self._settings, **mail, earlier=digest.contexts)
        except InvalidEmail as error:
            tell(
                log, logging.WARNING, "digest.split",
                "collapse: mail %(mail_id)d goes as it is, and another digest begins: %(why)s",
                mail_id=digest.id, why=str(error),
            )  # fmt: skip
            return None

    def _write(self, drafts: Sequence[Draft], first: int) -> list[int]:
        """The ids of their first rows. `first`: the number of the first of them in the whole bulk."""
        connection = self._connection()
        enqueue.check_blobs(connection, ((f"mails[{number}].", d) for number, d in enumerate(drafts, first)))
        ids = enqueue.insert_contents(connection, drafts)
        new = [(ids[d.content["message_id"]], d) for d in drafts if d.content["message_id"] in ids]
        enqueue.insert_attachments(connection, new)
        firsts = enqueue.insert_rows(connection, new)
        there = enqueue.first_rows(connection, [d for d in drafts if d.content["message_id"] not in ids])
        self._supersede({d.row["supersedes"] for _, d in new} - {None})
        if new:
            written = [firsts[id_] for id_, _ in new]
            self._follow_up(written, drafts[0].content["request_id"])
        return [
            firsts[ids[d.content["message_id"]]]
            if d.content["message_id"] in ids
            else there[d.content["idempotency_key"]]
            for d in drafts
        ]

    def _supersede(self, keys: Collection[str]) -> None:
        if keys:
            self._expire(superseding.supersede(self._connection(), keys))

    def _numbered_draft(self, number: int, mail: Mapping[str, Any], common: Mapping[str, Any]) -> Draft:
        try:
            checked = draft(self._settings, **{**common, **mail})
        except InvalidEmail as error:
            raise type(error)(f"mails[{number}].{error.field}", error.value, error.problem) from error
        except TypeError as error:
            # Their names only, or what it is instead: one of the values may be a secret.
            given = list(mail) if isinstance(mail, Mapping) else type(mail)
            raise InvalidEmail(f"mails[{number}]", given, f"give the arguments of queue_email ({error})") from error
        if checked.within is not None:
            raise InvalidEmail(
                f"mails[{number}].collapse", checked.row["collapse"], "queue a mail that collapses with queue_email"
            )
        return checked

    def _insert_keyed(self, checked: Draft) -> EmailContent | None:
        """The new content, or None if the key is taken."""
        inserted = enqueue.unless_taken(EmailContent, self._connection()).values(checked.content)
        content = self._session.scalars(inserted.returning(EmailContent)).one_or_none()
        if content is not None:
            for empty in ("recipients", "attachments"):  # known, and not worth a query each
                set_committed_value(content, empty, [])
        return content

    def _connection(self) -> sa.Connection:
        """The transaction's. A session may know several databases, by their models."""
        return self._session.connection(bind_arguments={"mapper": EmailContent})

    def _wake_after_commit(self) -> None:
        if self._wake is not None:
            wake_after_commit(self._session, self._wake)


def _batches(mails: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[list[tuple[int, Mapping[str, Any]]]]:
    iterator = iter(mails)
    while batch := list(islice(iterator, BATCH)):
        yield batch


@cache
def _environment() -> Settings:
    return Settings.load()
