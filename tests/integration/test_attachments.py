"""Files in the database: stored once, checked at enqueue, encoded once for the mails of a chunk."""

import email
import email.policy
import io
import json
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from email.message import EmailMessage
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox import chunk
from outbox.attachments import Attachment, Blob
from outbox.errors import InvalidEmail, TooLarge
from outbox.models import EmailAttachment, EmailBlob, EmailContent
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.states import Status
from tests.delivering import ADA, BOB, claim, deliver, queue, settings_for
from tests.smtp_server import SmtpServer

SETTINGS = Settings.load(smtp_from_email="shop@example.com", outbox_max_attachment_bytes=3_000_000)
MAIL: dict[str, Any] = {"to": ADA, "subject": "Hello", "text": "Hello."}
NOISE = os.urandom(300_000)
MISSING = Blob("a" * 64, 7)


def service(session: Session) -> EmailService:
    return EmailService(session, SETTINGS)


def store(engine: sa.Engine, data: Any) -> Blob:
    with Session(engine) as session, session.begin():
        return service(session).store(data)


def count(engine: sa.Engine, model: Any) -> int:
    with engine.begin() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(model)) or 0


def received(server: SmtpServer) -> list[EmailMessage]:
    return [email.message_from_bytes(mail.data, policy=email.policy.default) for mail in server.mails]


def files_of(message: EmailMessage) -> list[tuple[str | None, bytes]]:
    return [(part.get_filename(), part.get_payload(decode=True)) for part in message.iter_attachments()]  # type: ignore[misc]


@contextmanager
def statements_on_blobs(engine: sa.Engine) -> Iterator[list[str]]:
    """Their first words."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "email_blobs" in statement:
            seen.append(statement.split(maxsplit=1)[0] + (" data" if "SELECT data" in statement else ""))

    sa.event.listen(engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(engine, "before_cursor_execute", note)


# --- Stored files


def test_a_stored_file_goes_with_later_mails(engine: sa.Engine) -> None:
    blob = store(engine, io.BytesIO(NOISE))
    assert store(engine, NOISE) == blob == Attachment("noise.bin", NOISE).blob
    kept = json.dumps(asdict(blob))
    file = Attachment("noise.bin", Blob(**json.loads(kept)))
    with SmtpServer() as server:
        settings = settings_for(server)
        queue(engine, settings, attachments=[file])
        with Session(engine) as session, session.begin():
            service(session).queue_emails([MAIL | {"attachments": [file, Attachment("same.bin", NOISE)]}, MAIL])
        assert deliver(engine, settings) == {Status.SENT: 3}
    assert [files_of(message) for message in received(server)] == [
        [("noise.bin", NOISE)], [("noise.bin", NOISE), ("same.bin", NOISE)], [],
    ]  # fmt: skip
    assert count(engine, EmailBlob) == 1


def test_stored_in_the_transaction_of_its_mail_and_gone_with_it(engine: sa.Engine) -> None:
    with Session(engine) as session:
        blob = service(session).store(NOISE)
        service(session).queue_email(**MAIL, attachments=[Attachment("a", blob)])
        session.rollback()
    assert count(engine, EmailBlob) == 0
    with Session(engine) as session, pytest.raises(InvalidEmail, match=r"no such file: store it with EmailService\.st"):
        service(session).queue_email(**MAIL, attachments=[Attachment("a", blob)])


def test_what_is_too_large_is_not_stored(engine: sa.Engine) -> None:
    for data in (b"x" * 3_000_001, io.BytesIO(b"x" * 3_000_001)):
        with pytest.raises(TooLarge, match=r"^data=3000001: bytes, more than OUTBOX_MAX_ATTACHMENT_BYTES=3000000"):
            store(engine, data)
    with pytest.raises(InvalidEmail, match="never a path or URL"):
        store(engine, "/etc/passwd")
    assert count(engine, EmailBlob) == 0


@pytest.mark.parametrize("key", [None, "k"])
def test_a_stored_file_that_is_not_there(engine: sa.Engine, key: str | None) -> None:
    blob = store(engine, NOISE)
    good, gone, shorter = (Attachment("a", one) for one in (blob, MISSING, Blob(blob.sha256, 299_999)))
    mail = MAIL | {"idempotency_key": key}
    with Session(engine) as session, session.begin():
        mails = service(session)
        for files, problem in (([good, gone], "holds no such file"), ([good, shorter], "that file has 300000 bytes")):
            with pytest.raises(InvalidEmail, match=problem) as refused:
                mails.queue_email(**mail, attachments=files)
            assert refused.value.field == "attachments[1].data"
            with pytest.raises(InvalidEmail, match=problem) as refused:
                mails.queue_emails([MAIL, MAIL, mail | {"attachments": files}])
            assert refused.value.field == "mails[2].attachments[1].data"
    assert count(engine, EmailContent) == 0


# --- How often a file is written, and held


def test_thousands_of_mails_with_one_file(sqlite_url: str) -> None:
    """One object, one blob, one statement that carries it; and in memory no second copy."""
    engine = sa.create_engine(sqlite_url)
    file = Attachment("noise.bin", os.urandom(2_900_000))
    mails = (MAIL | {"to": f"u{number}@example.com", "attachments": [file]} for number in range(3000))
    with statements_on_blobs(engine) as seen, Session(engine) as session, session.begin():
        service(session).queue_emails(mails)
    assert seen == ["SELECT", "INSERT"]
    assert (count(engine, EmailBlob), count(engine, EmailAttachment)) == (1, 3000)
    engine.dispose()


def test_the_memory_of_a_bulk(engine: sa.Engine) -> None:
    stored = store(engine, b"x")
    file = Attachment("noise.bin", os.urandom(2_900_000))
    mails = [MAIL | {"attachments": [file, Attachment("x", stored)]} for _ in range(200)]
    tracemalloc.start()
    with statements_on_blobs(engine) as seen, Session(engine) as session, session.begin():
        service(session).queue_emails(mails)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == ["SELECT", "SELECT", "INSERT"]  # what was stored is asked for once
    assert peak < 4 * len(file.data)  # type: ignore[arg-type]


def test_what_the_database_has_is_not_sent_to_it_again(engine: sa.Engine) -> None:
    file = Attachment("noise.bin", NOISE)
    with statements_on_blobs(engine) as seen:
        for _ in range(3):
            with Session(engine) as session, session.begin():
                service(session).queue_email(**MAIL, attachments=[file])
    assert seen == ["SELECT", "INSERT", "SELECT", "SELECT"]


# --- How often it is fetched and encoded


def test_a_chunk_fetches_a_file_once(engine: sa.Engine) -> None:
    terms = Attachment("terms.pdf", NOISE)
    with SmtpServer() as server:
        settings = settings_for(server)
        for number in range(4):
            bill = Attachment("bill.pdf", b"%d" % number * 100_000)
            queue(engine, settings, to=[ADA, BOB], attachments=[bill, terms])
        queue(engine, settings, attachments=[Attachment("other.pdf", NOISE), terms, terms])
        with statements_on_blobs(engine) as seen:
            assert deliver(engine, settings) == {Status.SENT: 9}
        assert seen == ["SELECT data"] * 6  # four bills, the terms, and these under another name
    bills = [[("bill.pdf", b"%d" % number * 100_000), ("terms.pdf", NOISE)] for number in range(4) for _ in (ADA, BOB)]
    again = [("other.pdf", NOISE), ("terms.pdf", NOISE), ("terms.pdf", NOISE)]
    assert [files_of(message) for message in received(server)] == [*bills, again]


def test_a_chunk_keeps_what_is_to_come_and_fits(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk, "_KEPT_BYTES", 500_000)
    files = [Attachment(f"{number}.bin", os.urandom(300_000)) for number in range(2)]
    for own in ([], [], [Attachment("own.bin", NOISE)], []):
        queue(engine, SETTINGS, attachments=[*files, *own])
    ids, token = claim(engine)
    with engine.begin() as connection:
        mails = chunk.load(connection, ids, token)
    composer = chunk.Composer(engine, mails)
    kept = []
    with statements_on_blobs(engine) as seen:
        for mail in mails:
            message = email.message_from_bytes(composer.compose(mail), policy=email.policy.default)
            assert isinstance(message, EmailMessage)
            assert [name for name, _ in files_of(message)] == [link.filename for link in mail.files]
            kept.append(sum(len(part.data) for parts in composer._kept.values() for part in parts))
    assert len(seen) == 2 + 1 + 2 + 1  # the second file has no room
    assert 400_000 < kept[0] == kept[1] == kept[2] < 500_000
    assert kept[3] == 0
