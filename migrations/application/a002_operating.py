"""Failed Celery tasks, and what an API token may do. Nothing is locked."""

import sqlalchemy as sa
from alembic import op

from outbox.database import BigId, UtcDateTime, utcnow

revision = "a002"
down_revision = "a001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and the column."""
    op.create_table(
        "dead_tasks",
        sa.Column("id", BigId, nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("kwargs", sa.JSON(), nullable=False),
        sa.Column("exception", sa.Text(), nullable=False),
        sa.Column("traceback", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("failed_at", UtcDateTime(), server_default=utcnow(), nullable=False),
        sa.Column("retried_at", UtcDateTime(), nullable=True),
        sa.Column("retried_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_tasks")),
        sa.UniqueConstraint("task_id", name=op.f("uq_dead_tasks_task_id")),
    )
    op.add_column("api_tokens", sa.Column("scopes", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("api_tokens", "scopes")
    op.drop_table("dead_tasks")
