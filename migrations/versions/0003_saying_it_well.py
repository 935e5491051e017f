"""What templates, unsubscribing, sensitive, superseding and collapsing mail need.

Locks: `email_contents`, `email_queue` and `email_suppressions` for a moment; the columns have no default to be written,
and the indexes begin empty, though PostgreSQL reads either large table once to find that out.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_INDEXES = (
    ("ix_email_contents_sealed", "email_contents", ["id"], "sealed IS NOT NULL"),
    ("ix_email_queue_supersedes", "email_queue", ["supersedes", "content_id"], "supersedes IS NOT NULL"),
    (
        "ix_email_queue_supersedable",
        "email_queue",
        ["supersedes"],
        "status = 'pending' AND supersedes IS NOT NULL",
    ),
    (
        "ix_email_queue_collapse",
        "email_queue",
        ["collapse", "recipient"],
        "status = 'pending' AND collapse IS NOT NULL",
    ),
)


def upgrade() -> None:
    """Add them."""
    op.add_column("email_contents", _optional("sealed", sa.LargeBinary()))
    op.add_column("email_contents", _optional("contexts", sa.JSON()))
    op.add_column("email_queue", _optional("supersedes"))
    op.add_column("email_queue", _optional("collapse"))
    for name, table, columns, where in _INDEXES:
        op.create_index(name, table, columns, postgresql_where=sa.text(where), sqlite_where=sa.text(where))
    with op.batch_alter_table("email_suppressions") as suppressions:
        suppressions.add_column(sa.Column("category", sa.Text(), nullable=False, server_default=""))
        suppressions.drop_constraint("pk_email_suppressions", type_="primary")
        suppressions.create_primary_key("pk_email_suppressions", ["target", "category"])


def downgrade() -> None:
    """Take them away. What was unsubscribed from is forgotten, and sensitive mail that is not yet sent dies."""
    op.execute("DELETE FROM email_suppressions WHERE category <> ''")
    with op.batch_alter_table("email_suppressions") as suppressions:
        suppressions.drop_constraint("pk_email_suppressions", type_="primary")
        suppressions.create_primary_key("pk_email_suppressions", ["target"])
        suppressions.drop_column("category")
    for name, table, _, _ in _INDEXES:
        op.drop_index(name, table)
    for table, column in (
        ("email_queue", "collapse"),
        ("email_queue", "supersedes"),
        ("email_contents", "contexts"),
        ("email_contents", "sealed"),
    ):
        op.drop_column(table, column)


def _optional(name: str, kind: Any = None) -> sa.Column[Any]:
    return sa.Column(name, kind or sa.Text(), nullable=True)
