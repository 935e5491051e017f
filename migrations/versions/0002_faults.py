"""What an answer to every failure needs: the relays' breakers, suppressions, the environment, new outcomes.

Locks: `email_queue` and `email_attempts` for as long as two columns without a default and two CHECKs take; PostgreSQL
reads `email_attempts` once for the latter, and SQLite writes it anew.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from outbox.database import UtcDateTime, utcnow

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BEFORE = {
    "outcome": "outcome IN ('sent', 'deferred', 'rejected', 'uncertain', 'relay_down')",
    "stage": "stage IN ('connect', 'tls', 'auth', 'mail', 'rcpt', 'data', 'dot')",
}
_NOW = {
    "outcome": (
        "outcome IN ('sent', 'deferred', 'rejected', 'uncertain', 'relay_down', 'relay_misconfigured', 'throttled')"
    ),
    "stage": "stage IN ('compose', 'connect', 'tls', 'auth', 'mail', 'rcpt', 'data', 'dot')",
}


def upgrade() -> None:
    """Add them."""
    op.add_column("email_queue", _optional("relay"))
    op.add_column("email_queue", _optional("waiting_for"))
    _check_attempts(_NOW)
    op.create_table(
        "email_relays",
        _required("name"),
        _required("state"),
        _optional("reason"),
        _required("latched", sa.Boolean()),
        _required("failures", sa.Integer()),
        _optional("paused_until", UtcDateTime()),
        _optional("probe_token"),
        _required("changed_at", UtcDateTime(), server_default=utcnow()),
        _optional("changed_by"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_email_relays")),
        _check("email_relays", "state", "state IN ('closed', 'open', 'half_open', 'paused')"),
        _check("email_relays", "probe", "(state = 'half_open') = (probe_token IS NOT NULL)"),
        _check("email_relays", "until", "state NOT IN ('open', 'half_open') OR paused_until IS NOT NULL"),
    )
    op.create_table(
        "email_suppressions",
        _required("target"),
        _required("reason"),
        _required("source"),
        _optional("until", UtcDateTime()),
        _required("created_at", UtcDateTime(), server_default=utcnow()),
        sa.PrimaryKeyConstraint("target", name=op.f("pk_email_suppressions")),
    )
    op.create_table(
        "email_environment",
        _required("id", sa.SmallInteger(), autoincrement=False),
        _required("name"),
        _required("changed_at", UtcDateTime(), server_default=utcnow()),
        _optional("changed_by"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_email_environment")),
        _check("email_environment", "single", "id = 1"),
    )


def downgrade() -> None:
    """Take them away. What the relays were told, and who is suppressed, is forgotten."""
    for table in ("email_environment", "email_suppressions", "email_relays"):
        op.drop_table(table)
    op.execute("UPDATE email_attempts SET outcome = 'relay_down' WHERE outcome IN ('relay_misconfigured', 'throttled')")
    op.execute("UPDATE email_attempts SET stage = 'connect' WHERE stage = 'compose'")
    _check_attempts(_BEFORE)
    # Not in a batch, which makes the table anew on SQLite: to drop the old one would delete all attempts with it.
    op.drop_column("email_queue", "waiting_for")
    op.drop_column("email_queue", "relay")


def _check_attempts(conditions: dict[str, str]) -> None:
    with op.batch_alter_table("email_attempts") as attempts:
        for name, condition in conditions.items():
            attempts.drop_constraint(op.f(f"ck_email_attempts_{name}"), type_="check")
            attempts.create_check_constraint(op.f(f"ck_email_attempts_{name}"), condition)


def _required(name: str, kind: Any = None, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind or sa.Text(), nullable=False, **options)


def _optional(name: str, kind: Any = None) -> sa.Column[Any]:
    return sa.Column(name, kind or sa.Text(), nullable=True)


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))
