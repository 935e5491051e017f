"""Mail in the caller's transaction, on both databases: all of it or none, each key once, one wake a commit."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Session, scoped_session, sessionmaker

from outbox.attachments import Attachment
from outbox.errors import IdempotencyConflict, InvalidAddress, InvalidEmail, InvalidTemplate, TooLarge
from outbox.models import Base, EmailAttachment, EmailBlob, EmailContent, QueuedEmail
from outbox.service import EmailService, _environment
from outbox.settings import Settings
from outbox.states import Status

SETTINGS = Settings.load(smtp_from_email="Shop <shop@example.com>", outbox_max_message_bytes=1_000_000)
MAIL: dict[str, Any] = {"to": "ada@example.com", "subject": "Hello", "text": "Hello, Ada"}
KEYED = MAIL | {"idempotency_key": "k"}
LOGO = Attachment("logo.png", b"\x89PNG\0\r\n\xff", inline_id="logo")
SOON, LATER = datetime(2100, 1, 1, tzinfo=UTC), datetime(2100, 1, 2, tzinfo=UTC)


@pytest.fixture
def sessions(engine: sa.Engine) -> sessionmaker[Session]:
    return sessionmaker(engine)


def service(session: Any, wake: Callable[[], None] | None = None) -> EmailService:
    return EmailService(session, SETTINGS, wake)


def counts(engine: sa.Engine) -> dict[str, int]:
    """Rows a table, of the tables that have any."""
    with engine.begin() as connection:
        found = {
            name: connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
        }
    return {name: number for name, number in found.items() if number}


def rows(engine: sa.Engine, model: type[Base]) -> list[dict[str, Any]]:
    """All columns of all rows, in order."""
    table = model.__table__
    with engine.begin() as connection:
        return [dict(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key)).mappings()]


@contextmanager
def statements(engine: sa.Engine) -> Iterator[list[str]]:
    """The first two words of every round trip."""
    seen: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(" ".join(statement.split()[:3]).upper())

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def queue_and_flush(session: Session, **mail: Any) -> QueuedEmail:
    row = service(session).queue_email(**mail)
    session.flush()
    return row


def inserts(seen: list[str]) -> int:
    return sum(line.startswith("INSERT") for line in seen)


# --- The transaction is the caller's


def queue_one(session: Session) -> None:
    service(session).queue_email(**MAIL, bcc=["dee@example.com"], attachments=[LOGO])


def queue_keyed(session: Session) -> None:
    service(session).queue_email(**KEYED, bcc=["dee@example.com"], attachments=[LOGO])


def queue_many(session: Session) -> None:
    service(session).queue_emails([MAIL | {"attachments": [LOGO]}, KEYED, MAIL])


@pytest.mark.parametrize("queue", [queue_one, queue_keyed, queue_many])
def test_it_never_commits(engine: sa.Engine, queue: Callable[[Session], None]) -> None:
    with Session(engine) as session:
        queue(session)
        session.flush()
        session.rollback()
    assert counts(engine) == {}

    with Session(engine) as session:
        queue(session)  # and the session is closed without a commit
    assert counts(engine) == {}

    with Session(engine) as session, session.begin():
        queue(session)
    assert counts(engine)["email_queue"] >= 2


def test_a_savepoint_takes_its_mail_with_it(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    with sessions.begin() as session:
        for queue in (queue_one, queue_keyed, queue_many):
            savepoint = session.begin_nested()
            queue(session)
            savepoint.rollback()
        row = service(session).queue_email(**KEYED)  # its key is free again
        assert row.content.recipients == [row]
    assert counts(engine) == {"email_contents": 1, "email_queue": 1}


BAD_MAILS = [
    (MAIL | {"to": "ada"}, InvalidAddress, "to"),
    (MAIL | {"bcc": ["dee@example.com", "ada"]}, InvalidAddress, "bcc"),
    (MAIL | {"attachments": [LOGO, "/etc/passwd"]}, InvalidEmail, "attachments[1]"),
    (MAIL | {"text": "x" * 1_000_001}, TooLarge, "size"),
    (KEYED | {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, InvalidEmail, "expires_at"),
]


@pytest.mark.parametrize(("mail", "error", "field"), BAD_MAILS)
def test_nothing_is_written_on_an_error(
    sessions: sessionmaker[Session], engine: sa.Engine, mail: dict[str, Any], error: type[InvalidEmail], field: str
) -> None:
    with sessions.begin() as session:
        with pytest.raises(InvalidEmail) as caught:
            service(session).queue_email(**mail)
        assert (type(caught.value), caught.value.field) == (error, field)
        with pytest.raises(InvalidEmail) as caught:
            service(session).queue_emails([KEYED, MAIL | {"attachments": [LOGO]}, mail, MAIL])
        assert (type(caught.value), caught.value.field) == (error, f"mails[2].{field}")
        assert not session.new
    assert counts(engine) == {}


@pytest.mark.parametrize("bad", [{}, {"to": "a@example.com", "nonsense": 1}, MAIL | {"settings": 1}, "to", None, 7])
def test_what_is_no_mail_at_all(sessions: sessionmaker[Session], engine: sa.Engine, bad: Any) -> None:
    with sessions.begin() as session, pytest.raises(InvalidEmail, match=r"^mails\[1\]"):
        service(session).queue_emails([MAIL, bad])
    assert counts(engine) == {}


def test_no_mails(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    with sessions.begin() as session:
        assert service(session).queue_emails([]) == []
        assert service(session).queue_emails(iter(())) == []
    assert counts(engine) == {}


# --- What is written


def test_a_bulk_is_read_and_written_in_batches_of_one_transaction(
    engine: sa.Engine, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.service.BATCH", 2)
    read: list[int] = []
    heard: list[tuple[int, int]] = []

    def mails(count: int, bad: int | None = None) -> Iterator[dict[str, Any]]:
        for number in range(count):
            read.append(number)
            yield {"to": "nobody" if number == bad else f"u{number}@example.com"}

    with sessions.begin() as session:
        said: dict[str, Any] = {"subject": "News", "text": "None.", "priority": "low"}
        ids = service(session).queue_emails(mails(5), progress=lambda done: heard.append((done, len(read))), **said)
    assert heard == [(2, 2), (4, 4), (5, 5)], "mails written, and read by then"
    assert [(row["id"], row["recipient"], row["priority"]) for row in rows(engine, QueuedEmail)] == [
        (id_, f"u{number}@example.com", 2) for number, id_ in enumerate(ids)
    ]
    with sessions() as session, session.begin(), pytest.raises(InvalidAddress, match=r"^mails\[3\]\.to='nobody'"):
        service(session).queue_emails(mails(5, bad=3), **said)
    assert len(rows(engine, QueuedEmail)) == len(ids), "not even the batch before"


def test_what_a_mail_says_itself_comes_before_what_all_of_them_say(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        ids = service(session).queue_emails([MAIL, MAIL | {"subject": "Own"}], **(MAIL | {"category": "news"}))
        found = [session.get_one(QueuedEmail, id_) for id_ in ids]
        assert [(row.subject, row.category) for row in found] == [("Hello", "news"), ("Own", "news")]


def test_one_row_a_recipient_and_a_bcc_in_no_header(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    with sessions.begin() as session:
        row = service(session).queue_email(
            **(MAIL | {"to": ["Ada <ada@example.com>", "bob@example.com"]}),
            cc="cy@example.com",
            bcc=["dee@example.com", "ada@example.com"],
            headers={"X-B": "b", "X-A": "a"},
            category="billing",
            request_id="r-1",
        )
        assert [one.recipient for one in row.content.recipients] == [
            "ada@example.com",
            "bob@example.com",
            "cy@example.com",
            "dee@example.com",
        ]
        assert row is row.content.recipients[0]
    (content,) = rows(engine, EmailContent)
    queued = rows(engine, QueuedEmail)
    assert [(one["kind"], one["recipient"]) for one in queued] == [
        ("to", "ada@example.com"),
        ("to", "bob@example.com"),
        ("cc", "cy@example.com"),
        ("bcc", "dee@example.com"),
    ]
    assert "dee@" not in repr(content)
    assert list(content["headers"].items()) == [
        ("X-B", "b"),
        ("X-A", "a"),
        ("Auto-Submitted", "auto-generated"),
    ]
    for one in queued:
        assert one["content_id"] == content["id"]
        assert (one["subject"], one["category"], one["request_id"]) == ("Hello", "billing", "r-1")
        assert (one["status"], one["priority"], one["attempts"], one["claims"]) == ("pending", 1, 0, 0)
        assert (one["max_attempts"], one["on_uncertain"]) == (5, "retry")
        assert one["next_attempt_at"] <= datetime.now(UTC)
        assert one["claim_token"] is one["scheduled_at"] is one["expires_at"] is one["finalized_at"] is None


def test_scheduled_mail_waits_as_pending(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    with sessions.begin() as session:
        row = service(session).queue_email(**MAIL, scheduled_at=SOON, expires_at=LATER, priority="high")
        session.flush()
        assert row.status == Status.PENDING
    (one,) = rows(engine, QueuedEmail)
    assert (one["status"], one["scheduled_at"], one["next_attempt_at"], one["expires_at"], one["priority"]) == (
        ("pending", SOON, SOON, LATER, 0)
    )


def test_an_attachment_is_stored_once(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    same = Attachment("other name.png", LOGO.data)
    text = Attachment("a.txt", b"")
    with sessions.begin() as session:
        service(session).queue_email(**MAIL, attachments=[LOGO, same])
        service(session).queue_emails([MAIL | {"attachments": [text, LOGO]}, MAIL | {"attachments": [LOGO]}])
    with sessions.begin() as session:
        service(session).queue_email(**KEYED, attachments=[text, text])
    assert {(one["sha256"], one["size"], one["data"]) for one in rows(engine, EmailBlob)} == {
        (LOGO.sha256, LOGO.size, LOGO.data),
        (text.sha256, 0, b""),
    }
    links = rows(engine, EmailAttachment)
    assert [(one["position"], one["filename"], one["content_type"], one["inline_id"]) for one in links] == [
        (0, "logo.png", "image/png", "logo"),
        (1, "other name.png", "image/png", None),
        (0, "a.txt", "text/plain", None),
        (1, "logo.png", "image/png", "logo"),
        (0, "logo.png", "image/png", "logo"),
        (0, "a.txt", "text/plain", None),
        (1, "a.txt", "text/plain", None),
    ]


MIXED: list[dict[str, Any]] = [
    MAIL,
    MAIL | {"scheduled_at": SOON},
    MAIL | {"expires_at": LATER, "priority": "high", "bcc": "dee@example.com"},
    MAIL | {"scheduled_at": SOON, "expires_at": LATER, "cc": ["cy@example.com"], "on_uncertain": "hold"},
    MAIL | {"text": None, "html": "<p>\u00e4\U0001f600", "headers": {"X-Z": "\u00e4", "X-A": "1"}, "locale": "de"},
    KEYED | {"attachments": [LOGO], "max_attempts": 9, "category": "c", "request_id": "r"},
    MAIL,
]


def test_bulk_and_single_write_the_same(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    with sessions.begin() as session:
        for mail in MIXED:
            service(session).queue_email(**mail)
    singly = said(engine)
    with engine.begin() as connection:
        connection.execute(sa.delete(EmailContent))
    with sessions.begin() as session:
        service(session).queue_emails(MIXED)
    assert said(engine) == singly


def said(engine: sa.Engine) -> list[list[dict[str, Any]]]:
    """Everything but what differs from one writing to the next."""
    now = datetime.now(UTC)
    tables = [rows(engine, model) for model in (EmailContent, QueuedEmail, EmailAttachment, EmailBlob)]
    first = tables[0][0]["id"]
    for row in tables[0]:
        assert abs(row.pop("date") - now) < timedelta(minutes=1)
        del row["message_id"]
    for table in tables:
        for row in table:
            for column in ("id", "content_id"):
                if column in row:
                    row[column] -= first
            if "created_at" in row:
                assert abs(row.pop("created_at") - now) < timedelta(minutes=1)
    base = tables[1][0]["id"]
    for row in tables[1]:
        row["id"] -= base
        if row["next_attempt_at"] != SOON:
            assert abs(row.pop("next_attempt_at") - now) < timedelta(minutes=1)
    return tables


def test_5000_at_once(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    mails = [
        MAIL | {"subject": str(number), "bcc": ["dee@example.com"] * (number % 2), "priority": "low"}
        for number in range(5000)
    ]
    with sessions.begin() as session, statements(engine) as seen:
        ids = service(session).queue_emails(mails)
    assert len(seen) < 60
    with engine.begin() as connection:
        found = {
            row.id: (row.subject, row.recipient)
            for row in connection.execute(sa.select(QueuedEmail.id, QueuedEmail.subject, QueuedEmail.recipient))
        }
    assert len(found) == 7500
    assert [found[id_] for id_ in ids] == [(str(number), "ada@example.com") for number in range(5000)]


def test_a_hundred_calls_are_a_few_round_trips(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    """On PostgreSQL one each; SQLite's go over no network."""
    postgresql = engine.dialect.name == "postgresql"
    with sessions.begin() as session, statements(engine) as seen:
        for number in range(100):
            service(session).queue_email(**MAIL, bcc=[f"b{number}@example.com"])
        session.commit()
    assert len(seen) <= (100 if postgresql else 401)
    assert counts(engine) == {"email_contents": 100, "email_queue": 200}


def test_a_keyed_mail_costs_no_more(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    with sessions.begin() as session:
        session.connection()
        with statements(engine) as seen:
            service(session).queue_email(**KEYED, cc="cy@example.com")
            session.flush()
    if engine.dialect.name == "postgresql":
        assert seen == ["WITH STOPPED AS"]
    else:
        assert seen.count("SELECT TARGET, REASON,") == 1
        assert set(seen) == {"INSERT INTO EMAIL_CONTENTS", "SELECT TARGET, REASON,", "INSERT INTO EMAIL_QUEUE"}


def test_it_flushes_into_the_sessions_own_work(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    """Bulk goes around the unit of work; what was queued singly before it keeps its place."""
    with sessions.begin() as session:
        first = service(session).queue_email(**MAIL)
        (second,) = service(session).queue_emails([MAIL])
        third = service(session).queue_email(**MAIL)
        session.flush()
        assert first.id < second < third.id


# --- The key


def test_the_same_key_and_mail_is_the_same_row(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    mail = KEYED | {"cc": ["cy@example.com", "ed@example.com"], "attachments": [LOGO]}
    with sessions.begin() as session:
        first = service(session).queue_email(**mail)
        assert service(session).queue_email(**mail) is first  # in the same session, not even flushed
        assert service(session).queue_emails([mail, mail]) == [first.id] * 2
        id_ = first.id
    with sessions.begin() as session:
        again = service(session).queue_email(**mail, priority="high", scheduled_at=SOON)
        assert again.id == id_
        assert (again.priority, again.scheduled_at) == (1, None)  # as it was
        assert [one.recipient for one in again.content.recipients] == [
            "ada@example.com",
            "cy@example.com",
            "ed@example.com",
        ]
        assert [one.sha256 for one in again.content.attachments] == [LOGO.sha256]
        assert service(session).queue_emails([mail]) == [id_]
    assert counts(engine) == {"email_contents": 1, "email_queue": 3, "email_attachments": 1, "email_blobs": 1}


@pytest.mark.parametrize("autoflush", [True, False])
def test_twice_in_one_session_however_it_flushes(engine: sa.Engine, autoflush: bool) -> None:
    with Session(engine, autoflush=autoflush) as session, session.begin():
        first = service(session).queue_email(**KEYED)
        assert service(session).queue_email(**KEYED) is first
        assert service(session).queue_emails([KEYED]) == [first.id]
    assert counts(engine) == {"email_contents": 1, "email_queue": 1}


def test_the_same_key_for_another_mail(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    with sessions.begin() as session:
        first = queue_and_flush(session, **KEYED)
        id_, message_id = first.id, first.content.message_id
        with pytest.raises(IdempotencyConflict, match=r"idempotency_key='k'.*new key") as caught:
            service(session).queue_email(**(KEYED | {"text": "Hello, Bob", "attachments": [LOGO]}))
        assert message_id in str(caught.value)
    with sessions.begin() as session:
        with pytest.raises(IdempotencyConflict, match="idempotency_key='k'"):
            service(session).queue_email(**(KEYED | {"to": "bob@example.com"}))
        # The session is as good as before.
        assert service(session).queue_email(**KEYED).id == id_
    assert counts(engine) == {"email_contents": 1, "email_queue": 1}


OTHER = KEYED | {"text": "Hello, Bob"}


@pytest.mark.parametrize(
    "batch",
    [
        [MAIL, OTHER],
        [MAIL, KEYED, OTHER],
        [MAIL, OTHER, KEYED],
        [MAIL, MAIL | {"idempotency_key": "new"}, OTHER, MAIL],
        [MAIL, KEYED | {"idempotency_key": "new"}, OTHER | {"idempotency_key": "new"}],
    ],
)
def test_a_conflict_in_bulk_leaves_nothing(
    sessions: sessionmaker[Session], engine: sa.Engine, batch: list[dict[str, Any]]
) -> None:
    """Who catches it and goes on must not send the others, which the call did not say it queued."""
    with sessions.begin() as session:
        service(session).queue_email(**KEYED)
    before = counts(engine)
    woken: list[str] = []
    wake = lambda: woken.append("wake")  # noqa: E731
    with sessions.begin() as session, pytest.raises(IdempotencyConflict, match=r"idempotency_key='(k|new)'"):
        service(session, wake).queue_emails([m | {"attachments": [LOGO]} if m is MAIL else m for m in batch])
    assert counts(engine) == before
    assert woken == []


def test_keys_in_bulk(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    def keyed(key: str) -> dict[str, Any]:
        return MAIL | {"idempotency_key": key, "subject": key, "cc": "cy@example.com"}

    with sessions.begin() as session:
        there = queue_and_flush(session, **keyed("there"))
        batch = [MAIL, keyed("new"), keyed("there"), keyed("new"), MAIL, keyed("newer"), keyed("there")]
        ids = service(session).queue_emails(batch)
        assert ids[2] == ids[6] == there.id
        assert ids[1] == ids[3]
        assert len(set(ids)) == 5
        subjects = {row.id: row.subject for row in session.scalars(sa.select(QueuedEmail))}
        assert [subjects[id_] for id_ in ids] == [mail["subject"] for mail in batch]
        assert service(session).queue_emails(batch[1:4]) == ids[1:4]
    assert counts(engine) == {"email_contents": 5, "email_queue": 8}


def test_many_keys_that_are_there(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    """More than a statement may have parameters: last night's batch, run again."""
    mails = [MAIL | {"idempotency_key": str(number)} for number in range(2100)]
    with sessions.begin() as session:
        ids = service(session).queue_emails(mails)
    lookups: list[int] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT") and parameters:
            lookups.append(len(parameters))

    with sessions.begin() as session:
        assert service(session).queue_emails(mails) == ids
    assert sorted(lookups) == [100, 1000, 1000]


@pytest.mark.parametrize("bulk", [False, True], ids=["single", "bulk"])
@pytest.mark.parametrize("commit", [True, False], ids=["committed", "rolled back"])
def test_two_transactions_with_one_key(
    sessions: sessionmaker[Session], engine: sa.Engine, commit: bool, bulk: bool
) -> None:
    """The second waits for the first, and then has its row, or the key for itself."""
    found: list[int] = []
    started = threading.Event()

    def second() -> None:
        with sessions.begin() as session:
            started.set()
            found.append(
                service(session).queue_emails([MAIL, KEYED])[1] if bulk else queue_and_flush(session, **KEYED).id
            )

    with sessions() as session:
        first_id = queue_and_flush(session, **KEYED).id
        thread = threading.Thread(target=second)
        thread.start()
        assert started.wait(5)
        thread.join(0.3)
        assert thread.is_alive()
        assert found == []
        session.commit() if commit else session.rollback()
    thread.join(10)
    assert counts(engine) == {"email_contents": 1 + bulk, "email_queue": 1 + bulk}
    (id_,) = found
    assert (id_ == first_id) or not commit
    assert id_ in [row["id"] for row in rows(engine, QueuedEmail)]


def test_a_key_that_a_snapshot_cannot_see(postgresql_url: str) -> None:
    """REPEATABLE READ: the other's mail is there, and invisible. An error that may be tried again, no second mail."""
    engine = sa.create_engine(postgresql_url, isolation_level="REPEATABLE READ")
    with Session(engine) as session:
        session.execute(sa.select(EmailContent.id)).all()  # takes the snapshot
        with Session(engine) as other, other.begin():
            service(other).queue_email(**KEYED)
        with pytest.raises((IdempotencyConflict, sa.exc.OperationalError)):
            service(session).queue_email(**KEYED)
    assert counts(engine) == {"email_contents": 1, "email_queue": 1}
    engine.dispose()


# --- The wake


class Bell:
    def __init__(self) -> None:
        self.rung = 0

    def __call__(self) -> None:
        self.rung += 1


def test_one_wake_a_commit_with_mail(sessions: sessionmaker[Session]) -> None:
    bell = Bell()
    with sessions() as session:
        for rung in (1, 2):  # the session is used again
            for _ in range(3):
                service(session, bell).queue_email(**MAIL)
            service(session, bell).queue_emails([MAIL, MAIL])
            assert bell.rung == rung - 1
            session.commit()
            assert bell.rung == rung
            session.commit()
            session.execute(sa.text("SELECT 1"))
            session.commit()
            assert bell.rung == rung


def test_no_wake_without_a_commit(sessions: sessionmaker[Session]) -> None:
    bell = Bell()
    with sessions() as session:
        service(session, bell).queue_email(**MAIL)
        session.flush()
        session.rollback()
        session.execute(sa.text("SELECT 1"))
        session.commit()
        service(session, bell).queue_email(**MAIL)
        session.close()  # rolls back, too
        session.execute(sa.text("SELECT 1"))
        session.commit()
    assert bell.rung == 0


def test_a_failed_commit_does_not_wake(sessions: sessionmaker[Session]) -> None:
    bell = Bell()
    with sessions() as session:
        service(session, bell).queue_email(**MAIL)
        session.add(QueuedEmail(content_id=-1, recipient="a", subject="", max_attempts=0, on_uncertain="retry"))
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()
        session.rollback()
        session.commit()
    assert bell.rung == 0


def test_no_wake_for_mail_that_is_there(sessions: sessionmaker[Session]) -> None:
    bell = Bell()
    for rung in (1, 1):
        with sessions.begin() as session:
            service(session, bell).queue_emails([KEYED])
        with sessions.begin() as session:
            service(session, bell).queue_email(**KEYED)
        assert bell.rung == rung


def test_a_savepoint_does_not_wake_and_its_transaction_does(sessions: sessionmaker[Session]) -> None:
    bell = Bell()
    with sessions.begin() as session:
        with session.begin_nested(), session.begin_nested():
            service(session, bell).queue_email(**MAIL)
        assert bell.rung == 0
    assert bell.rung == 1

    with sessions.begin() as session:
        service(session, bell).queue_email(**MAIL)
        session.begin_nested().rollback()
    assert bell.rung == 2  # the mail before it is still there

    with sessions() as session:
        with session.begin_nested():
            service(session, bell).queue_email(**MAIL)
        session.rollback()
        session.commit()
    assert bell.rung == 2


def test_a_wake_that_fails_is_logged_and_no_more(
    sessions: sessionmaker[Session], engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ConnectionError("no Redis")

    bell = Bell()
    with sessions.begin() as session:
        service(session, broken).queue_email(**MAIL)
        service(session, bell).queue_email(**MAIL)
    assert counts(engine)["email_queue"] == 2
    assert bell.rung == 1
    (record,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert record.name == "outbox.waking"
    assert record.exc_text is not None
    assert "no Redis" in record.exc_text


def test_the_wake_sees_the_mail(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    seen: list[dict[str, int]] = []
    with sessions.begin() as session:
        service(session, lambda: seen.append(counts(engine))).queue_email(**MAIL)
    assert seen == [{"email_contents": 1, "email_queue": 1}]


def test_the_wake_of_the_sessionmaker(engine: sa.Engine) -> None:
    bell, own = Bell(), Bell()
    sessions = sessionmaker(engine, info={"outbox_wake": bell})
    with sessions.begin() as session:
        service(session).queue_email(**MAIL)
    assert bell.rung == 1
    with sessions.begin() as session:
        service(session, own).queue_email(**MAIL)
    assert (bell.rung, own.rung) == (1, 1)


def test_a_scoped_session(engine: sa.Engine) -> None:
    bell = Bell()
    scoped = scoped_session(sessionmaker(engine, info={"outbox_wake": bell}))
    mails = service(scoped)
    for rung in (1, 2):
        mails.queue_email(**KEYED | {"idempotency_key": str(rung), "attachments": [LOGO]})
        mails.queue_emails([MAIL])
        scoped.commit()
        assert bell.rung == rung
        scoped.remove()
    mails.queue_email(**MAIL)
    scoped.remove()
    scoped.commit()
    assert bell.rung == 2
    assert counts(engine)["email_queue"] == 4
    scoped.remove()


# --- Sessions of other kinds


def test_a_session_bound_by_model(engine: sa.Engine) -> None:
    """An application with several databases says which tables are where, and its session has no engine of its own."""

    class Ours(DeclarativeBase):
        pass

    elsewhere = sa.create_engine("sqlite://")
    sessions = sessionmaker(binds={Ours: elsewhere, Base: engine})
    with sessions.begin() as session:
        first = service(session).queue_email(**KEYED, attachments=[LOGO])
        assert service(session).queue_email(**KEYED, attachments=[LOGO]) is first
        service(session).queue_email(**MAIL)
        service(session).queue_emails([MAIL | {"attachments": [LOGO]}, KEYED | {"attachments": [LOGO]}])
    assert counts(engine)["email_queue"] == 3
    elsewhere.dispose()


def test_settings_come_from_the_environment(sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_FROM_EMAIL", "env@example.com")
    monkeypatch.setenv("OUTBOX_MAX_ATTEMPTS", "2")
    _environment.cache_clear()  # read once in a process: by another test, perhaps
    with sessions.begin() as session:
        row = EmailService(session).queue_email(**MAIL)
        assert (row.content.sender, row.max_attempts) == ("env@example.com", 2)
    _environment.cache_clear()


def test_a_wake_does_not_slow_the_enqueue(sessions: sessionmaker[Session]) -> None:
    """It runs after the commit: what it waits for, no lock waits for."""
    with sessions() as session:
        service(session, lambda: time.sleep(0.2)).queue_email(**MAIL)
        session.flush()
        committed = time.monotonic()
        session.commit()
        assert time.monotonic() - committed >= 0.2
        assert not session.in_transaction()


# --- Templates


@pytest.fixture
def templated(tmp_path: Path) -> Settings:
    """Settings with a template, `mail`, that needs `name`."""
    (tmp_path / "templates" / "mail").mkdir(parents=True)
    (tmp_path / "templates" / "mail" / "subject.txt").write_text("Hello, {{ name }}")
    (tmp_path / "templates" / "mail" / "body.html").write_text("<p>Dear {{ name }}</p>")
    return SETTINGS.model_copy(update={"outbox_templates": (str(tmp_path / "templates"),)})


def test_a_template_is_rendered_in_the_transaction(
    sessions: sessionmaker[Session], engine: sa.Engine, templated: Settings
) -> None:
    said: dict[str, Any] = {"template": "mail", "context": {"name": "<Ada>"}}
    with sessions.begin() as session:
        row = EmailService(session, templated).queue_email("ada@example.com", **said, locale="de", idempotency_key="k")
        assert (row.subject, row.content.text, row.content.html) == (
            "Hello, <Ada>",
            "Dear <Ada>\n",
            "<p>Dear &lt;Ada&gt;</p>",
        )
        again = EmailService(session, templated).queue_email(
            "ada@example.com", **said, locale="de", idempotency_key="k"
        )
        assert again.id == row.id
        EmailService(session, templated).queue_emails({"to": f"{n}@example.com", **said} for n in range(3))
    contents = rows(engine, EmailContent)
    assert [(content["template"], content["locale"]) for content in contents] == [("mail", "de")] + [("mail", None)] * 3
    assert {row["subject"] for row in rows(engine, QueuedEmail)} == {"Hello, <Ada>"}


def test_a_missing_variable_is_an_error_in_the_transaction(
    sessions: sessionmaker[Session], engine: sa.Engine, templated: Settings
) -> None:
    def queue(session: Session) -> None:
        EmailService(session, templated).queue_email("ada@example.com", template="mail", context={"name": "Ada"})
        EmailService(session, templated).queue_email("bob@example.com", template="mail")

    with pytest.raises(InvalidTemplate, match="'name' is undefined"), sessions.begin() as session:
        queue(session)
    assert counts(engine) == {}
    good: dict[str, Any] = {"to": "ada@example.com", "template": "mail", "context": {"name": "Ada"}}
    bad = good | {"context": {}}
    with sessions.begin() as session:
        with pytest.raises(InvalidTemplate, match=r"^mails\[1\]\.template='mail': .*subject.txt, line 1: 'name'"):
            EmailService(session, templated).queue_emails([good, bad])
        EmailService(session, templated).queue_email(**good)
    assert len(rows(engine, EmailContent)) == 1
