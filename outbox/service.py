"""What an application calls: mail, written into the application's own transaction.

    with Session.begin() as session:
        EmailService(session).queue_email(to="ada@example.com", subject="Hello", text="Hello, Ada")

Rolled back: no mail. Committed: it will be sent, whatever dies next. Nothing here commits, and nothing talks to a
network: after the commit, one call of `wake` tells the workers that there is something to do.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from outbox.database import insert, utcnow
from outbox.draft import Attachment, Draft, draft
from outbox.errors import IdempotencyConflict, InvalidEmail
from outbox.models import EmailAttachment, EmailBlob, EmailContent, QueuedEmail
from outbox.settings import Settings
from outbox.states import OnUncertain, Priority

log = logging.getLogger(__name__)

Wake = Callable[[], None]

_WAKE = "outbox_wake"
"""The key of `session.info` under which an application keeps its wake, once, on its sessionmaker."""

_CONTENTS, _QUEUE, _ATTACHMENTS = (
    cast("sa.Table", model.__table__) for model in (EmailContent, QueuedEmail, EmailAttachment)
)

_KEY_IS_TAKEN: dict[str, Any] = {
    "index_elements": ["idempotency_key"],
    "index_where": sa.text("idempotency_key IS NOT NULL"),
}

_WAKING = "outbox_waking"
"""The key of `session.info` for what to call after the transaction that is open."""


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
        self._wake: Wake | None = wake or session.info.get(_WAKE)

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
                return self._existing([checked])[idempotency_key].recipients[0]
            content = written
        self._store_blobs([checked])
        content.recipients = [QueuedEmail(**row) for row in _rows(checked)]
        content.attachments = [EmailAttachment(**link) for link in _links(checked)]
        self._session.add(content)
        self._wake_after_commit()
        return content.recipients[0]

    def queue_emails(self, mails: Iterable[Mapping[str, Any]]) -> list[int]:
        """Queue many mails, each a mapping of `queue_email`'s arguments, at the speed of a bulk insert.

        All are checked before the first is written. Returns, in order, the id of each mail's first row; to load the
        rows would cost more than to write them.
        """
        drafts = [self._numbered_draft(number, mail) for number, mail in enumerate(mails)]
        if not drafts:
            return []
        self._session.flush()
        self._store_blobs(drafts)
        written = self._insert_contents(drafts)
        new = [(written[d.content["message_id"]], d) for d in drafts if d.content["message_id"] in written]
        links = [{"content_id": id_, **link} for id_, d in new for link in _links(d)]
        if links:
            self._session.connection().execute(sa.insert(_ATTACHMENTS), links)
        firsts = self._insert_rows(new)
        self._wake_after_commit()
        old = self._existing([d for d in drafts if d.content["message_id"] not in written])
        return [
            firsts[written[d.content["message_id"]]]
            if d.content["message_id"] in written
            else old[d.content["idempotency_key"]].recipients[0].id
            for d in drafts
        ]

    def _numbered_draft(self, number: int, mail: Mapping[str, Any]) -> Draft:
        try:
            return draft(self._settings, **mail)
        except InvalidEmail as error:
            raise type(error)(f"mails[{number}].{error.field}", error.value, error.problem) from error
        except TypeError as error:
            raise InvalidEmail(f"mails[{number}]", mail, f"give the arguments of queue_email ({error})") from error

    def _insert_keyed(self, checked: Draft) -> EmailContent | None:
        """The new content, or None if the key is taken."""
        unless_taken = insert(EmailContent, self._session).on_conflict_do_nothing(**_KEY_IS_TAKEN)
        return self._session.scalars(unless_taken.values(checked.content).returning(EmailContent)).one_or_none()

    def _insert_contents(self, drafts: Sequence[Draft]) -> dict[str, int]:
        """Message-ID -> id of the contents written; those whose key is taken are not among them."""
        unless_taken = insert(_CONTENTS, self._session).on_conflict_do_nothing(**_KEY_IS_TAKEN)
        returning = unless_taken.returning(_CONTENTS.c.message_id, _CONTENTS.c.id)
        rows = self._session.connection().execute(returning, [d.content for d in drafts])
        return {row.message_id: row.id for row in rows}

    def _insert_rows(self, new: Sequence[tuple[int, Draft]]) -> dict[int, int]:
        """Content id -> id of its first queue row."""
        if not new:
            return {}
        unscheduled = {
            "scheduled_at": None,
            "expires_at": None,
            "next_attempt_at": self._session.scalar(sa.select(utcnow())),
        }
        rows = [unscheduled | {"content_id": id_, **row} for id_, d in new for row in _rows(d)]
        firsts: dict[int, int] = {}
        statement = sa.insert(_QUEUE).returning(_QUEUE.c.content_id, _QUEUE.c.id)
        for row in self._session.connection().execute(statement, rows):
            firsts[row.content_id] = min(row.id, firsts.get(row.content_id, row.id))
        return firsts

    def _store_blobs(self, drafts: Sequence[Draft]) -> None:
        """Each distinct file once; one that is there, from whatever mail, is left alone."""
        blobs = {file.sha256: file for d in drafts for file in d.attachments}
        for sha256, file in blobs.items():
            values = {"sha256": sha256, "size": len(file.data), "data": file.data}
            self._session.execute(insert(EmailBlob, self._session).values(values).on_conflict_do_nothing())

    def _existing(self, drafts: Sequence[Draft]) -> dict[str, EmailContent]:
        """Key -> the content that has it. Raises IdempotencyConflict where that says something else."""
        wanted = {d.content["idempotency_key"]: d.content["payload_hash"] for d in drafts}
        if not wanted:
            return {}
        contents = self._session.scalars(sa.select(EmailContent).where(EmailContent.idempotency_key.in_(wanted)))
        found = {content.idempotency_key: content for content in contents}
        for key, payload_hash in wanted.items():
            if key not in found:
                raise IdempotencyConflict(
                    f"idempotency_key={key!r}: a concurrent transaction, which this one cannot see, has just used it; "
                    "repeat the transaction"
                )
            if found[key].payload_hash != payload_hash:
                raise IdempotencyConflict(
                    f"idempotency_key={key!r}: it was used on {found[key].created_at:%Y-%m-%d %H:%M} for a mail that "
                    f"says something else ({found[key].message_id}); a new mail needs a new key"
                )
        return {str(key): content for key, content in found.items()}

    def _wake_after_commit(self) -> None:
        if self._wake is None:
            return
        session = self._session() if isinstance(self._session, scoped_session) else self._session
        session.info.setdefault(_WAKING, set()).add(self._wake)
        if not event.contains(session, "after_commit", _after_commit):
            event.listen(session, "after_commit", _after_commit)
            event.listen(session, "after_soft_rollback", _after_rollback)


def _after_commit(session: Session) -> None:
    if session.in_nested_transaction():
        return  # a savepoint: nobody else can see the mail yet
    for wake in session.info.pop(_WAKING, ()):
        try:
            wake()
        except Exception:
            log.exception("wake failed: the mail is safe and waits for the next drain")


def _after_rollback(session: Session, previous: SessionTransaction) -> None:
    if previous.parent is None:
        session.info.pop(_WAKING, None)


def _rows(checked: Draft) -> list[dict[str, Any]]:
    return [{**checked.row, "kind": kind, "recipient": address} for kind, address in checked.recipients]


def _links(checked: Draft) -> list[dict[str, Any]]:
    return [
        {
            "position": position,
            "sha256": file.sha256,
            "filename": file.filename,
            "content_type": file.media_type,
            "inline_id": file.inline_id,
        }
        for position, file in enumerate(checked.attachments)
    ]


@cache
def _environment() -> Settings:
    return Settings.load()
