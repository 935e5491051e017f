"""What retention needs: the mails whose bodies are still there, by age.

Locks: `email_contents` against writing while PostgreSQL reads it once to build the index.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_UNPURGED = sa.text("purged_at IS NULL")


def upgrade() -> None:
    """Add it."""
    op.create_index(
        "ix_email_contents_unpurged",
        "email_contents",
        ["created_at"],
        postgresql_where=_UNPURGED,
        sqlite_where=_UNPURGED,
    )


def downgrade() -> None:
    """Take it away."""
    op.drop_index("ix_email_contents_unpurged", "email_contents")
