"""Mail through a courier of this process to a scripted relay, as `outbox drain` does it."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox import claims
from outbox.delivery import Courier
from outbox.drain import drain
from outbox.models import QueuedEmail
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.states import Priority, Status
from tests import rows
from tests.smtp_script import Event, Reaction
from tests.smtp_server import SmtpServer

ADA, BOB, DEE = "ada@example.com", "bob@example.com", "delia@example.com"


def settings_for(server: SmtpServer, **values: Any) -> Settings:
    timeouts = {"smtp_connect_timeout": 5, "smtp_timeout": 5, "smtp_dot_timeout": 5, "outbox_lease_seconds": 60}
    at = {"smtp_host": server.host, "smtp_port": server.port, "smtp_from_email": "Shop <shop@example.com>"}
    return Settings.load(**(timeouts | at | values))


def queue(engine: sa.Engine, settings: Settings, **mail: Any) -> list[int]:
    """The ids of its rows."""
    with Session(engine) as session, session.begin():
        row = EmailService(session, settings).queue_email(**({"to": ADA, "subject": "Hello", "text": "Hello."} | mail))
        session.flush()
        return [one.id for one in row.content.recipients]


def deliver(engine: sa.Engine, settings: Settings) -> Counter[Status]:
    """What is due, as `outbox drain` does it."""
    statuses: Counter[Status] = Counter()
    with closing(Courier(engine, settings, "worker-1")) as courier:
        drain(engine, settings, "worker-1", lambda _lane, ids, token: statuses.update(courier.deliver(ids, token)))
    return statuses


def claim(engine: sa.Engine, count: int = 100, lease: float = 60) -> tuple[Sequence[int], str]:
    """A chunk of normal priority."""
    with engine.begin() as connection:
        claimed = claims.claim(connection, dict.fromkeys(Priority, count), "worker-1", lease)
    return claimed.ids[Priority.NORMAL], claimed.token


def make_due(engine: sa.Engine) -> None:
    """Let the time until the next attempt pass."""
    with engine.begin() as connection:
        connection.execute(sa.update(QueuedEmail).values(next_attempt_at=rows.from_now(-1)))


def at(verb: str, reaction: Reaction) -> Callable[[Event], Reaction | None]:
    return lambda event: reaction if event.verb == verb else None


def seconds_until(time: datetime) -> float:
    return (time - datetime.now(UTC)).total_seconds()
