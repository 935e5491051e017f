"""A burst through two workers, with everything that may be doubled doubled, and with a worker that is killed."""

from collections import Counter

import pytest
import sqlalchemy as sa
from redis import Redis
from sqlalchemy.orm import Session

from app.queues import QUEUES, SEND_EMAILS
from outbox.models import EmailAttempt, QueuedEmail
from outbox.states import Outcome
from tests.smtp_server import SmtpProcess
from tests.system import StartSystem, System, wait_until

BURST = 10_000
MINUTES = 240.0
"""Seconds for the burst: some 30 on an idle machine with two cores."""


def queue_burst(system: System, count: int) -> list[str]:
    """One `queue_emails` call, spread over the lanes; the recipients."""
    recipients = [f"reader-{number}@example.com" for number in range(count)]
    lanes = ("high", "normal", "normal", "low", "low", "low")
    with system.sessions.begin() as session:
        system.emails(session).queue_emails(
            {"to": recipient, "subject": f"Number {number}", "text": "Hello.", "priority": lanes[number % len(lanes)]}
            for number, recipient in enumerate(recipients)
        )
    return recipients


@pytest.mark.timeout(300)
def test_each_mail_of_a_burst_arrives_once_however_much_is_doubled(
    start_system: StartSystem, relay: SmtpProcess, postgresql_url: str
) -> None:
    system = start_system(postgresql_url, relay=relay)
    for _ in range(2):
        system.worker(CELERY_WORKER_CONCURRENCY="8")
        system.beat(OUTBOX_DRAIN_SECONDS="1")
    recipients = queue_burst(system, BURST)
    wait_until(lambda: system.statuses()["sent"] > BURST / 10, MINUTES)
    redelivered = _publish_claims_again(system)
    system.wait_until_sent(BURST, MINUTES)
    wait_until(lambda: _waiting_tasks(system.settings.redis_url) == 0)
    assert redelivered > 0
    assert system.received() == Counter(recipients)
    with system.sessions() as session:
        outcomes = session.scalars(sa.select(EmailAttempt.outcome))
        assert Counter(outcomes) == {Outcome.SENT: BURST}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("database", "count"), [("postgresql", BURST), ("sqlite", 2_000)])
def test_a_killed_worker_loses_nothing_and_doubles_only_what_it_was_sending(
    start_system: StartSystem, relay: SmtpProcess, request: pytest.FixtureRequest, database: str, count: int
) -> None:
    system = start_system(
        request.getfixturevalue(f"{database}_url"),
        relay=relay,
        OUTBOX_DRAIN_SECONDS="1",
        OUTBOX_IN_FLIGHT="1000",
        OUTBOX_LEASE_SECONDS="10",
        OUTBOX_RETRY_BASE_SECONDS="1",
        SMTP_DOT_TIMEOUT="5",
    )
    system.beat()
    victim = system.worker()
    recipients = queue_burst(system, count)
    wait_until(lambda: system.statuses()["sent"] > count / 4, MINUTES)
    victim.kill()
    with system.sessions() as session:
        sending = set(session.scalars(sa.select(QueuedEmail.recipient).where(QueuedEmail.status == "sending")))
    system.worker()
    system.wait_until_sent(count, MINUTES)
    received = system.received()
    assert set(received) == set(recipients)
    twice = {recipient for recipient, copies in received.items() if copies > 1}
    assert max(received.values()) <= 2
    with system.sessions() as session:
        assert twice <= sending == _uncertain(session)


def _publish_claims_again(system: System) -> int:
    """What a broker does that lost an acknowledgement: the same tasks once more."""
    claimed = (
        sa.select(QueuedEmail.claim_token, QueuedEmail.priority, QueuedEmail.id)
        .where(QueuedEmail.status == "claimed")
        .order_by(QueuedEmail.id)
    )
    chunks: dict[tuple[str | None, int], list[int]] = {}
    with system.sessions() as session:
        for token, priority, id_ in session.execute(claimed):
            chunks.setdefault((token, priority), []).append(id_)
    for (token, _), ids in chunks.items():
        system.celery.send_task(SEND_EMAILS, (ids, token), queue="email.high")
    return len(chunks)


def _waiting_tasks(redis_url: str) -> int:
    with Redis.from_url(redis_url) as client:
        return sum(int(client.llen(queue)) for queue in QUEUES) + int(client.hlen("unacked"))


def _uncertain(session: Session) -> set[str]:
    """The recipients whose row says that it was not known what became of it."""
    query = sa.select(QueuedEmail.recipient).join(EmailAttempt).where(EmailAttempt.outcome == Outcome.UNCERTAIN)
    return set(session.scalars(query))
