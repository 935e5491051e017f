"""What an application calls: mail, written into the application's own transaction.

    with Session.begin() as session:
        EmailService(session).queue_email(to="ada@example.com", subject="Hello", text="Hello, Ada")

Rolled back: no mail. Committed: it will be sent, whatever dies next. Nothing here commits, and nothing talks to a
network: after the commit, one call of `wake` tells the workers that there is something to do.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.orm.attributes import set_committed_value

from outbox import enqueue, operations
from outbox.attachments import Attachment
from outbox.draft import Draft, draft
from outbox.errors import InvalidEmail
from outbox.explaining import explain
from outbox.models import EmailAttachment, EmailContent, QueuedEmail
from outbox.settings import Settings
from outbox.states import OnUncertain, Priority
from outbox.waking import WAKE, Wake, wake_after_commit


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
    ) -> QueuedEmail:
        """Add a mail to the session: one content, and one row for each address in `to`, `cc` and `bcc`.

        Returns the row of the first recipient; `.content.recipients` holds them all. Addresses are strings, with a
        name or without; one, or a list of them. Times are aware. `priority` is high, normal or low. `scheduled_at`
        holds the mail back until then; after `expires_at` it is not sent any more. `on_uncertain` says what to do when
        the relay may have had the mail: `retry` (risk a second copy) or `hold` (wait for a person).

        The same `idempotency_key` with the same mail returns the row that is there; with another mail it raises
        IdempotencyConflict. Anything that cannot be a mail raises InvalidEmail, naming the argument and its value;
        nothing is written then.
        """
        checked = draft(
            self._settings, to, subject, text=text, html=html, template=template, context=context, locale=locale,
            from_email=from_email, reply_to=reply_to, cc=cc, bcc=bcc, headers=headers, attachments=attachments,
            priority=priority, scheduled_at=scheduled_at, expires_at=expires_at, max_attempts=max_attempts,
            on_uncertain=on_uncertain, category=category, idempotency_key=idempotency_key, sensitive=sensitive,
            request_id=request_id,
        )  # fmt: skip
        content = EmailContent(**checked.content)
        if idempotency_key is not None:
            # At once and not at the flush: of two transactions with the same key, one waits here for the other.
            written = self._insert_keyed(checked)
            if written is None:
                self._session.flush()  # its rows may be waiting in this very session
                return self._session.get_one(
                    QueuedEmail, enqueue.first_rows(self._connection(), [checked])[idempotency_key]
                )
            content = written
        enqueue.store_blobs(self._connection(), [checked])
        ends = enqueue.ends(self._connection(), [checked])
        content.recipients = [QueuedEmail(**row) for row in enqueue.rows(checked, ends)]
        content.attachments = [EmailAttachment(**link) for link in enqueue.links(checked)]
        enqueue.wipe_if_born_dead(self._connection(), content, checked, ends)
        self._session.add(content)
        self._wake_after_commit()
        return content.recipients[0]

    def queue_emails(self, mails: Iterable[Mapping[str, Any]]) -> list[int]:
        """Queue many mails, each a mapping of `queue_email`'s arguments, at the speed of a bulk insert.

        All are queued, or with an error none. Returns, in order, the id of each mail's first row; to load the rows
        would cost more than to write them.
        """
        drafts = [self._numbered_draft(number, mail) for number, mail in enumerate(mails)]
        if not drafts:
            return []
        self._session.flush()
        if all(d.content["idempotency_key"] is None for d in drafts):
            return self._write(drafts)
        # Whether a key means another mail is only known for certain when the rest is written.
        with self._session.begin_nested():
            return self._write(drafts)

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
        row = self._session.identity_map.get(self._session.identity_key(QueuedEmail, id_))
        if row is not None:
            self._session.expire(row)  # it must not go on saying what is not so any more

    def _write(self, drafts: Sequence[Draft]) -> list[int]:
        connection = self._connection()
        ids = enqueue.insert_contents(connection, drafts)
        new = [(ids[d.content["message_id"]], d) for d in drafts if d.content["message_id"] in ids]
        enqueue.insert_attachments(connection, new)
        firsts = enqueue.insert_rows(connection, new)
        there = enqueue.first_rows(connection, [d for d in drafts if d.content["message_id"] not in ids])
        if new:
            self._wake_after_commit()
        return [
            firsts[ids[d.content["message_id"]]]
            if d.content["message_id"] in ids
            else there[d.content["idempotency_key"]]
            for d in drafts
        ]

    def _numbered_draft(self, number: int, mail: Mapping[str, Any]) -> Draft:
        try:
            return draft(self._settings, **mail)
        except InvalidEmail as error:
            raise type(error)(f"mails[{number}].{error.field}", error.value, error.problem) from error
        except TypeError as error:
            # Their names only: one of the values may be a secret.
            given = list(mail) if isinstance(mail, Mapping) else mail
            raise InvalidEmail(f"mails[{number}]", given, f"give the arguments of queue_email ({error})") from error

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


@cache
def _environment() -> Settings:
    return Settings.load()
