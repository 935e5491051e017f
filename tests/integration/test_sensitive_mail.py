"""A sensitive mail from `queue_email` to its end: sent as it was meant, wiped when over, held without its key."""

import email
import email.policy
import threading
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from sqlalchemy.orm import Session

from outbox import claims, operations, reaper, suppressions
from outbox.attachments import Attachment
from outbox.errors import IdempotencyConflict, NotPossible
from outbox.models import EmailBlob, EmailContent, QueuedEmail
from outbox.operations import Resolution
from outbox.sealing import Safe, new_key
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.settlement import Attempt, Settlement, settle, settle_late
from outbox.states import DeadReason, Outcome, Stage, Status
from tests import rows
from tests.delivering import ADA, BOB, at, claim, deliver, make_due, queue, seconds_until, settings_for
from tests.smtp_script import Drop, Reply
from tests.smtp_server import SmtpServer

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))
LONG_AGO = rows.from_now(-1e6)
KEYS = {"outbox_encryption_keys": NEW}
SETTINGS = Settings.load(smtp_from_email="shop@example.com", outbox_on_uncertain="hold", **KEYS)
SECRET: dict[str, Any] = {
    "subject": "Your code is 123456",
    "text": "123456",
    "html": "<p>123456</p>",
    "headers": {"X-Code": "123456"},
    "attachments": [Attachment("123456.pdf", b"%PDF 123456", inline_id="one"), Attachment("b.txt", b"\0" * 1000)],
    "sensitive": True,
}


@pytest.fixture
def relay() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


def content(engine: sa.Engine, id_: int) -> sa.Row[Any]:
    with engine.connect() as connection:
        query = sa.select(EmailContent.__table__).where(EmailContent.id == rows.row(engine, id_).content_id)
        return connection.execute(query).one()


def is_wiped(engine: sa.Engine, id_: int) -> bool:
    """All of it, or nothing of it."""
    row = content(engine, id_)
    query = sa.text("SELECT data FROM email_blobs JOIN email_attachments USING (sha256) WHERE content_id = :id")
    with engine.connect() as connection:
        blobs = [bytes(data) for data in connection.scalars(query, {"id": row.id})]
    assert len(blobs) == 2
    wiped = row.sealed is None
    assert wiped == (row.purged_at is not None)
    assert [data == b"" for data in blobs] == [wiped, wiped]
    return wiped


def test_it_arrives_as_it_was_meant_and_is_wiped(engine: sa.Engine, relay: SmtpServer) -> None:
    settings = settings_for(relay, **KEYS)
    (id_,) = queue(engine, settings, **SECRET)
    assert not is_wiped(engine, id_)
    assert deliver(engine, settings) == {Status.SENT: 1}
    (mail,) = relay.mails
    parsed = email.message_from_bytes(mail.data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    assert (parsed["Subject"], parsed["X-Code"]) == ("Your code is 123456", "123456")
    files = {part.get_filename(): part for part in parsed.walk() if part.get_filename()}
    assert {name: part.get_content_type() for name, part in files.items()} == {
        "123456.pdf": "application/pdf",
        "b.txt": "text/plain",
    }
    assert files["123456.pdf"].get_payload(decode=True) == b"%PDF 123456"
    assert files["123456.pdf"]["Content-ID"] == "<one>"
    for kind, text in (("plain", "123456"), ("html", "<p>123456</p>")):
        body = parsed.get_body((kind,))
        assert body is not None
        assert body.get_content().strip() == text
    assert is_wiped(engine, id_)
    row = rows.row(engine, id_)
    assert (row.subject, row.last_code, row.last_error) == ("(sensitive)", 250, None)
    assert content(engine, id_).payload_hash, "what it said can still be proved by who knows it"
    assert rows.attempts(engine, id_)[0].reply


def test_mail_that_is_not_sensitive_keeps_what_it_says(engine: sa.Engine, relay: SmtpServer) -> None:
    (id_,) = queue(engine, settings_for(relay, **KEYS), **SECRET | {"sensitive": False})
    deliver(engine, settings_for(relay, **KEYS))
    assert content(engine, id_).text == "123456"
    with engine.connect() as connection:
        assert b"" not in connection.scalars(sa.select(EmailBlob.data)).all()


# --- When it is wiped: whatever its end, and whoever brings it about


def by_rejection(engine: sa.Engine, relay: SmtpServer, _: int) -> None:
    relay.script = at("DOT", Reply(554, "5.7.1 no"))
    deliver(engine, settings_for(relay, **KEYS))


def by_expiry(engine: sa.Engine, relay: SmtpServer, id_: int) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE email_queue SET expires_at = next_attempt_at"))
    deliver(engine, settings_for(relay, **KEYS))


def by_suppression(engine: sa.Engine, relay: SmtpServer, _: int) -> None:
    with engine.begin() as connection:
        suppressions.add(connection, ADA, "asked us to stop", "test")
    deliver(engine, settings_for(relay, **KEYS))


def by_a_person(engine: sa.Engine, _relay: SmtpServer, id_: int) -> None:
    with engine.begin() as connection:
        assert operations.cancel(connection, [id_]) == {id_}


def by_resolving(resolution: Resolution) -> Callable[[sa.Engine, SmtpServer, int], None]:
    def resolve(engine: sa.Engine, relay: SmtpServer, id_: int) -> None:
        relay.script = at("DOT", Drop())
        deliver(engine, settings_for(relay, **KEYS))
        assert rows.statuses(engine, [id_]) == ["uncertain"]
        assert not is_wiped(engine, id_), "uncertain is not final"
        with engine.begin() as connection:
            assert operations.resolve(connection, id_, resolution)

    return resolve


def by_the_reaper(engine: sa.Engine, _relay: SmtpServer, id_: int) -> None:
    """Its worker has died, and it has expired meanwhile."""
    ids, token = claim(engine)
    with engine.begin() as connection:
        claims.begin(connection, [claims.Begin(ids[0], token, "own", None)], 60)
        connection.execute(sa.update(QueuedEmail).values(lease_expires_at=LONG_AGO, expires_at=LONG_AGO))
    reaper.reap(engine, SETTINGS)
    assert rows.row(engine, id_).dead_reason == DeadReason.EXPIRED


def by_hand(engine: sa.Engine, _relay: SmtpServer, _: int) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(QueuedEmail).values(status=Status.CANCELLED, finalized_at=LONG_AGO))
    reaper.reap(engine, SETTINGS)


ENDS: dict[str, tuple[Callable[[sa.Engine, SmtpServer, int], None], Status]] = {
    "rejected": (by_rejection, Status.DEAD),
    "expired": (by_expiry, Status.DEAD),
    "suppressed": (by_suppression, Status.DEAD),
    "cancelled": (by_a_person, Status.CANCELLED),
    "resolved as sent": (by_resolving(Resolution.SENT), Status.SENT),
    "given up": (by_resolving(Resolution.DEAD), Status.DEAD),
    "reaped": (by_the_reaper, Status.DEAD),
    "by hand": (by_hand, Status.CANCELLED),
}


@pytest.mark.parametrize(("end", "status"), ENDS.values(), ids=ENDS)
def test_whatever_ends_it_wipes_it(
    engine: sa.Engine, relay: SmtpServer, end: Callable[[sa.Engine, SmtpServer, int], None], status: Status
) -> None:
    (id_,) = queue(engine, SETTINGS, **SECRET)
    end(engine, relay, id_)
    assert rows.statuses(engine, [id_]) == [status]
    assert is_wiped(engine, id_)


def test_what_is_not_over_is_kept(engine: sa.Engine, relay: SmtpServer) -> None:
    settings = settings_for(relay, **KEYS)
    (id_,) = queue(engine, settings, **SECRET)
    relay.script = at("DOT", Reply(451, "4.3.0 later"))
    assert deliver(engine, settings) == {Status.PENDING: 1}
    assert not is_wiped(engine, id_)
    relay.script = lambda event: None
    make_due(engine)
    assert deliver(engine, settings) == {Status.SENT: 1}
    assert len(relay.mails[0].data) > 1000
    assert is_wiped(engine, id_)


def test_it_is_kept_until_its_last_recipient_has_it(engine: sa.Engine, relay: SmtpServer) -> None:
    settings = settings_for(relay, **KEYS)
    relay.script = lambda event: Reply(451, "4.3.0") if event.verb == "RCPT" and event.recipient == BOB else None
    ada, bob = queue(engine, settings, to=[ADA, BOB], **SECRET)
    assert deliver(engine, settings) == {Status.SENT: 1, Status.PENDING: 1}
    assert not is_wiped(engine, ada)
    relay.script = lambda event: None
    make_due(engine)
    deliver(engine, settings)
    assert [len(mail.data) for mail in relay.mails] == [len(relay.mails[0].data)] * 2
    assert is_wiped(engine, bob)


def test_a_replayed_answer_that_came_late_wipes_it(engine: sa.Engine) -> None:
    (id_,) = queue(engine, SETTINGS, **SECRET)
    _, token = claim(engine)
    with engine.begin() as connection:
        claims.begin(connection, [claims.Begin(id_, token, "own", "mx1:25")], 60)
        connection.execute(sa.update(QueuedEmail).values(lease_expires_at=LONG_AGO))
    reaper.reap(engine, SETTINGS)
    assert not is_wiped(engine, id_)
    attempt = Attempt(id_, 1, 1.0, Outcome.SENT, Stage.DOT, 250, "ok", "mx1:25", "worker-1")
    late = Settlement(id_, "own", Status.SENT, attempt=attempt, sensitive=True)
    with engine.begin() as connection:
        assert settle(connection, [late]) == set()
        assert settle_late(connection, [late]) == {id_}
    assert is_wiped(engine, id_)


def test_of_two_that_end_at_once_the_last_one_wipes(postgresql_url: str) -> None:
    """Each in a transaction that cannot see the other's row: without the lock, neither would."""
    engine = sa.create_engine(sa.make_url(postgresql_url).set(drivername="postgresql+psycopg"))
    ada, bob = queue(engine, SETTINGS, to=[ADA, BOB], **SECRET)
    with engine.connect() as first, engine.connect() as second:
        done = threading.Event()

        def cancel_second() -> None:
            with second.begin():
                operations.cancel(second, [bob])
            done.set()

        with first.begin():
            assert operations.cancel(first, [ada]) == {ada}
            thread = threading.Thread(target=cancel_second)
            thread.start()
            assert not done.wait(0.3), "it waits for the first"
        thread.join(10)
        assert done.is_set()
    assert is_wiped(engine, ada)
    engine.dispose()


def test_a_requeue_and_the_end_of_the_other_recipient_at_once(postgresql_url: str) -> None:
    engine = sa.create_engine(sa.make_url(postgresql_url).set(drivername="postgresql+psycopg"))
    ada, bob = queue(engine, SETTINGS, to=[ADA, BOB], **SECRET)
    with engine.begin() as connection:
        operations.cancel(connection, [ada])
    with engine.connect() as first, engine.connect() as second:

        def cancel_second() -> None:
            with second.begin():
                operations.cancel(second, [bob])

        with first.begin():
            assert operations.requeue(first, [ada]) == {ada}
            thread = threading.Thread(target=cancel_second)
            thread.start()
            thread.join(0.3)
            assert thread.is_alive(), "it waits for the first"
        thread.join(10)
    assert rows.statuses(engine, [ada, bob]) == ["pending", "cancelled"]
    assert not is_wiped(engine, ada)
    engine.dispose()


# --- Born dead


@pytest.mark.parametrize("bulk", [False, True], ids=["one", "bulk"])
@pytest.mark.parametrize("key", [None, "key"])
def test_a_mail_that_nobody_may_get_is_wiped_at_once(engine: sa.Engine, bulk: bool, key: str | None) -> None:
    with engine.begin() as connection:
        suppressions.add(connection, ADA, "asked us to stop", "test")
    with Session(engine) as session, session.begin():
        service = EmailService(session, SETTINGS)
        mail = SECRET | {"to": ADA, "idempotency_key": key}
        if bulk:
            dead, alive = service.queue_emails([mail, SECRET | {"to": [ADA, BOB]}])
        else:
            first, second = service.queue_email(**mail), service.queue_email(**SECRET | {"to": [ADA, BOB]})
            session.flush()
            dead, alive = first.id, second.id
    assert is_wiped(engine, dead)
    assert not is_wiped(engine, alive)


# --- A key that is not there


@pytest.mark.parametrize("keys", ["", OLD], ids=["no key", "another key"])
def test_a_mail_whose_key_is_missing_is_held_and_goes_when_it_is_back(
    engine: sa.Engine, relay: SmtpServer, keys: str
) -> None:
    (id_,) = queue(engine, SETTINGS, **SECRET)
    (other,) = queue(engine, settings_for(relay))
    without = settings_for(relay, **({"outbox_encryption_keys": keys} if keys else {}))
    assert deliver(engine, without) == {Status.PENDING: 1, Status.SENT: 1}
    row = rows.row(engine, id_)
    assert row.waiting_for == "encrypted with a key that is not in OUTBOX_ENCRYPTION_KEYS"
    assert (row.attempts, row.claims) == (0, 0)
    assert 800 < seconds_until(row.next_attempt_at) < 1000
    with Session(engine) as session:
        assert "encrypted with a key that is not in" in EmailService(session, without).explain(id_)
    make_due(engine)
    assert deliver(engine, settings_for(relay, outbox_encryption_keys=f"{OLD},{NEW}")) == {Status.SENT: 1}
    assert is_wiped(engine, id_)
    assert rows.statuses(engine, [other]) == ["sent"]


SPOILT = {
    "no text of a mail": lambda _: Fernet(NEW).encrypt(b"123456"),
    "nothing to send": lambda said: Safe([NEW]).seal(said | {"text": None, "html": None}),
    "a surrogate": lambda said: Safe([NEW]).seal(said | {"text": "123456\ud800"}),
    "another key for its files": lambda said: Safe([NEW]).seal(said | {"files_key": new_key()}),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_what_cannot_be_composed_is_dead_and_nothing_of_it_is_said(
    engine: sa.Engine, relay: SmtpServer, spoil: Callable[[dict[str, Any]], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(relay, **KEYS)
    (id_,) = queue(engine, settings, **SECRET)
    said = Safe([NEW]).open(bytes(content(engine, id_).sealed))
    with engine.begin() as connection:
        connection.execute(sa.update(EmailContent).values(sealed=spoil(said)))
    assert deliver(engine, settings) == {Status.DEAD: 1}
    row = rows.row(engine, id_)
    assert row.dead_reason == DeadReason.INVALID
    assert row.last_error.startswith("cannot be composed: ValueError('")
    assert "123456" not in row.last_error
    assert "123456" not in caplog.text
    assert "Traceback" in caplog.text
    assert is_wiped(engine, id_)


# --- What is over


def test_what_is_wiped_cannot_be_requeued(engine: sa.Engine, relay: SmtpServer) -> None:
    (id_,) = queue(engine, SETTINGS, **SECRET)
    by_rejection(engine, relay, id_)
    with Session(engine) as session:
        service = EmailService(session, SETTINGS)
        with pytest.raises(NotPossible, match=f"mail {id_} is dead and cannot be requeued: what it said was sensitive"):
            service.requeue(id_)
        assert "outbox requeue" not in service.explain(id_)
    assert rows.statuses(engine, [id_]) == ["dead"]


def test_why_says_that_it_was_wiped(engine: sa.Engine) -> None:
    (id_,) = queue(engine, SETTINGS, **SECRET)
    with Session(engine) as session, session.begin():
        EmailService(session, SETTINGS).cancel(id_)
        assert (
            EmailService(session, SETTINGS)
            .explain(id_)
            .endswith("; what it said was sensitive, and wiped when it was over; to repeat it, queue a new mail.")
        )


def test_what_is_not_wiped_can_be_requeued(engine: sa.Engine, relay: SmtpServer) -> None:
    settings = settings_for(relay, **KEYS)
    relay.script = lambda event: Reply(550, "5.7.1") if event.verb == "RCPT" and event.recipient == ADA else None
    ada, _ = queue(engine, settings, to=[ADA, BOB], **SECRET)
    with engine.begin() as connection:
        later = sa.update(QueuedEmail).where(QueuedEmail.recipient == BOB).values(next_attempt_at=rows.from_now(3600))
        connection.execute(later)
    assert deliver(engine, settings) == {Status.DEAD: 1}
    with engine.begin() as connection:
        assert operations.requeue(connection, [ada]) == {ada}
    relay.script = lambda event: None
    assert deliver(engine, settings) == {Status.SENT: 1}


# --- Keys of idempotency


def test_the_same_mail_is_the_same_row_though_the_keys_were_rotated(engine: sa.Engine) -> None:
    old = Settings.load(smtp_from_email="shop@example.com", outbox_encryption_keys=OLD)
    both = Settings.load(smtp_from_email="shop@example.com", outbox_encryption_keys=f"{NEW},{OLD}")
    mail = SECRET | {"idempotency_key": "k"}
    (first,) = queue(engine, old, **mail)
    assert queue(engine, both, **mail) == [first]
    with Session(engine) as session, session.begin():
        assert EmailService(session, both).queue_emails([mail | {"to": ADA}]) == [first]
    with pytest.raises(IdempotencyConflict) as caught:
        queue(engine, both, **mail | {"text": "654321"})
    assert "654321" not in str(caught.value)
    with pytest.raises(IdempotencyConflict):
        queue(engine, old, **mail | {"sensitive": False})


def test_a_batch_may_hold_both_kinds(engine: sa.Engine, relay: SmtpServer) -> None:
    plain = {"to": BOB, "subject": "Hello", "text": "Hello."}
    with Session(engine) as session, session.begin():
        ids = EmailService(session, SETTINGS).queue_emails([plain, SECRET | {"to": ADA}, plain])
    assert [content(engine, id_).sealed is not None for id_ in ids] == [False, True, False]
    assert [content(engine, id_).subject for id_ in ids] == ["Hello", "(sensitive)", "Hello"]
    assert deliver(engine, settings_for(relay, **KEYS)) == {Status.SENT: 3}
    assert [b"123456" in mail.data for mail in relay.mails] == [False, True, False]
