"""Mail that a relay took, and what was told of it."""

from typing import Any

import sqlalchemy as sa

from outbox import feedback, suppressions
from outbox.database import reading
from outbox.models import EmailAttempt, EmailContent, QueuedEmail
from outbox.states import Outcome, Status
from tests import rows
from tests.rows import from_now

SENT: dict[str, Any] = {"status": Status.SENT, "sent_at": from_now(-60), "finalized_at": from_now(-60)}


def sent(engine: sa.Engine, reply: str = "2.0.0 Ok", **columns: Any) -> tuple[int, str]:
    """The id of a mail that the relay took, and its Message-ID."""
    (id_,) = rows.add(engine, **(SENT | columns))
    with engine.begin() as connection:
        rows.add_attempt(connection, id_, 1, Outcome.SENT)
        connection.execute(sa.update(EmailAttempt).where(EmailAttempt.email_id == id_).values(reply=reply))
    return id_, message_id_of(engine, id_)


def message_id_of(engine: sa.Engine, id_: int) -> str:
    with reading(engine) as connection:
        query = sa.select(EmailContent.message_id).join(QueuedEmail).where(QueuedEmail.id == id_)
        return connection.scalars(query).one()


def kept(engine: sa.Engine, id_: int) -> list[tuple[str, str]]:
    with reading(engine) as connection:
        return [(told.kind, told.said) for told in feedback.of_mail(connection, id_)]


def suppressed(engine: sa.Engine) -> dict[str, tuple[str, str]]:
    with reading(engine) as connection:
        return {line.target: (line.reason, line.source) for line in suppressions.listed(connection)}
