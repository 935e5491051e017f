"""The first tables: contents, queue, attempts, attachments."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from outbox.database import BigId, UtcDateTime, utcnow

revision = "0001"
down_revision = None
branch_labels = ("outbox",)
depends_on = None


def upgrade() -> None:
    """Make the tables, each after those that it points to."""
    _create_contents()
    _create_attachments()
    _create_queue()
    _create_attempts()


def downgrade() -> None:
    """Drop them, and the mail in them."""
    for table in ("email_attempts", "email_queue", "email_attachments", "email_blobs", "email_contents"):
        op.drop_table(table)


def _create_contents() -> None:
    op.create_table(
        "email_contents",
        _required("id", BigId),
        _required("message_id"),
        _required("date", UtcDateTime()),
        _required("sender"),
        _required("to_header"),
        _optional("cc_header"),
        _optional("reply_to"),
        _required("subject"),
        _optional("text"),
        _optional("html"),
        _required("headers", sa.JSON()),
        _optional("template"),
        _optional("locale"),
        _optional("category"),
        _optional("idempotency_key"),
        _optional("payload_hash"),
        _optional("request_id"),
        _required("sensitive", sa.Boolean()),
        _required("size", sa.Integer()),
        _stamped("created_at"),
        _optional("purged_at", UtcDateTime()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_email_contents")),
        sa.UniqueConstraint("message_id", name=op.f("uq_email_contents_message_id")),
        _check("email_contents", "keyed", "idempotency_key IS NULL OR payload_hash IS NOT NULL"),
    )
    _create_index(
        "uq_email_contents_idempotency_key",
        "email_contents",
        ["idempotency_key"],
        where="idempotency_key IS NOT NULL",
        unique=True,
    )


def _create_attachments() -> None:
    op.create_table(
        "email_blobs",
        _required("sha256"),
        _required("size", sa.Integer()),
        _required("data", sa.LargeBinary()),
        _stamped("created_at"),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_email_blobs")),
    )
    op.create_table(
        "email_attachments",
        _required("content_id", BigId, autoincrement=False),
        _required("position", sa.SmallInteger(), autoincrement=False),
        _required("sha256"),
        _required("filename"),
        _required("content_type"),
        _optional("inline_id"),
        sa.PrimaryKeyConstraint("content_id", "position", name=op.f("pk_email_attachments")),
        _belongs_to("email_attachments", "content_id", "email_contents.id"),
        sa.ForeignKeyConstraint(["sha256"], ["email_blobs.sha256"], name=op.f("fk_email_attachments_sha256")),
    )
    op.create_index("ix_email_attachments_sha256", "email_attachments", ["sha256"])


def _create_queue() -> None:
    op.create_table(
        "email_queue",
        _required("id", BigId),
        _required("content_id", BigId),
        _required("recipient"),
        _required("kind"),
        _required("subject"),
        _optional("category"),
        _required("status"),
        _required("priority", sa.SmallInteger()),
        _optional("scheduled_at", UtcDateTime()),
        _stamped("next_attempt_at"),
        _optional("expires_at", UtcDateTime()),
        _required("attempts", sa.Integer()),
        _required("max_attempts", sa.Integer()),
        _required("claims", sa.Integer()),
        _required("on_uncertain"),
        _optional("claim_token"),
        _optional("claimed_by"),
        _optional("lease_expires_at", UtcDateTime()),
        _optional("last_code", sa.Integer()),
        _optional("last_error"),
        _optional("dead_reason"),
        _optional("request_id"),
        _stamped("created_at"),
        _optional("sent_at", UtcDateTime()),
        _optional("finalized_at", UtcDateTime()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_email_queue")),
        _belongs_to("email_queue", "content_id", "email_contents.id"),
        *(_check("email_queue", name, condition) for name, condition in _QUEUE_CHECKS.items()),
        postgresql_with={"fillfactor": "85"},
    )
    _create_index(
        "ix_email_queue_due",
        "email_queue",
        ["priority", "next_attempt_at", "id"],
        where="status = 'pending'",
    )
    _create_index("ix_email_queue_leased", "email_queue", ["id"], where="status IN ('claimed', 'sending')")
    _create_index(
        "ix_email_queue_final",
        "email_queue",
        ["finalized_at"],
        where="status IN ('sent', 'dead', 'cancelled')",
    )
    _create_index("ix_email_queue_failed", "email_queue", ["status", "id"], where="status IN ('dead', 'uncertain')")
    op.create_index("ix_email_queue_content_id", "email_queue", ["content_id"])


_QUEUE_CHECKS = {
    "status": "status IN ('pending', 'claimed', 'sending', 'sent', 'dead', 'uncertain', 'cancelled')",
    "kind": "kind IN ('to', 'cc', 'bcc')",
    "on_uncertain": "on_uncertain IN ('retry', 'hold')",
    "dead_reason": "dead_reason IN ('rejected', 'exhausted', 'expired', 'suppressed', 'invalid')",
    "priority": "priority IN (0, 1, 2)",
    "counts": "attempts >= 0 AND claims >= 0 AND max_attempts > 0",
    "leased": (
        "(status IN ('claimed', 'sending')) = (claim_token IS NOT NULL) AND "
        "(claim_token IS NULL) = (claimed_by IS NULL) AND "
        "(claim_token IS NULL) = (lease_expires_at IS NULL)"
    ),
    "final": "(status IN ('sent', 'dead', 'cancelled')) = (finalized_at IS NOT NULL)",
    "sent": "(status = 'sent') = (sent_at IS NOT NULL)",
    "dead": "(status = 'dead') = (dead_reason IS NOT NULL)",
}


def _create_attempts() -> None:
    op.create_table(
        "email_attempts",
        _required("email_id", BigId, autoincrement=False),
        _required("number", sa.Integer(), autoincrement=False),
        _required("started_at", UtcDateTime()),
        _stamped("finished_at"),
        _required("outcome"),
        _required("stage"),
        _optional("code", sa.Integer()),
        _required("reply"),
        _required("relay"),
        _required("worker"),
        sa.PrimaryKeyConstraint("email_id", "number", name=op.f("pk_email_attempts")),
        _belongs_to("email_attempts", "email_id", "email_queue.id"),
        _check("email_attempts", "outcome", "outcome IN ('sent', 'deferred', 'rejected', 'uncertain', 'relay_down')"),
        _check("email_attempts", "stage", "stage IN ('connect', 'tls', 'auth', 'mail', 'rcpt', 'data', 'dot')"),
    )


def _required(name: str, kind: Any = None, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind or sa.Text(), nullable=False, **options)


def _optional(name: str, kind: Any = None) -> sa.Column[Any]:
    return sa.Column(name, kind or sa.Text(), nullable=True)


def _stamped(name: str) -> sa.Column[Any]:
    return _required(name, UtcDateTime(), server_default=utcnow())


def _belongs_to(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [target], name=op.f(f"fk_{table}_{column}"), ondelete="CASCADE")


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def _create_index(name: str, table: str, columns: list[str], *, where: str, unique: bool = False) -> None:
    predicate = sa.text(where)
    op.create_index(name, table, columns, unique=unique, postgresql_where=predicate, sqlite_where=predicate)
