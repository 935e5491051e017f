"""The plugin that applications use, on both databases, in a transaction that is rolled back."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from emails.utils import DNS_NAME
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from outbox import Attachment, EmailService, QueuedEmail, Settings
from outbox.models import EmailAttempt, EmailSuppression
from outbox.testing import Outbox

pytest_plugins = ["outbox.testing"]

ADA, BOB, DEE = "ada@example.com", "bob@example.com", "delia@example.com"

Queue = Callable[..., QueuedEmail]


class ShopBase(DeclarativeBase):
    pass


class Order(ShopBase):
    """The application's own."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def outbox_session(engine: sa.Engine) -> Iterator[Session]:
    """The application's own, in an outer transaction. Nobody else may ever see what it does."""
    with engine.connect() as connection, connection.begin() as transaction:
        with Session(bind=connection, join_transaction_mode="create_savepoint") as session:
            yield session
        transaction.rollback()
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(QueuedEmail)) == 0


@pytest.fixture
def queue(outbox: Outbox, outbox_session: Session) -> Queue:
    def queue(to: Any = ADA, **mail: Any) -> QueuedEmail:
        return EmailService(outbox_session).queue_email(to, **({"subject": "Hello", "text": "Hello."} | mail))

    return queue


def test_mail_goes_when_it_is_delivered_and_once(outbox: Outbox, queue: Queue) -> None:
    mail = queue()
    assert [one.recipient for one in outbox.queued] == [ADA]
    assert outbox.sent == []
    went = outbox.deliver()
    assert outbox.sent == went
    assert [one.id for one in went] == [mail.id]
    assert (mail.status, mail.claims, mail.attempts) == ("sent", 1, 1)
    assert outbox.queued == outbox.deliver() == []
    assert outbox.sent == went


def test_looking_at_what_is_queued_changes_nothing(outbox: Outbox, queue: Queue, outbox_session: Session) -> None:
    mail = queue(scheduled_at=datetime.now(UTC) + timedelta(days=1))
    outbox_session.flush()
    before = _columns(outbox_session, mail)
    assert len(outbox.queued) == 1
    assert _columns(outbox_session, mail) == before


def test_what_the_application_commits_or_rolls_back(outbox: Outbox, queue: Queue, outbox_session: Session) -> None:
    queue(ADA)
    outbox_session.commit()
    queue(BOB)
    outbox_session.rollback()
    assert [one.recipient for one in outbox.deliver()] == [ADA]


def test_a_transaction_that_was_open_stays_open(outbox: Outbox, queue: Queue, outbox_session: Session) -> None:
    queue()
    outbox.deliver()
    assert outbox_session.in_transaction()
    outbox_session.rollback()
    outbox.assert_not_queued()


def test_a_delivery_outside_of_a_transaction_is_committed(
    outbox: Outbox, queue: Queue, outbox_session: Session
) -> None:
    mail = queue()
    outbox_session.commit()
    outbox.deliver()
    assert not outbox_session.in_transaction()
    outbox_session.rollback()
    assert mail.status == "sent"


def test_objects_of_the_application_are_not_read_again(outbox: Outbox, queue: Queue, outbox_session: Session) -> None:
    Order.metadata.create_all(outbox_session.connection())
    order, mail = Order(), queue()
    outbox_session.add(order)
    outbox.deliver()
    assert not sa.inspect(order).expired_attributes
    assert mail.status == "sent"


def test_nobody_is_woken(outbox: Outbox, outbox_session: Session) -> None:
    """The wake of an application is a Redis, or a task."""
    woken: list[str] = []
    EmailService(outbox_session, wake=lambda: woken.append("now")).queue_email(ADA, "Hello", text="Hello.")
    outbox_session.commit()
    assert len(outbox.deliver()) == 1
    assert woken == []


def test_the_mail_is_read_from_its_bytes(outbox: Outbox, queue: Queue) -> None:
    queue(
        ["Ada Lovelace <ada@example.com>"],
        cc=BOB,
        bcc=DEE,
        subject="Grüße",
        text="Hallo Ada,\n.ein Punkt\n",
        html="<p>Hallo <img src='cid:logo'></p>",
        headers={"X-Tag": "tägs"},
        attachments=[Attachment("Bericht ü.pdf", b"%PDF"), Attachment("logo.png", b"\x89PNG", inline_id="logo")],
    )
    outbox.deliver()
    mail = outbox.assert_sent(to=DEE)
    assert (mail.sender, mail.recipient, mail.to, mail.cc) == ("test@example.com", DEE, [ADA], [BOB])
    assert (mail.subject, mail.text) == ("Grüße", "Hallo Ada,\n.ein Punkt\n")
    assert mail.html == "<p>Hallo <img src='cid:logo'></p>"
    assert mail.headers["From"] == "Test <test@example.com>"
    assert mail.headers["To"] == "Ada Lovelace <ada@example.com>"
    assert mail.headers["X-Tag"] == "tägs"
    files = {file.name: (file.content_type, file.data, file.inline_id) for file in mail.attachments}
    assert files == {
        "Bericht ü.pdf": ("application/pdf", b"%PDF", None),
        "logo.png": ("image/png", b"\x89PNG", "logo"),
    }
    assert mail.source.startswith(b"Date: ")
    assert DEE.encode() not in mail.source
    assert {one.source for one in outbox.sent} == {mail.source}
    assert [one.recipient for one in outbox.sent] == [ADA, BOB, DEE]


def test_a_refused_recipient_is_dead_and_suppressed(outbox: Outbox, queue: Queue, outbox_session: Session) -> None:
    mail = queue([ADA, BOB])
    outbox.relay.refuse(ADA, 550, "5.1.1 no such user")
    assert [one.recipient for one in outbox.deliver()] == [BOB]
    assert (mail.status, mail.dead_reason, mail.last_code) == ("dead", "rejected", 550)
    assert mail.last_error == "rcpt: 5.1.1 no such user"
    assert outbox_session.scalars(sa.select(EmailSuppression.target)).all() == [ADA]
    assert queue(ADA).status == "dead"


def test_what_the_words_of_a_refusal_mean_is_productions_table(outbox: Outbox, queue: Queue) -> None:
    mail = queue()
    outbox.relay.refuse(ADA, 550, "5.4.5 daily sending quota exceeded")
    outbox.deliver()
    assert (mail.status, mail.attempts, mail.dead_reason) == ("pending", 0, None)


def test_a_deferred_mail_goes_with_its_retry(outbox: Outbox, queue: Queue, outbox_session: Session) -> None:
    mail = queue()
    outbox.relay.defer(times=1)
    assert outbox.deliver() == []
    assert (mail.status, mail.attempts) == ("pending", 1)
    assert outbox.deliver() == []
    outbox.travel(minutes=2)
    assert [one.recipient for one in outbox.deliver()] == [ADA]
    assert mail.status == "sent"
    assert [(one.number, one.outcome) for one in _attempts(outbox_session)] == [(1, "deferred"), (2, "sent")]


def test_a_mail_that_is_always_deferred_is_exhausted(outbox: Outbox, queue: Queue) -> None:
    mail = queue(max_attempts=3)
    outbox.relay.defer(ADA)
    for _ in range(3):
        outbox.deliver()
        outbox.travel(hours=2)
    assert (mail.status, mail.dead_reason, mail.attempts) == ("dead", "exhausted", 3)


def test_a_relay_that_is_down_costs_no_attempt_and_is_left_alone(outbox: Outbox, queue: Queue) -> None:
    mail, behind = queue(), queue(BOB)
    outbox.relay.go_down()
    outbox.deliver()
    assert (mail.status, mail.attempts) == ("pending", 0)
    assert mail.last_error == "connect: Connection refused"
    assert (behind.status, behind.claims, behind.last_error) == ("pending", 0, None)
    outbox.relay.come_back()
    assert outbox.deliver() == []
    outbox.travel(minutes=2)
    assert [one.recipient for one in outbox.deliver()] == [BOB, ADA]  # one tries, the others follow


@pytest.mark.parametrize(("on_uncertain", "status"), [("retry", "pending"), ("hold", "uncertain")])
def test_a_relay_that_vanishes_after_the_dot(outbox: Outbox, queue: Queue, on_uncertain: str, status: str) -> None:
    mail = queue(on_uncertain=on_uncertain)
    outbox.relay.hang_up_after_dot(ADA, times=1)
    assert outbox.deliver() == []
    assert (mail.status, mail.relay) == (status, "localhost:25")
    outbox.travel(minutes=2)
    assert len(outbox.deliver()) == (on_uncertain == "retry")


def test_scheduled_mail_waits_for_its_time_and_expired_mail_dies(outbox: Outbox, queue: Queue) -> None:
    now = datetime.now(UTC)
    later = queue(scheduled_at=now + timedelta(hours=1))
    short = queue(BOB, scheduled_at=now + timedelta(hours=1), expires_at=now + timedelta(minutes=90))
    assert outbox.deliver() == []
    outbox.travel(hours=2)
    assert [one.recipient for one in outbox.deliver()] == [ADA]
    assert (later.status, short.status, short.dead_reason) == ("sent", "dead", "expired")


def test_mail_scheduled_for_now_goes_now(outbox: Outbox, queue: Queue, outbox_session: Session) -> None:
    """Although on PostgreSQL the test's transaction began before, and its clock stands still."""
    outbox_session.execute(sa.select(1))
    queue(scheduled_at=datetime.now(UTC))
    assert len(outbox.deliver()) == 1


def test_addresses_of_any_script_and_mail_that_a_newer_one_supersedes(outbox: Outbox, queue: Queue) -> None:
    """What the library learns, the plugin needs no word of."""
    queue("jörg@example.com")
    old = queue(subject="Your code: 1", supersedes="otp:42")
    queue(subject="Your code: 2", supersedes="otp:42")
    assert [one.recipient for one in outbox.queued] == ["jörg@example.com", ADA]
    outbox.deliver()
    assert outbox.assert_sent(to="jörg@example.com").headers["To"] == "jörg@example.com"
    assert outbox.assert_sent(to=ADA).subject == "Your code: 2"
    assert old.status == "cancelled"


def test_no_network_is_touched(outbox: Outbox, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: object) -> None:
        raise AssertionError("the network was touched")

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyaddr", "gethostbyname", "getfqdn"):
        monkeypatch.setattr(socket, name, touched)
    monkeypatch.delattr(DNS_NAME, "_fqdn", raising=False)
    threads = threading.enumerate()
    queue()
    assert len(outbox.deliver()) == 1
    assert threading.enumerate() == threads


def test_a_session_that_begins_no_transaction_by_itself(engine: sa.Engine) -> None:
    settings = Settings.load(smtp_from_email="shop@example.com")
    with Session(engine, autobegin=False) as session:
        with session.begin():
            EmailService(session, settings).queue_email(ADA, "Hello", text="Hello.")
        outbox = Outbox(session, settings)
        assert len(outbox.deliver()) == 1
        outbox.assert_not_queued()


def test_the_later_rule_counts_and_then_the_earlier_again(outbox: Outbox, queue: Queue) -> None:
    outbox.relay.refuse()
    outbox.relay.defer(times=1)
    first, second = queue(), queue(BOB)
    outbox.deliver()
    assert (first.status, second.status) == ("pending", "dead")


def test_several_mails_over_one_connection_after_a_refusal(outbox: Outbox, queue: Queue) -> None:
    outbox.relay.refuse(BOB)
    queue([ADA, BOB, DEE])
    queue(BOB, subject="Again")
    queue(DEE, subject="Again")
    assert [(one.recipient, one.subject) for one in outbox.deliver()] == [
        (ADA, "Hello"),
        (DEE, "Hello"),
        (DEE, "Again"),
    ]


def test_the_settings_given_hold_for_queueing_and_delivery(outbox_session: Session) -> None:
    settings = Settings.load(smtp_from_email="shop@example.com", outbox_redirect_to=BOB, smtp_use_tls=True)
    EmailService(outbox_session, settings).queue_email(ADA, "Hello", text="Hello.")
    outbox = Outbox(outbox_session, settings)
    (mail,) = outbox.deliver()
    assert (mail.recipient, mail.headers["X-Original-To"]) == (BOB, ADA)
    assert _attempts(outbox_session)[0].relay == "localhost:587"


def test_a_sensitive_mail_is_read_before_it_is_wiped(outbox_session: Session) -> None:
    keys = Fernet.generate_key().decode()
    settings = Settings.load(smtp_from_email="shop@example.com", outbox_encryption_keys=keys)
    outbox = Outbox(outbox_session, settings)
    row = EmailService(outbox_session, settings).queue_email(ADA, "Code", text="123456", sensitive=True)
    assert [mail.text for mail in outbox.queued] == ["123456"]
    assert [mail.subject for mail in outbox.deliver()] == ["Code"]
    assert (row.subject, row.content.sealed) == ("(sensitive)", None)


def test_over_a_scoped_session_and_the_application_s_own_transactions(engine: sa.Engine) -> None:
    """Where the application commits for good, delivery does, too, and leaves no lock behind."""
    sessions = scoped_session(sessionmaker(engine))
    settings = Settings.load(smtp_from_email="shop@example.com")
    outbox = Outbox(sessions, settings)
    EmailService(sessions, settings).queue_email(ADA, "Hello", text="Hello.")
    sessions.commit()
    outbox.assert_queued(to=ADA)
    assert len(outbox.deliver()) == 1
    with engine.begin() as other:
        assert other.scalar(sa.select(QueuedEmail.status)) == "sent"
        other.execute(sa.delete(QueuedEmail))
    sessions.remove()


def test_a_failed_assertion_says_what_there_is_instead(outbox: Outbox, queue: Queue) -> None:
    queue(DEE, subject="Welcome")
    queue(BOB, subject="Receipt", text="Thank you for your order, Bob, and for all the others before it, too.")
    outbox.deliver()
    queue(ADA, subject="Welcome")
    outbox.relay.refuse("eve@example.com", 554, "5.7.1 no")
    queue("eve@example.com", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    queue("eve@example.com", subject="Welcome", priority="high")
    outbox.relay.defer(ADA)
    outbox.deliver()
    assert _failure(lambda: outbox.assert_sent(to=ADA, subject="Welcome", containing="order")) == (
        """\
No mail to ada@example.com with the subject 'Welcome' that contains 'order' was sent.
Sent, 2:
  to delia@example.com, 'Welcome', which says 'Hello.'
  to bob@example.com, 'Receipt'
Queued, 2:
  to ada@example.com, 'Welcome', which says 'Hello.'. Mail 3 is waiting for retry 2 of 5 after "451 4.2.0 try again \
later" until TIME.
  to eve@example.com, 'Hello', which says 'Hello.'. Mail 4 is scheduled for TIME.
Ended unsent, 1:
  to eve@example.com, 'Welcome'. Mail 5 has been dead since TIME: relay localhost:25 refused it for good with \
"554 5.7.1 no"."""
    )


def test_a_failed_assertion_says_what_was_forgotten(outbox: Outbox, queue: Queue) -> None:
    queue()
    assert _failure(lambda: outbox.assert_sent(to=ADA)) == (
        """\
No mail to ada@example.com was sent.
Sent: nothing.
Queued, 1:
  to ada@example.com, 'Hello'. Mail 1 has been due since TIME, and waits for a worker.
It is queued and due: outbox.deliver() tries it."""
    )
    assert _failure(outbox.assert_not_queued).startswith("A mail was queued, and none was to be.\n")
    outbox.relay.defer(times=1)
    outbox.deliver()
    assert _failure(lambda: outbox.assert_sent(to=ADA)).endswith(
        "\nIt is queued for later: outbox.travel(...) past that time, then outbox.deliver()."
    )
    outbox.assert_not_sent()
    outbox.travel(hours=2)
    outbox.deliver()
    assert _failure(outbox.assert_not_sent) == (
        """\
A mail was sent, and none was to be.
Sent, 1:
  to ada@example.com, 'Hello'
Queued: nothing."""
    )
    assert _failure(lambda: outbox.assert_queued(subject="Hello")).startswith(
        "No mail with the subject 'Hello' was queued.\n"
    )


def test_one_is_one(outbox: Outbox, queue: Queue) -> None:
    queue([f"{number}@example.com" for number in range(12)])
    outbox.deliver()
    assert _failure(lambda: outbox.assert_sent(subject="Hello")).startswith(
        "12 mails with the subject 'Hello' were sent, and one was asked for.\nSent, 12:\n  to 0@example.com, 'Hello'\n"
    )
    assert "\n  and 2 more\n" in _failure(lambda: outbox.assert_sent(subject="Hello"))
    assert outbox.assert_sent(to="3@EXAMPLE.com", containing="Hel").recipient == "3@example.com"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda outbox: outbox.relay.refuse(ADA, 451), "refuse: code=451 is none of 5xx; for 4xx use defer"),
        (lambda outbox: outbox.relay.defer(ADA, 550), "defer: code=550 is none of 4xx; for 5xx use refuse"),
        (lambda outbox: outbox.relay.defer(times=0), "times=0: give a number of mails from 1, or leave it out"),
        (lambda outbox: outbox.travel(), "travel by 0:00:00: time only passes; give more than 0 seconds"),
    ],
)
def test_what_makes_no_sense(outbox: Outbox, call: Callable[[Outbox], None], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call(outbox)


def _failure(assertion: Callable[[], object]) -> str:
    """Its message, without the times."""
    with pytest.raises(AssertionError) as caught:
        assertion()
    return re.sub(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d(:\d\d)? \((in )?[^)]*\)", "TIME", str(caught.value))


def _columns(session: Session, mail: QueuedEmail) -> sa.Row[Any]:
    return session.connection().execute(sa.select(QueuedEmail.__table__).where(QueuedEmail.id == mail.id)).one()


def _attempts(session: Session) -> list[EmailAttempt]:
    return list(session.scalars(sa.select(EmailAttempt).order_by(EmailAttempt.email_id, EmailAttempt.number)))
