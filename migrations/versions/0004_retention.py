"""What retention needs: the mails whose bodies are still there, and the files, by age.

Locks: `email_contents` and `email_blobs` against writing while PostgreSQL reads each once to build its index.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_UNPURGED = sa.text("purged_at IS NULL")


def upgrade() -> None:
    """Add the indexes."""
    op.create_index(
        "ix_email_contents_unpurged",
        "email_contents",
        ["created_at"],
        postgresql_where=_UNPURGED,
        sqlite_where=_UNPURGED,
    )
    op.create_index("ix_email_blobs_created_at", "email_blobs", ["created_at"])


def downgrade() -> None:
    """Take them away."""
    op.drop_index("ix_email_blobs_created_at", "email_blobs")
    op.drop_index("ix_email_contents_unpurged", "email_contents")
