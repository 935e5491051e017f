"""A newer mail in the place of an older one that has not gone."""

from email import message_from_bytes
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox.database import create_engine
from outbox.errors import InvalidEmail
from outbox.models import QueuedEmail
from outbox.operations import requeue
from outbox.reaper import reap
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.states import Status
from tests import rows
from tests.delivering import ADA, BOB, DEE, claim, deliver, queue, settings_for
from tests.smtp_server import SmtpServer

KEY = "otp:42"


@pytest.fixture
def settings(smtp: SmtpServer) -> Settings:
    return settings_for(smtp)


def subjects(smtp: SmtpServer) -> list[str]:
    return [message_from_bytes(mail.data)["Subject"] for mail in smtp.mails]


def why(engine: sa.Engine, settings: Settings, id_: int) -> str:
    with Session(engine) as session:
        return EmailService(session, settings).explain(id_)


def test_only_the_newest_of_a_key_is_sent(engine: sa.Engine, settings: Settings, smtp: SmtpServer) -> None:
    (first,) = queue(engine, settings, subject="Code 1", supersedes=KEY)
    (other,) = queue(engine, settings, subject="Another key", supersedes="otp:43")
    (plain,) = queue(engine, settings, subject="No key")
    (second,) = queue(engine, settings, subject="Code 2", supersedes=KEY)
    assert rows.statuses(engine, [first, other, plain, second]) == ["cancelled", "pending", "pending", "pending"]
    assert why(engine, settings, first).endswith("superseded by a newer mail: otp:42.")
    deliver(engine, settings)
    assert sorted(subjects(smtp)) == ["Another key", "Code 2", "No key"]


def test_the_session_that_holds_the_older_mail_sees_it(engine: sa.Engine, settings: Settings) -> None:
    with Session(engine) as session, session.begin():
        mail: dict[str, Any] = {"subject": "Code", "text": "1", "supersedes": KEY}
        first = EmailService(session, settings).queue_email(to=[ADA, BOB], **mail)
        second = EmailService(session, settings).queue_email(to=[ADA, BOB], **mail)
        assert [row.status for row in first.content.recipients] == ["cancelled", "cancelled"]
        assert [row.status for row in second.content.recipients] == ["pending", "pending"]


def test_rolled_back_it_supersedes_nothing(engine: sa.Engine, settings: Settings) -> None:
    (first,) = queue(engine, settings, supersedes=KEY)
    with Session(engine) as session:
        EmailService(session, settings).queue_email(to=ADA, subject="Code", text="2", supersedes=KEY)
        session.rollback()
    assert rows.statuses(engine, [first]) == ["pending"]


def test_the_same_mail_again_supersedes_nothing(engine: sa.Engine, settings: Settings) -> None:
    mail = {"supersedes": KEY, "idempotency_key": "code 1"}
    (first,) = queue(engine, settings, **mail)
    assert queue(engine, settings, **mail) == [first]
    assert rows.statuses(engine, [first]) == ["pending"]


def test_in_a_bulk_the_last_of_a_key_remains(engine: sa.Engine, settings: Settings) -> None:
    (before,) = queue(engine, settings, supersedes=KEY)
    with Session(engine) as session, session.begin():
        mails = [{"to": to, "text": "1"} for to in (ADA, BOB, DEE)]
        ids = EmailService(session, settings).queue_emails(mails, subject="Code", supersedes=KEY)
    assert rows.statuses(engine, [before, *ids]) == ["cancelled", "cancelled", "cancelled", "pending"]


def test_a_mail_that_comes_back_from_a_worker_ends_at_its_next_turn(
    engine: sa.Engine, settings: Settings, smtp: SmtpServer
) -> None:
    (first,) = queue(engine, settings, subject="Code 1", supersedes=KEY)
    ids, _ = claim(engine)
    (second,) = queue(engine, settings, subject="Code 2", supersedes=KEY)
    assert rows.statuses(engine, [first]) == ["claimed"], "it is not ours to stop"
    with engine.begin() as connection:
        lapsed = sa.update(QueuedEmail).where(QueuedEmail.id.in_(ids)).values(lease_expires_at=rows.from_now(-1))
        connection.execute(lapsed)
    reap(engine, settings)
    deliver(engine, settings)
    assert rows.statuses(engine, [first, second]) == ["cancelled", "sent"]
    assert why(engine, settings, first).endswith(f"superseded by a newer mail ({second}).")
    assert subjects(smtp) == ["Code 2"]


def test_of_two_transactions_that_do_not_see_each_other_the_newer_wins(postgresql_url: str, settings: Settings) -> None:
    engine = create_engine(postgresql_url)
    with Session(engine) as one, Session(engine) as other:
        first, second = [
            EmailService(session, settings).queue_email(to=ADA, subject="Code", text="1", supersedes=KEY).id
            for session in (one, other)
        ]
        one.commit()
        other.commit()
    assert rows.statuses(engine, [first, second]) == ["pending", "pending"]
    deliver(engine, settings)
    assert rows.statuses(engine, [first, second]) == ["cancelled", "sent"]
    engine.dispose()


def test_what_a_relay_may_have_is_never_called_cancelled(engine: sa.Engine, settings: Settings) -> None:
    (first,) = queue(engine, settings, supersedes=KEY)
    with engine.begin() as connection:
        connection.execute(sa.update(QueuedEmail).values(relay=settings.endpoints[0].name))
    (second,) = queue(engine, settings, supersedes=KEY)
    assert rows.statuses(engine, [first]) == ["pending"]
    deliver(engine, settings)
    assert rows.statuses(engine, [first, second]) == ["uncertain", "sent"]
    assert "may have sent it" in why(engine, settings, first)


def test_requeued_by_a_person_it_is_superseded_all_the_same(engine: sa.Engine, settings: Settings) -> None:
    (first,) = queue(engine, settings, supersedes=KEY)
    queue(engine, settings, supersedes=KEY)
    with engine.begin() as connection:
        assert requeue(connection, [first]) == {first}
    assert deliver(engine, settings)[Status.CANCELLED] == 1


@pytest.mark.parametrize("key", ["", "a\nb", 7, "x" * 256])
def test_a_key_is_a_label(engine: sa.Engine, settings: Settings, key: object) -> None:
    with pytest.raises(InvalidEmail, match=r"^supersedes="):
        queue(engine, settings, supersedes=key)
