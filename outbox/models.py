"""The tables. What is said (`EmailContent`), whom it is owed to (`QueuedEmail`), what was tried (`EmailAttempt`).

CHECK constraints tie a row's status to its columns, so that no statement, ours or a person's, can leave a row that
makes no sense. Indexes are partial, and every query repeats their predicate literally: PostgreSQL uses them only then.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from outbox.database import BigId, UtcDateTime, utcnow
from outbox.states import DeadReason, Feedback, Kind, OnUncertain, Outcome, RelayState, Stage, Status


class Base(DeclarativeBase):
    """The tables of Outbox. An application's own tables have a base of their own."""

    metadata = sa.MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
        }
    )


def _partial_index(name: str, *columns: str, where: str, unique: bool = False) -> sa.Index:
    return sa.Index(name, *columns, unique=unique, postgresql_where=sa.text(where), sqlite_where=sa.text(where))


def _one_of(column: str, values: type[Any]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=column)


class EmailContent(Base):
    """What is said: one row a mail, however many it goes to. Immutable, except that retention may purge its body."""

    __tablename__ = "email_contents"
    __table_args__ = (
        _partial_index(
            "uq_email_contents_idempotency_key", "idempotency_key", where="idempotency_key IS NOT NULL", unique=True
        ),
        sa.CheckConstraint("idempotency_key IS NULL OR payload_hash IS NOT NULL", name="keyed"),
        _partial_index("ix_email_contents_sealed", "id", where="sealed IS NOT NULL"),
        _partial_index("ix_email_contents_unpurged", "created_at", where="purged_at IS NULL"),
        _partial_index("ix_email_contents_request_id", "request_id", where="request_id IS NOT NULL"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    message_id: Mapped[str] = mapped_column(sa.Text, unique=True)
    """RFC 5322 Message-ID with its angle brackets, fixed at enqueue: a resend is recognisable as the same mail."""
    date: Mapped[datetime] = mapped_column(UtcDateTime)
    """The Date header, to the second."""
    sender: Mapped[str] = mapped_column(sa.Text)
    """The From header as it goes over the wire; its address is the envelope sender, too."""
    to_header: Mapped[str] = mapped_column(sa.Text)
    cc_header: Mapped[str | None] = mapped_column(sa.Text)
    reply_to: Mapped[str | None] = mapped_column(sa.Text)
    subject: Mapped[str] = mapped_column(sa.Text)
    text: Mapped[str | None] = mapped_column(sa.Text)
    html: Mapped[str | None] = mapped_column(sa.Text)
    headers: Mapped[dict[str, str]] = mapped_column(sa.JSON, default=dict)
    """Further headers, in the order given. (JSON, not JSONB, which would sort them.)"""
    template: Mapped[str | None] = mapped_column(sa.Text)
    locale: Mapped[str | None] = mapped_column(sa.Text)
    category: Mapped[str | None] = mapped_column(sa.Text)
    idempotency_key: Mapped[str | None] = mapped_column(sa.Text)
    payload_hash: Mapped[str | None] = mapped_column(sa.Text)
    """SHA-256 of all that was asked for, where there is a key: the same key must mean the same mail."""
    request_id: Mapped[str | None] = mapped_column(sa.Text)
    sensitive: Mapped[bool] = mapped_column(default=False)
    """What it says is in `sealed` alone, and wiped from there when its last recipient is final."""
    size: Mapped[int]
    """Bytes of the bodies and of the encoded attachments: what `OUTBOX_MAX_MESSAGE_BYTES` bounds."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    purged_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    sealed: Mapped[bytes | None] = mapped_column(sa.LargeBinary)
    """Subject, bodies, headers and file names, and the key of the attachments, encrypted. Read `sealing`."""
    contexts: Mapped[list[dict[str, Any]] | None] = mapped_column(sa.JSON(none_as_null=True))
    """What the template of a collapsing mail was given, oldest first: the next mail of its key is rendered with it."""

    recipients: Mapped[list["QueuedEmail"]] = relationship(back_populates="content", order_by="QueuedEmail.id")
    attachments: Mapped[list["EmailAttachment"]] = relationship(order_by="EmailAttachment.position")


class QueuedEmail(Base):
    """Whom a mail is owed to: one row per envelope recipient, so that a partly refused mail cannot exist."""

    __tablename__ = "email_queue"
    __table_args__ = (
        _one_of("status", Status),
        _one_of("kind", Kind),
        _one_of("on_uncertain", OnUncertain),
        _one_of("dead_reason", DeadReason),
        sa.CheckConstraint("priority IN (0, 1, 2)", name="priority"),
        sa.CheckConstraint("attempts >= 0 AND claims >= 0 AND max_attempts > 0", name="counts"),
        sa.CheckConstraint(
            "(status IN ('claimed', 'sending')) = (claim_token IS NOT NULL) AND "
            "(claim_token IS NULL) = (claimed_by IS NULL) AND "
            "(claim_token IS NULL) = (lease_expires_at IS NULL)",
            name="leased",
        ),
        sa.CheckConstraint("(status IN ('sent', 'dead', 'cancelled')) = (finalized_at IS NOT NULL)", name="final"),
        sa.CheckConstraint("(status = 'sent') = (sent_at IS NOT NULL)", name="sent"),
        sa.CheckConstraint("(status = 'dead') = (dead_reason IS NOT NULL)", name="dead"),
        _partial_index("ix_email_queue_due", "priority", "next_attempt_at", "id", where="status = 'pending'"),
        # Not on the lease time: renewing a lease would then rewrite every index (no HOT update).
        _partial_index("ix_email_queue_leased", "id", where="status IN ('claimed', 'sending')"),
        _partial_index("ix_email_queue_final", "finalized_at", where="status IN ('sent', 'dead', 'cancelled')"),
        # What waits for a person: counted by every gauge, and listed.
        _partial_index("ix_email_queue_failed", "status", "id", where="status IN ('dead', 'uncertain')"),
        # Few beside what is sent, and looked for whenever a person requeues all that a filter finds.
        _partial_index("ix_email_queue_cancelled", "id", where="status = 'cancelled'"),
        sa.Index("ix_email_queue_content_id", "content_id"),
        # "She says that she got nothing": what support asks first, whatever the letter case.
        sa.Index("ix_email_queue_recipient", sa.text("lower(recipient)"), "id"),
        _partial_index("ix_email_queue_supersedes", "supersedes", "content_id", where="supersedes IS NOT NULL"),
        # An alert a minute is 130,000 rows of one key in three months; one of them waits.
        _partial_index(
            "ix_email_queue_supersedable", "supersedes", where="status = 'pending' AND supersedes IS NOT NULL"
        ),
        _partial_index(
            "ix_email_queue_collapse", "collapse", "recipient", where="status = 'pending' AND collapse IS NOT NULL"
        ),
        # Room on each page for the new version of a row that is claimed, begun and settled.
        {"postgresql_with": {"fillfactor": "85"}},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    content_id: Mapped[int] = mapped_column(BigId, sa.ForeignKey("email_contents.id", ondelete="CASCADE"))
    recipient: Mapped[str] = mapped_column(sa.Text)
    """The bare address, for the envelope."""
    kind: Mapped[str] = mapped_column(sa.Text, default=Kind.TO)
    subject: Mapped[str] = mapped_column(sa.Text)
    """A copy: the audit line outlives the body."""
    category: Mapped[str | None] = mapped_column(sa.Text)
    status: Mapped[str] = mapped_column(sa.Text, default=Status.PENDING)
    priority: Mapped[int] = mapped_column(sa.SmallInteger, default=1)
    scheduled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When it was asked to go; unlike `next_attempt_at` it moves only when a person requeues the mail. A mail's
    age counts from here, or from its creation where that was later."""
    next_attempt_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(default=0)
    """Attempts that count towards `max_attempts`. The relay's own trouble does not."""
    max_attempts: Mapped[int]
    claims: Mapped[int] = mapped_column(default=0)
    """Times a worker took this row and did not hand it back untried; also the number of its current attempt."""
    on_uncertain: Mapped[str] = mapped_column(sa.Text)
    claim_token: Mapped[str | None] = mapped_column(sa.Text)
    claimed_by: Mapped[str | None] = mapped_column(sa.Text)
    lease_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_code: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(sa.Text)
    dead_reason: Mapped[str | None] = mapped_column(sa.Text)
    request_id: Mapped[str | None] = mapped_column(sa.Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    sent_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finalized_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    relay: Mapped[str | None] = mapped_column(sa.Text)
    """While `sending`, the relay that is spoken to; empty as long as the mail is only being composed for the first
    time. It stays when it is not known whether that relay took the mail: then the mail goes to no other."""
    waiting_for: Mapped[str | None] = mapped_column(sa.Text)
    """Why a pending mail was put back untried: a rate, the fence. In words; the next claim forgets it."""
    supersedes: Mapped[str | None] = mapped_column(sa.Text)
    """Of the mails with the same key, only the newest is sent."""
    collapse: Mapped[str | None] = mapped_column(sa.Text)
    """While this mail is pending, a further one with the same key and recipient takes it up into itself."""

    content: Mapped[EmailContent] = relationship(back_populates="recipients")
    tries: Mapped[list["EmailAttempt"]] = relationship(order_by="EmailAttempt.number")


class EmailAttempt(Base):
    """What was tried: one line per conversation, written in the transaction that settles the row."""

    __tablename__ = "email_attempts"
    __table_args__ = (
        _one_of("outcome", Outcome),
        _one_of("stage", Stage),
        # What did not go well, by time; of what did, `ix_email_queue_final` tells, and a mail that goes pays nothing.
        _partial_index("ix_email_attempts_unsent", "finished_at", where="outcome <> 'sent'"),
    )

    email_id: Mapped[int] = mapped_column(
        BigId, sa.ForeignKey("email_queue.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """The row's `claims` at the time: a claim has at most one conversation, so a line cannot be written twice."""
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    outcome: Mapped[str] = mapped_column(sa.Text)
    stage: Mapped[str] = mapped_column(sa.Text)
    code: Mapped[int | None]
    reply: Mapped[str] = mapped_column(sa.Text)
    relay: Mapped[str] = mapped_column(sa.Text)
    worker: Mapped[str] = mapped_column(sa.Text)


class EmailBlob(Base):
    """The bytes of an attachment, stored once however many mails carry them."""

    __tablename__ = "email_blobs"
    __table_args__ = (sa.Index("ix_email_blobs_created_at", "created_at"),)

    sha256: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    size: Mapped[int]
    data: Mapped[bytes] = mapped_column(sa.LargeBinary, deferred=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())


class EmailAttachment(Base):
    """A blob in a mail."""

    __tablename__ = "email_attachments"
    __table_args__ = (sa.Index("ix_email_attachments_sha256", "sha256"),)

    content_id: Mapped[int] = mapped_column(
        BigId, sa.ForeignKey("email_contents.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    position: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True, autoincrement=False)
    sha256: Mapped[str] = mapped_column(sa.Text, sa.ForeignKey("email_blobs.sha256"))
    filename: Mapped[str] = mapped_column(sa.Text)
    content_type: Mapped[str] = mapped_column(sa.Text)
    inline_id: Mapped[str | None] = mapped_column(sa.Text)
    """The inline id (`cid:` in the HTML), without brackets; an attachment to download has none."""


class EmailRelay(Base):
    """A relay's circuit breaker, shared by all workers; a relay that never had trouble has no row."""

    __tablename__ = "email_relays"
    __table_args__ = (
        _one_of("state", RelayState),
        sa.CheckConstraint("(state = 'half_open') = (probe_token IS NOT NULL)", name="probe"),
        sa.CheckConstraint("state NOT IN ('open', 'half_open') OR paused_until IS NOT NULL", name="until"),
    )

    name: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    """`host:port`."""
    state: Mapped[str] = mapped_column(sa.Text, default=RelayState.CLOSED)
    reason: Mapped[str | None] = mapped_column(sa.Text)
    latched: Mapped[bool] = mapped_column(default=False)
    """Misconfigured: waiting will not mend it, so probes are rare and a person should look."""
    failures: Mapped[int] = mapped_column(default=0)
    """Pauses in a row, each longer than the one before."""
    paused_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """closed: the relay rests until then. open: when a probe may go. half_open: when the probe counts as lost."""
    probe_token: Mapped[str | None] = mapped_column(sa.Text)
    """The claim that holds the one mail which may try."""
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    changed_by: Mapped[str | None] = mapped_column(sa.Text)
    """A worker, or the person who paused or resumed it."""


class EmailSuppression(Base):
    """Who must not get mail: an address, or a whole domain; all mail, or that of a category."""

    __tablename__ = "email_suppressions"

    target: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    """In lower case: `ada@example.com`, or `example.com` for every address in it."""
    reason: Mapped[str] = mapped_column(sa.Text)
    source: Mapped[str] = mapped_column(sa.Text)
    """Who said so: a person's name, or the relay's."""
    until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Empty: for good."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    category: Mapped[str] = mapped_column(sa.Text, primary_key=True, server_default="")
    """The one that the recipient has unsubscribed from. Empty: all mail, whatever its category."""


class EmailEnvironment(Base):
    """Whose mail this is: the `OUTBOX_ENVIRONMENT` that sends from this database. One row, made by the first drain."""

    __tablename__ = "email_environment"
    __table_args__ = (sa.CheckConstraint("id = 1", name="single"),)

    id: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(sa.Text)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    changed_by: Mapped[str | None] = mapped_column(sa.Text)


class EmailAudit(Base):
    """What a person did. No foreign keys: it outlives what it speaks of."""

    __tablename__ = "email_audit"
    __table_args__ = (_partial_index("ix_email_audit_email_id", "email_id", where="email_id IS NOT NULL"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    who: Mapped[str] = mapped_column(sa.Text)
    """`ada (admin page)`, `ada@host`, `token 7 of ada`."""
    action: Mapped[str] = mapped_column(sa.Text)
    """A verb of the command line: `requeue`, `cancel`, `resolve`, `pause`, `suppress`, `erase`."""
    target: Mapped[str] = mapped_column(sa.Text)
    """What it was done to, in words: `mail 42`, `relay mx1.example:587`, `ada@example.com`."""
    email_id: Mapped[int | None] = mapped_column(BigId)
    """The mail, if it was one: of many, each has a line of its own."""
    detail: Mapped[dict[str, Any]] = mapped_column(sa.JSON, default=dict)
    """What else was said: a reason, a resolution, a filter. No addresses but those that a person typed."""


class EmailEvent(Base):
    """What a provider told of a mail after its 250: delivered, bounced, complained. A word that comes twice is one."""

    __tablename__ = "email_events"
    __table_args__ = (
        _one_of("kind", Feedback),
        sa.UniqueConstraint("email_id", "provider", "provider_event_id", name="uq_email_events_told"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    email_id: Mapped[int] = mapped_column(BigId, sa.ForeignKey("email_queue.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(sa.Text)
    provider: Mapped[str] = mapped_column(sa.Text)
    """`ses`, `sendgrid`, `postmark`, `mailgun`, or `dsn` for a delivery status notification."""
    provider_event_id: Mapped[str] = mapped_column(sa.Text)
    """Its own name for the event, by which a repetition is known."""
    occurred_at: Mapped[datetime] = mapped_column(UtcDateTime)
    received_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    said: Mapped[str] = mapped_column(sa.Text)
    """The words with it: the other server's reply, the kind of complaint."""


class EmailHeartbeat(Base):
    """A process that said that it lives: a worker, or beat. If its line is old, it died, or has no database."""

    __tablename__ = "email_heartbeats"

    name: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    """`host:pid` of a worker, `beat@host`."""
    kind: Mapped[str] = mapped_column(sa.Text)
    """`worker` or `beat`."""
    at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    detail: Mapped[dict[str, Any]] = mapped_column(sa.JSON, default=dict)
    """What it has to say: its queues, whether its journal holds anything."""


class EmailTrouble(Base):
    """Something that is wrong now, and has been told: so that several watchers tell of it once."""

    __tablename__ = "email_troubles"

    key: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    """The same as long as it lasts: `oldest due`, `relay mx1.example:587`."""
    sentence: Mapped[str] = mapped_column(sa.Text)
    began_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    told_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When the webhook took it; empty as long as it is still to be told."""
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """It is over, and that is still to be told: then the line goes."""


class EmailCursor(Base):
    """How far a reader of the record has come, such as the webhook that passes events on."""

    __tablename__ = "email_cursors"

    name: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    position: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    moved_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
