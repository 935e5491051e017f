"""A real worker dies at every step of a mail's way, under both policies, on both databases; then a healthy one comes.

One thread sends the chunk, mail by mail, so what the dead worker leaves behind is known to the row.
"""

import signal
from collections import Counter

import pytest
import sqlalchemy as sa

from outbox.models import EmailAttempt, QueuedEmail
from outbox.states import OnUncertain, Outcome, Status
from tests.faults import worker
from tests.faults.oracle import at_rest, judge
from tests.faults.pace import QUICK
from tests.smtp_server import SmtpProcess
from tests.system import PATIENCE, StartSystem, System, wait_until

CHUNK = 20
FIFTH = {"claimed": CHUNK - 4, "sent": 4}

LEFT_BEHIND = {
    "claimed": (1, 0, {"claimed": CHUNK}),
    # Ahead of the first that is sent.
    "composing": (5, 0, {"claimed": CHUNK}),
    "beginning": (5, 4, FIFTH),
    "begun": (5, 4, {"claimed": CHUNK - 5, "sending": 1, "sent": 4}),
    "dotted": (5, 5, {"claimed": CHUNK - 5, "sending": 1, "sent": 4}),
    "answered": (5, 5, {"claimed": CHUNK - 5, "sending": 1, "sent": 4}),
    "settled": (5, 5, {"claimed": CHUNK - 5, "sent": 5}),
    # In the end, since its chunk stays in Redis, where the next worker finds it.
    "published": (1, 0, {"claimed": CHUNK}),
}
"""By step: at the how manieth passage the worker dies, what the relay has then accepted, and what the rows say."""

IN_DOUBT = {"begun", "dotted", "answered"}
"""Where the row says `sending`."""

ACCEPTED = {"dotted", "answered"}
"""Where the relay has the mail, and nobody knows."""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("policy", OnUncertain)
def test_a_worker_killed_at_any_step(
    start_system: StartSystem, relay: SmtpProcess, database_url: str, policy: OnUncertain
) -> None:
    system = start_system(database_url, relay=relay, OUTBOX_ON_UNCERTAIN=policy, **QUICK)
    committed = []
    for step in LEFT_BEHIND:
        committed += _die_at(step, system)
    assert {_step(recipient) for recipient in _recipients(system, QueuedEmail.status == Status.SENDING)} == IN_DOUBT

    system.worker()
    system.beat()
    wait_until(lambda: at_rest(system.engine), what="all mail at rest")

    verdict = judge(system.engine, committed, relay.mails)
    assert verdict.holds, verdict
    in_doubt = _recipients(system, QueuedEmail.tries.any(EmailAttempt.outcome == Outcome.UNCERTAIN))
    assert sorted(map(_step, in_doubt)) == sorted(IN_DOUBT), "each is on record, and no other"
    assert verdict.doubled <= in_doubt
    if policy is OnUncertain.HOLD:
        assert not verdict.doubled
        assert verdict.statuses == {"sent": len(committed) - len(IN_DOUBT), "uncertain": len(IN_DOUBT)}
        assert _recipients(system, QueuedEmail.status == Status.UNCERTAIN) == in_doubt
    else:
        assert {_step(recipient) for recipient in verdict.doubled} == ACCEPTED
        assert verdict.statuses == {"sent": len(committed)}


def _die_at(step: str, system: System) -> list[str]:
    """Queue a chunk for a worker that does not survive it. Returns its recipients."""
    nth, accepted, statuses = LEFT_BEHIND[step]
    recipients = [f"{step}-{number}@example.com" for number in range(CHUNK)]
    system.queue(*recipients)
    victim = worker.start(system, step, "--nth", str(nth))
    assert victim.process.wait(PATIENCE) == -signal.SIGKILL, step
    # The relay may still be reading what the worker wrote.
    wait_until(lambda: _received(system, step) == accepted, what=f"{accepted} accepted, {step}")
    assert _statuses(system, step) == statuses, step
    return recipients


def _received(system: System, step: str) -> int:
    return sum(copies for recipient, copies in system.received().items() if _step(recipient) == step)


def _statuses(system: System, step: str) -> Counter[str]:
    with system.sessions() as session:
        rows = session.scalars(sa.select(QueuedEmail.status).where(QueuedEmail.recipient.startswith(f"{step}-")))
        return Counter(rows)


def _recipients(system: System, where: sa.ColumnElement[bool]) -> set[str]:
    with system.sessions() as session:
        return set(session.scalars(sa.select(QueuedEmail.recipient).where(where)))


def _step(recipient: str) -> str:
    return recipient.partition("-")[0]
