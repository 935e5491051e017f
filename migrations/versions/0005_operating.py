"""What operating it needs: who did what, what providers told, who lives, what is wrong; and how a mail is found.

Locks: `email_queue`, `email_contents` and `email_attempts` against writing while PostgreSQL reads each once to build
its index.
"""

import sqlalchemy as sa
from alembic import op

from outbox.database import BigId, UtcDateTime, utcnow

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = ("email_audit", "email_events", "email_heartbeats", "email_troubles", "email_cursors")


def upgrade() -> None:
    """Make them."""
    _create_audit()
    _create_events()
    _create_heartbeats()
    _create_troubles()
    _create_cursors()
    op.create_index("ix_email_queue_recipient", "email_queue", [sa.text("lower(recipient)"), "id"])
    _create_partial_index("ix_email_queue_cancelled", "email_queue", "id", "status = 'cancelled'")
    _create_partial_index("ix_email_contents_request_id", "email_contents", "request_id", "request_id IS NOT NULL")
    _create_partial_index("ix_email_attempts_unsent", "email_attempts", "finished_at", "outcome <> 'sent'")


def downgrade() -> None:
    """Drop them, and what they know."""
    op.drop_index("ix_email_attempts_unsent", "email_attempts")
    op.drop_index("ix_email_contents_request_id", "email_contents")
    op.drop_index("ix_email_queue_cancelled", "email_queue")
    op.drop_index("ix_email_queue_recipient", "email_queue")
    for table in reversed(_TABLES):
        op.drop_table(table)


def _create_audit() -> None:
    op.create_table(
        "email_audit",
        sa.Column("id", BigId, nullable=False),
        sa.Column("at", UtcDateTime(), server_default=utcnow(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("email_id", BigId, nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_email_audit")),
    )
    _create_partial_index("ix_email_audit_email_id", "email_audit", "email_id", "email_id IS NOT NULL")


def _create_events() -> None:
    op.create_table(
        "email_events",
        sa.Column("id", BigId, nullable=False),
        sa.Column("email_id", BigId, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("provider_event_id", sa.Text(), nullable=False),
        sa.Column("occurred_at", UtcDateTime(), nullable=False),
        sa.Column("received_at", UtcDateTime(), server_default=utcnow(), nullable=False),
        sa.Column("said", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('delivered', 'delayed', 'bounced', 'soft_bounced', 'complained')",
            name=op.f("ck_email_events_kind"),
        ),
        sa.ForeignKeyConstraint(
            ["email_id"], ["email_queue.id"], name=op.f("fk_email_events_email_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_email_events")),
        sa.UniqueConstraint("email_id", "provider", "provider_event_id", name="uq_email_events_told"),
    )


def _create_heartbeats() -> None:
    op.create_table(
        "email_heartbeats",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), server_default=utcnow(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_email_heartbeats")),
    )


def _create_troubles() -> None:
    op.create_table(
        "email_troubles",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("began_at", UtcDateTime(), server_default=utcnow(), nullable=False),
        sa.Column("told_at", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_email_troubles")),
    )


def _create_cursors() -> None:
    op.create_table(
        "email_cursors",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.JSON(), nullable=False),
        sa.Column("moved_at", UtcDateTime(), server_default=utcnow(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_email_cursors")),
    )


def _create_partial_index(name: str, table: str, column: str, where: str) -> None:
    op.create_index(name, table, [column], postgresql_where=sa.text(where), sqlite_where=sa.text(where))
