"""What is old goes, what is not over stays, and nobody who wants the old one more time finds half of it."""

import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy.orm import Session

from outbox import auditing, operations, purging
from outbox.attachments import Attachment, Blob
from outbox.cli import main
from outbox.database import create_engine, utcnow
from outbox.errors import InvalidEmail, SettingsError
from outbox.explaining import explain
from outbox.models import EmailAttachment, EmailAttempt, EmailAudit, EmailBlob, EmailContent, QueuedEmail
from outbox.purging import Purged, purge
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.states import DeadReason, Outcome, Status
from tests import rows

SETTINGS = Settings.load(smtp_from_email="shop@example.com", outbox_retention_days=90, outbox_body_retention_days=30)
NOTE = b"a note"


def queue(engine: sa.Engine, **mail: Any) -> int:
    with Session(engine) as session, session.begin():
        row = EmailService(session, SETTINGS).queue_email(
            **{"to": "ada@example.com", "subject": "Hello", "text": "Hello.", "html": "<p>Hello."} | mail
        )
        session.flush()
        return row.id


def end(engine: sa.Engine, id_: int, days: float, status: Status = Status.SENT, **columns: Any) -> None:
    """That row has been over for so many days, and its mail is an hour older."""
    over: dict[Status, dict[str, Any]] = {
        Status.SENT: {"sent_at": rows.from_now(-days * 86400)},
        Status.DEAD: {"dead_reason": DeadReason.REJECTED},
        Status.CANCELLED: {},
    }
    values: dict[str, Any] = {"status": status, "finalized_at": rows.from_now(-days * 86400)} | over[status] | columns
    with engine.begin() as connection:
        connection.execute(sa.update(QueuedEmail).where(QueuedEmail.id == id_).values(**values))
        rows.add_attempt(connection, id_, 1, Outcome.SENT)
    age(engine, EmailContent, days, EmailContent.id == rows.row(engine, id_).content_id)


def age(engine: sa.Engine, table: Any, days: float, *which: Any) -> None:
    with engine.begin() as connection:
        made = rows.from_now(-days * 86400 - 3600)
        connection.execute(sa.update(table).where(*which).values(created_at=made))


def held(engine: sa.Engine, table: Any) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def bodies(engine: sa.Engine) -> list[tuple[bool, bool]]:
    """Of each mail, whether its text and its HTML are there."""
    query = sa.select(EmailContent.text.is_not(None), EmailContent.html.is_not(None)).order_by(EmailContent.id)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]  # type: ignore[misc]


@pytest.mark.parametrize("status", [Status.SENT, Status.DEAD, Status.CANCELLED])
def test_a_mail_goes_in_two_steps(engine: sa.Engine, status: Status) -> None:
    id_ = queue(engine, attachments=[Attachment("note.txt", NOTE)], idempotency_key="welcome:1")
    end(engine, id_, 29, status)
    age(engine, EmailBlob, 29)
    assert purge(engine, SETTINGS) == Purged()
    end_again(engine, id_, 31)
    age(engine, EmailBlob, 31)
    assert purge(engine, SETTINGS, dry_run=True) == Purged(bodies=1)
    assert bodies(engine) == [(True, True)]
    assert purge(engine, SETTINGS) == Purged(bodies=1, files=1, bytes=len(NOTE))
    assert purge(engine, SETTINGS) == Purged()
    assert bodies(engine) == [(False, False)]
    assert rows.row(engine, id_).subject == "Hello"
    assert held(engine, EmailAttempt) == 1
    end_again(engine, id_, 91)
    assert purge(engine, SETTINGS, dry_run=True) == Purged(mails=1)
    assert purge(engine, SETTINGS) == Purged(mails=1)
    assert [held(engine, table) for table in (EmailContent, QueuedEmail, EmailAttempt, EmailAttachment, EmailBlob)] == [
        0
    ] * 5
    assert queue(engine, idempotency_key="welcome:1"), "its key makes a new mail"


def end_again(engine: sa.Engine, id_: int, days: float) -> None:
    with engine.begin() as connection:
        over = rows.from_now(-days * 86400)
        connection.execute(sa.update(QueuedEmail).where(QueuedEmail.id == id_).values(finalized_at=over))
    age(engine, EmailContent, days)


def test_what_is_not_over_stays_however_old(engine: sa.Engine) -> None:
    rows.add(engine)
    rows.leased(engine, Status.CLAIMED, "one")
    rows.leased(engine, Status.SENDING, "two")
    rows.add(engine, status=Status.UNCERTAIN)
    age(engine, EmailContent, 400)
    age(engine, QueuedEmail, 400)
    assert purge(engine, SETTINGS) == Purged()
    assert bodies(engine) == [(True, False)] * 4


@pytest.mark.parametrize("other", [Status.PENDING, Status.UNCERTAIN, Status.SENT])
def test_a_mail_is_as_old_as_its_last_recipient(engine: sa.Engine, other: Status) -> None:
    first = queue(engine, to=["ada@example.com", "bob@example.com"])
    end(engine, first, 400)
    if other is Status.SENT:
        end(engine, first + 1, 31)
    else:
        with engine.begin() as connection:
            connection.execute(sa.update(QueuedEmail).where(QueuedEmail.id == first + 1).values(status=other))
    age(engine, EmailContent, 400)
    assert purge(engine, SETTINGS) == Purged(bodies=1 if other is Status.SENT else 0)
    assert held(engine, QueuedEmail) == 2


def test_batches_pass_by_what_stays(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "BATCH", 2)
    ids = [queue(engine, attachments=[Attachment("n.txt", b"%d" % number)]) for number in range(9)]
    for number, id_ in enumerate(ids):
        if number % 3:
            end(engine, id_, 100 + number % 2)  # several at the same moment, too
    age(engine, EmailContent, 200)
    age(engine, EmailBlob, 200)
    assert purge(engine, SETTINGS, dry_run=True) == Purged(mails=6, bodies=6)
    assert purge(engine, SETTINGS) == Purged(mails=6, files=6, bytes=6)
    assert held(engine, QueuedEmail) == 3


# --- Files


def test_a_stored_file_waits_for_its_mail(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        blob = EmailService(session, SETTINGS).store(NOTE)
    age(engine, EmailBlob, 29)
    assert purge(engine, SETTINGS) == Purged()
    queue(engine, attachments=[Attachment("note.txt", blob)])
    age(engine, EmailBlob, 400)
    assert purge(engine, SETTINGS) == Purged(), "a mail has it"


def test_a_file_that_was_purged_is_missed_in_words(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        blob = EmailService(session, SETTINGS).store(NOTE)
    age(engine, EmailBlob, 31)
    assert purge(engine, SETTINGS) == Purged(files=1, bytes=len(NOTE))
    with pytest.raises(InvalidEmail, match=r"store it with EmailService\.store first"):
        queue(engine, attachments=[Attachment("note.txt", blob)])


@pytest.fixture
def old_file(postgresql_url: str) -> Any:
    engine = create_engine(postgresql_url)
    with Session(engine) as session, session.begin():
        EmailService(session, SETTINGS).store(NOTE)
    age(engine, EmailBlob, 400)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("given", [NOTE, Blob(Attachment("n", NOTE).sha256, len(NOTE))], ids=["bytes", "blob"])
@pytest.mark.parametrize("bulk", [False, True])
def test_a_file_that_a_mail_is_about_to_have_stays(old_file: sa.Engine, given: Any, bulk: bool) -> None:
    mail: dict[str, Any] = {
        "to": "ada@example.com",
        "subject": "Hi",
        "text": "Hi",
        "attachments": [Attachment("note.txt", given)],
    }
    with Session(old_file) as session, session.begin():
        service = EmailService(session, SETTINGS)
        _ = service.queue_emails([mail]) if bulk else service.queue_email(**mail)
        # Not committed yet, and of the single mail not even written.
        assert purge(old_file, SETTINGS) == Purged()
    assert held(old_file, EmailAttachment) == held(old_file, EmailBlob) == 1


@pytest.mark.parametrize("given", [NOTE, Blob(Attachment("n", NOTE).sha256, len(NOTE))], ids=["bytes", "blob"])
def test_a_file_that_goes_just_now_is_stored_anew(old_file: sa.Engine, given: Any) -> None:
    ended: list[object] = []

    def enqueue() -> None:
        try:
            ended.append(queue(old_file, attachments=[Attachment("note.txt", given)]))
        except InvalidEmail as error:
            ended.append(error)

    with old_file.begin() as connection:
        assert purging.delete_files(connection, [Attachment("n", NOTE).sha256]) == [len(NOTE)]
        thread = threading.Thread(target=enqueue)
        thread.start()
        until_somebody_waits(old_file)
    thread.join(10)
    if given is NOTE:
        assert held(old_file, EmailAttachment) == held(old_file, EmailBlob) == 1
    else:
        assert isinstance(ended[0], InvalidEmail)


def until_somebody_waits(engine: sa.Engine) -> None:
    """For another transaction's lock."""
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    for _ in range(2000):
        with engine.connect() as connection:
            if connection.execute(waiting).scalar_one():
                return
    raise AssertionError("nobody waits")


# --- Requeueing


@pytest.mark.parametrize("status", [Status.DEAD, Status.CANCELLED])
def test_what_was_purged_cannot_be_requeued(engine: sa.Engine, status: Status) -> None:
    id_ = queue(engine)
    end(engine, id_, 31, status)
    assert purge(engine, SETTINGS) == Purged(bodies=1)
    with engine.begin() as connection:
        assert operations.requeue(connection, [id_]) == set()
        said = str(operations.refusal(connection, id_, "requeued"))
        assert said == (
            f"mail {id_} is {status} and cannot be requeued: what it said was purged when it was old; to repeat it, "
            "queue a new mail"
        )
        if status is Status.CANCELLED:
            assert explain(connection, SETTINGS, id_).endswith(
                "; what it said was purged when it was old; to repeat it, queue a new mail."
            )
        else:
            assert "has been dead since" in explain(connection, SETTINGS, id_)


@pytest.mark.parametrize(("days", "act"), [(31, purging.empty_bodies), (91, purging.delete_mails)])
def test_a_purge_and_a_requeue_wait_for_each_other(postgresql_url: str, days: int, act: Any) -> None:
    engine = create_engine(postgresql_url)
    before = rows.from_now(-30 * 86400)
    first, second = (queue(engine) for _ in range(2))
    contents = [rows.row(engine, id_).content_id for id_ in (first, second)]
    for id_ in (first, second):
        end(engine, id_, days, Status.DEAD)
    with engine.begin() as requeuing, engine.begin() as purging_:
        assert operations.requeue(requeuing, [first]) == {first}
        assert act(purging_, contents, before) == 1, "not that which is being requeued"
        requeued: list[set[int]] = []
        thread = threading.Thread(target=lambda: requeued.append(requeue(engine, second)))
        thread.start()
        until_somebody_waits(engine)
    thread.join(10)
    assert requeued == [set()]
    assert rows.statuses(engine, [first]) == [Status.PENDING]
    with engine.connect() as connection:
        assert connection.execute(sa.select(EmailContent.text).where(EmailContent.id == contents[0])).scalar_one()
    engine.dispose()


def requeue(engine: sa.Engine, id_: int) -> set[int]:
    with engine.begin() as connection:
        return operations.requeue(connection, [id_])


def test_a_mail_that_was_requeued_since_it_was_found_stays(engine: sa.Engine) -> None:
    id_ = queue(engine)
    end(engine, id_, 400, Status.DEAD)
    before = rows.from_now(-30 * 86400)
    with engine.connect() as connection:
        found = connection.execute(purging.old_mails(before)).scalars().all()
    assert requeue(engine, id_) == {id_}
    with engine.begin() as connection:
        assert purging.delete_mails(connection, found, before) == purging.empty_bodies(connection, found, before) == 0
    assert bodies(engine) == [(True, True)]


def test_two_purges_at_once_share_the_work(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url)
    ids = [queue(engine) for _ in range(3)]
    for id_ in ids:
        end(engine, id_, 400)
    contents = [rows.row(engine, id_).content_id for id_ in ids]
    with engine.begin() as one, engine.begin() as other:
        before = one.execute(sa.select(utcnow())).scalar_one() - timedelta(days=90)
        assert purging.delete_mails(one, contents[:2], before) == 2
        assert purging.delete_mails(other, contents, before) == 1
    assert held(engine, QueuedEmail) == 0
    engine.dispose()


# --- The command and the settings


def test_the_command_says_what_went(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", engine.url.render_as_string(hide_password=False))
    id_ = queue(engine)
    end(engine, id_, 91)
    with engine.begin() as connection:
        auditing.record(connection, "ada", "pause", "relay y")
        connection.execute(sa.update(EmailAudit).values(at=rows.from_now(-366 * 86400)))
        auditing.record(connection, "ada", "pause", "relay x")
    asked = CliRunner().invoke(main, ["purge", "--dry-run"])
    assert asked.output == (
        "Would delete 1 mail (OUTBOX_RETENTION_DAYS=90), what 1 mail said (OUTBOX_BODY_RETENTION_DAYS=30), 0 files of "
        "0 bytes, and 1 line of the record (OUTBOX_AUDIT_RETENTION_DAYS=365).\n"
    )
    done = CliRunner().invoke(main, ["purge", "--json"])
    assert done.exit_code == 0
    assert '"mails": 1' in done.output
    with engine.connect() as connection:
        (younger, deed) = auditing.lines(connection)[::-1]
    assert (younger.target, deed.action, deed.detail["lines"]) == ("relay x", "purge", 1)
    assert held(engine, QueuedEmail) == 0


def test_a_body_cannot_outlive_its_mail() -> None:
    with pytest.raises(
        SettingsError, match="OUTBOX_BODY_RETENTION_DAYS=30 must not be more than OUTBOX_RETENTION_DAYS=20"
    ):
        Settings.load(outbox_retention_days=20)
