"""A mail that kills its worker, whoever takes it: it is given up, and its chunk-mates arrive."""

import pytest
import sqlalchemy as sa

from outbox.models import QueuedEmail
from outbox.states import DeadReason, Status
from tests.faults import worker
from tests.faults.oracle import at_rest, judge
from tests.faults.pace import QUICK
from tests.smtp_server import SmtpProcess
from tests.system import StartSystem, wait_until

POISON = "poison@example.com"
DEATHS = 3
"""After so many claims a row is given up."""


@pytest.mark.parametrize(
    ("step", "end"),
    [("composing", (Status.DEAD, DeadReason.INVALID)), ("begun", (Status.UNCERTAIN, None))],
)
def test_a_mail_that_kills_its_worker_is_given_up(
    start_system: StartSystem, relay: SmtpProcess, postgresql_url: str, step: str, end: tuple[Status, DeadReason | None]
) -> None:
    system = start_system(postgresql_url, relay=relay, **QUICK)
    system.beat()
    mates = [f"mate-{number}@example.com" for number in range(10)]
    recipients = [*mates[:5], POISON, *mates[5:]]
    system.queue(*recipients)

    victims = [worker.start(system, step, "--recipient", POISON)]

    def supervised() -> bool:
        if not victims[-1].running:
            victims.append(worker.start(system, step, "--recipient", POISON))
        return at_rest(system.engine)

    wait_until(supervised, 60, "all mail at rest")
    assert len(victims) - 1 <= DEATHS
    assert victims[-1].running
    verdict = judge(system.engine, recipients, relay.mails)
    assert verdict.holds, verdict
    assert not verdict.doubled
    with system.sessions() as session:
        poison = session.scalars(sa.select(QueuedEmail).where(QueuedEmail.recipient == POISON)).one()
        assert (poison.status, poison.dead_reason) == end
        assert poison.claims == DEATHS
    assert system.received() == dict.fromkeys(mates, 1)
