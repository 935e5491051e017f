"""What a worker does by itself: beat is the safety net, and is not there in these tests."""

from datetime import UTC, datetime, timedelta

from outbox.states import Status
from tests.smtp_script import by_recipient
from tests.smtp_server import SmtpProcess
from tests.system import StartSystem, wait_until

QUICK = {"OUTBOX_RETRY_BASE_SECONDS": "2", "OUTBOX_DRAIN_SECONDS": "600"}


def test_scheduled_and_deferred_mail_goes_when_its_time_has_come(
    start_system: StartSystem, postgresql_url: str
) -> None:
    with_scheduled = "scheduled@example.com"
    system = start_system(postgresql_url, script=by_recipient(), **QUICK)
    system.worker()
    with system.sessions.begin() as session:
        system.emails(session).queue_email(
            with_scheduled, "Later", text="...", scheduled_at=datetime.now(UTC) + timedelta(seconds=4)
        )
    system.queue("defer-451-times-1@example.com")
    system.wait_until_sent(2)


def test_a_domain_with_a_rate_gets_its_mail_at_that_rate_and_the_others_at_once(
    start_system: StartSystem, postgresql_url: str
) -> None:
    system = start_system(postgresql_url, **QUICK, OUTBOX_DOMAIN_RATE="2/second")
    system.worker()
    system.queue(*(f"{number}@slow.example" for number in range(12)), "ada@quick.example")
    wait_until(lambda: system.received()["ada@quick.example"])
    assert system.statuses()["sent"] < 10
    system.wait_until_sent(13)
    stamps = sorted(mail.at for mail in system.relay.mails if mail.recipient.endswith("@slow.example"))
    assert all(later - earlier > 0.9 for earlier, later in zip(stamps, stamps[2:], strict=False))


def test_a_relay_that_comes_back_is_tried_when_its_pause_is_over(
    start_system: StartSystem, relay: SmtpProcess, postgresql_url: str
) -> None:
    system = start_system(postgresql_url, relay=relay, **QUICK)
    system.worker()
    relay.kill()
    system.queue(*(f"{number}@example.com" for number in range(5)))
    wait_until(lambda: system.parts[0].log.count("no mail goes there for a while") > 1)
    assert system.statuses() == {Status.PENDING: 5}
    relay.start()
    system.wait_until_sent(5)
    assert max(system.received().values()) == 1
