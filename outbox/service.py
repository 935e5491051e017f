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
from sqlalchemy.orm.attributes import set_committed_value

from outbox.attachments import Attachment
from outbox.database import insert, utcnow
from outbox.draft import Draft, draft
from outbox.errors import IdempotencyConflict, InvalidEmail
from outbox.models import EmailAttachment, EmailBlob, EmailContent, QueuedEmail
from outbox.settings import Settings
from outbox.states import OnUncertain, Priority

log = logging.getLogger(__name__)

Wake = Callable[[], None]

_WAKE = "outbox_wake"
"""The key of `session.info` under which an application keeps its wake, once, on its sessionmaker."""

_CONTENTS, _QUEUE, _ATTACHMENTS, _BLOBS = (
    cast("sa.Table", model.__table__) for model in (EmailContent, QueuedEmail, EmailAttachment, EmailBlob)
)

_KEYS_IN_A_QUERY = 1000
"""SQLite takes 32,766 parameters in a statement, PostgreSQL 65,535; more than this in one brings nothing."""

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
                self._session.flush()  # its rows may be waiting in this very session
                return self._session.get_one(QueuedEmail, self._first_rows([checked])[idempotency_key])
            content = written
        self._store_blobs([checked])
        content.recipients = [QueuedEmail(**row) for row in _rows(checked)]
        content.attachments = [EmailAttachment(**link) for link in _links(checked)]
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

    def _write(self, drafts: Sequence[Draft]) -> list[int]:
        ids = self._insert_contents(drafts)
        new = [(ids[d.content["message_id"]], d) for d in drafts if d.content["message_id"] in ids]
        self._store_blobs([d for _, d in new])
        links = [{"content_id": id_, **link} for id_, d in new for link in _links(d)]
        if links:
            self._connection().execute(sa.insert(_ATTACHMENTS), links)
        firsts = self._insert_rows(new)
        there = self._first_rows([d for d in drafts if d.content["message_id"] not in ids])
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
            raise InvalidEmail(f"mails[{number}]", mail, f"give the arguments of queue_email ({error})") from error

    def _insert_keyed(self, checked: Draft) -> EmailContent | None:
        """The new content, or None if the key is taken."""
        unless_taken = insert(EmailContent, self._connection()).on_conflict_do_nothing(**_KEY_IS_TAKEN)
        content = self._session.scalars(unless_taken.values(checked.content).returning(EmailContent)).one_or_none()
        if content is not None:
            for empty in ("recipients", "attachments"):  # known, and not worth a query each
                set_committed_value(content, empty, [])
        return content

    def _insert_contents(self, drafts: Sequence[Draft]) -> dict[str, int]:
        """Message-ID -> id of the contents written; those whose key is taken are not among them."""
        unless_taken = insert(_CONTENTS, self._connection()).on_conflict_do_nothing(**_KEY_IS_TAKEN)
        returning = unless_taken.returning(_CONTENTS.c.message_id, _CONTENTS.c.id)
        rows = self._connection().execute(returning, [d.content for d in drafts])
        return {row.message_id: row.id for row in rows}

    def _insert_rows(self, new: Sequence[tuple[int, Draft]]) -> dict[int, int]:
        """Content id -> id of its first queue row."""
        if not new:
            return {}
        unscheduled = {
            "scheduled_at": None,
            "expires_at": None,
            "next_attempt_at": self._connection().scalar(sa.select(utcnow())),
        }
        rows = [unscheduled | {"content_id": id_, **row} for id_, d in new for row in _rows(d)]
        firsts: dict[int, int] = {}
        statement = sa.insert(_QUEUE).returning(_QUEUE.c.content_id, _QUEUE.c.id)
        for row in self._connection().execute(statement, rows):
            firsts[row.content_id] = min(row.id, firsts.get(row.content_id, row.id))
        return firsts

    def _store_blobs(self, drafts: Sequence[Draft]) -> None:
        """Each distinct file once; one that is there, from whatever mail, is left alone."""
        blobs = {file.sha256: file for d in drafts for file in d.attachments}
        for sha256, file in sorted(blobs.items()):  # in one order everywhere, or two transactions wait for each other
            values = {"sha256": sha256, "size": len(file.data), "data": file.data}
            unless_there = insert(_BLOBS, self._connection()).on_conflict_do_nothing()
            self._connection().execute(unless_there, values)

    def _first_rows(self, drafts: Sequence[Draft]) -> dict[str, int]:
        """Key -> id of the first row of the mail that has it, or IdempotencyConflict if that says something else."""
        found = self._with_keys(sorted({d.content["idempotency_key"] for d in drafts}))
        for d in drafts:
            key = d.content["idempotency_key"]
            if key not in found:
                raise IdempotencyConflict(
                    f"idempotency_key={key!r}: a concurrent transaction, which this one cannot see, has just used it; "
                    "repeat the transaction"
                )
            if found[key].payload_hash != d.content["payload_hash"]:
                raise IdempotencyConflict(
                    f"idempotency_key={key!r}: it was used on {found[key].created_at:%Y-%m-%d %H:%M} for a mail that "
                    f"says something else ({found[key].message_id}); a new mail needs a new key"
                )
        return {key: row.first for key, row in found.items()}

    def _with_keys(self, keys: Sequence[str]) -> dict[str, Any]:
        c = _CONTENTS.c
        query = (
            sa.select(
                c.idempotency_key, c.payload_hash, c.message_id, c.created_at, sa.func.min(_QUEUE.c.id).label("first")
            )
            .join(_QUEUE, _QUEUE.c.content_id == c.id)
            .group_by(c.id)
        )
        return {
            row.idempotency_key: row
            for start in range(0, len(keys), _KEYS_IN_A_QUERY)
            for row in self._connection().execute(
                query.where(c.idempotency_key.in_(keys[start : start + _KEYS_IN_A_QUERY]))
            )
        }

    def _connection(self) -> sa.Connection:
        """The transaction's. A session may know several databases, by their models."""
        return self._session.connection(bind_arguments={"mapper": EmailContent})

    def _wake_after_commit(self) -> None:
        if self._wake is None:
            return
        session = self._session() if isinstance(self._session, scoped_session) else self._session
        session.info.setdefault(_WAKING, set()).add(self._wake)
        if not event.contains(session, "after_commit", _after_commit):
            event.listen(session, "after_commit", _after_commit)
            event.listen(session, "after_transaction_end", _after_end)


def _after_commit(session: Session) -> None:
    if session.in_nested_transaction():
        return  # a savepoint: nobody else can see the mail yet
    for wake in session.info.pop(_WAKING, ()):
        try:
            wake()
        except Exception:
            log.exception("wake failed: the mail is safe and waits for the next drain")


def _after_end(session: Session, transaction: SessionTransaction) -> None:
    # Not only after a rollback: a session may be closed with its transaction open, and then used again.
    if transaction.parent is None:
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
