"""A newer mail in the place of an older one that has not gone."""

import threading
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox import claims, suppressions
from outbox.attachments import Attachment
from outbox.database import create_engine
from outbox.errors import InvalidEmail, InvalidTemplate
from outbox.models import QueuedEmail
from outbox.operations import requeue
from outbox.reaper import reap
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.states import Priority, Status
from tests import rows
from tests.delivering import ADA, BOB, DEE, claim, deliver, make_due, queue, seconds_until, settings_for
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


# --- Digests


@pytest.fixture
def comments(smtp: SmtpServer, tmp_path: Path) -> Settings:
    """A template that says who has commented, and how many they are."""
    for name in ("comments", "replies"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "subject.txt").write_text("{{ contexts|length }} on {{ thread }}")
        (folder / "body.txt").write_text("{% for one in contexts %}{{ one.who }} {% endfor %}| newest: {{ who }}")
    return settings_for(smtp, outbox_templates=(str(tmp_path),))


def comment(engine: sa.Engine, settings: Settings, who: str, **mail: Any) -> int:
    asked: dict[str, Any] = {
        "to": ADA,
        "template": "comments",
        "context": {"who": who, "thread": "T"},
        "collapse": "comments:42",
        "within": 600,
    }
    with Session(engine) as session, session.begin():
        row = EmailService(session, settings).queue_email(**asked | mail)
        session.flush()
        return row.id


def said(engine: sa.Engine, id_: int) -> tuple[str, str | None]:
    with Session(engine) as session:
        content = session.get_one(QueuedEmail, id_).content
        return content.subject, content.text


def test_pending_mails_of_a_key_become_one(engine: sa.Engine, comments: Settings, smtp: SmtpServer) -> None:
    ids = [comment(engine, comments, who) for who in ("Bob", "Dee", "Eve")]
    assert rows.statuses(engine, ids) == ["cancelled", "cancelled", "pending"]
    assert said(engine, ids[-1]) == ("3 on T", "Bob Dee Eve | newest: Eve")
    assert why(engine, comments, ids[0]).endswith("taken up by a newer mail: comments:42.")
    assert deliver(engine, comments)[Status.SENT] == 0, "it waits for more"
    make_due(engine)
    deliver(engine, comments)
    assert subjects(smtp) == ["3 on T"]
    later = comment(engine, comments, "Fay")
    assert said(engine, later) == ("1 on T", "Fay | newest: Fay"), "what was sent is not said again"


def test_a_digest_goes_when_its_first_mail_was_due(engine: sa.Engine, comments: Settings) -> None:
    first = comment(engine, comments, "Bob", within=600)
    due = rows.row(engine, first).next_attempt_at
    assert 590 < seconds_until(due) <= 600
    second = rows.row(engine, comment(engine, comments, "Dee", within=86_400))
    assert (second.next_attempt_at, second.scheduled_at) == (due, due)


@pytest.mark.parametrize(
    "other",
    [{"to": BOB}, {"collapse": "comments:43"}, {"template": "replies"}, {"category": "news"}],
    ids=["recipient", "key", "template", "category"],
)
def test_what_is_not_of_the_same_digest_stays(engine: sa.Engine, comments: Settings, other: dict[str, Any]) -> None:
    ids = [comment(engine, comments, "Bob"), comment(engine, comments, "Dee", **other)]
    assert rows.statuses(engine, ids) == ["pending", "pending"]
    assert said(engine, ids[1]) == ("1 on T", "Dee | newest: Dee")


def test_a_digest_in_a_workers_hands_is_left_alone(engine: sa.Engine, comments: Settings) -> None:
    first = comment(engine, comments, "Bob")
    make_due(engine)
    claim(engine)
    second = comment(engine, comments, "Dee")
    assert rows.statuses(engine, [first, second]) == ["claimed", "pending"]
    assert said(engine, second) == ("1 on T", "Dee | newest: Dee")


def test_the_same_comment_twice_is_in_the_digest_once(engine: sa.Engine, comments: Settings) -> None:
    first = comment(engine, comments, "Bob", idempotency_key="comment:1")
    second = comment(engine, comments, "Dee", idempotency_key="comment:2")
    assert comment(engine, comments, "Bob", idempotency_key="comment:1") == first
    assert comment(engine, comments, "Dee", idempotency_key="comment:2") == second
    assert rows.statuses(engine, [first, second]) == ["cancelled", "pending"]
    assert said(engine, second) == ("2 on T", "Bob Dee | newest: Dee")


def test_the_row_that_has_the_key_is_returned_as_it_is(engine: sa.Engine, comments: Settings) -> None:
    first = comment(engine, comments, "Bob", idempotency_key="comment:1")
    with Session(engine) as session, session.begin():
        asked: dict[str, Any] = {"to": ADA, "template": "comments", "context": {"who": "Bob", "thread": "T"}}
        row = EmailService(session, comments).queue_email(
            **asked, collapse="comments:42", within=600, idempotency_key="comment:1"
        )
        assert (row.id, row.status, row.finalized_at) == (first, "pending", None)
        assert row.content.contexts == [{"who": "Bob", "thread": "T"}]


def test_what_can_be_read_once_is_read_once(engine: sa.Engine, comments: Settings) -> None:
    comment(engine, comments, "Bob")
    context = MappingProxyType({"who": "Dee", "thread": "T"})  # and a mapping need not be a dict
    second = comment(engine, comments, "Dee", to=iter([ADA]), reply_to=iter([BOB]), context=context)
    assert said(engine, second) == ("2 on T", "Bob Dee | newest: Dee")
    with Session(engine) as session:
        assert session.get_one(QueuedEmail, second).content.reply_to == BOB


def test_what_makes_no_mail_with_the_digest_begins_another(engine: sa.Engine, comments: Settings) -> None:
    """An application must not fail for what it queued before; nor may that be lost."""
    small = comments.model_copy(update={"outbox_max_message_bytes": 100})
    ids = [comment(engine, small, who * 30) for who in "ABC"]
    assert rows.statuses(engine, ids) == ["pending", "pending", "pending"]
    assert [said(engine, id_)[0] for id_ in ids] == ["1 on T", "1 on T", "1 on T"]
    last = comment(engine, comments, "D")
    assert rows.statuses(engine, [*ids, last]) == ["pending", "pending", "cancelled", "pending"]


def test_who_may_not_get_the_newest_may_yet_get_the_digest(engine: sa.Engine, comments: Settings) -> None:
    first = comment(engine, comments, "Bob")
    with engine.begin() as connection:
        suppressions.add(connection, ADA, "on leave", "Eve", rows.from_now(60))
    second = comment(engine, comments, "Dee")
    assert rows.statuses(engine, [first, second]) == ["pending", "dead"]
    with engine.begin() as connection:
        suppressions.remove(connection, ADA)
    assert said(engine, comment(engine, comments, "Eve")) == ("2 on T", "Bob Eve | newest: Eve")


def test_rolled_back_the_digest_is_as_it_was(engine: sa.Engine, comments: Settings) -> None:
    first = comment(engine, comments, "Bob")
    with pytest.raises(InvalidTemplate, match="'thread' is undefined"):
        comment(engine, comments, "Dee", context={"who": "Dee"})
    assert rows.statuses(engine, [first]) == ["pending"]
    second = comment(engine, comments, "Eve")
    assert said(engine, second) == ("2 on T", "Bob Eve | newest: Eve")


def test_a_full_digest_goes_and_another_begins(
    engine: sa.Engine, comments: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.superseding.MOST_CONTEXTS", 2)
    ids = [comment(engine, comments, who) for who in ("Bob", "Dee", "Eve", "Fay")]
    assert rows.statuses(engine, ids) == ["cancelled", "pending", "cancelled", "pending"]
    assert [said(engine, id_)[1] for id_ in ids[1::2]] == ["Bob Dee | newest: Dee", "Eve Fay | newest: Fay"]


def test_of_two_transactions_one_waits_for_the_other_and_takes_it_up(postgresql_url: str, comments: Settings) -> None:
    engine = create_engine(postgresql_url)
    begun = threading.Barrier(2)

    def write(who: str) -> int:
        begun.wait(10)
        return comment(engine, comments, who)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            list(pool.map(write, ("Bob", "Dee")))
    with Session(engine) as session:
        (digest,) = session.scalars(sa.select(QueuedEmail).where(QueuedEmail.status == "pending"))
        assert digest.subject == "20 on T"
    engine.dispose()


def test_what_a_transaction_has_taken_up_is_claimed_when_it_is_rolled_back(
    postgresql_url: str, comments: Settings
) -> None:
    engine = create_engine(postgresql_url)
    first = comment(engine, comments, "Bob")
    make_due(engine)
    with Session(engine) as session:
        asked: dict[str, Any] = {"to": ADA, "template": "comments", "context": {"who": "Dee", "thread": "T"}}
        EmailService(session, comments).queue_email(**asked, collapse="comments:42", within=600)
        assert claim(engine)[0] == [], "and nobody waits for the application's transaction"
        session.rollback()
    assert claim(engine)[0] == [first]
    assert said(engine, first) == ("1 on T", "Bob | newest: Bob")
    engine.dispose()


def test_a_digest_that_is_claimed_in_the_same_moment_is_not_taken_up(postgresql_url: str, comments: Settings) -> None:
    engine = create_engine(postgresql_url)
    first = comment(engine, comments, "Bob")
    make_due(engine)
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as connection:
            claimed = claims.claim(connection, dict.fromkeys(Priority, 1), "worker-1", 60)
            assert claimed.ids[Priority.NORMAL] == [first]
            waits = pool.submit(comment, engine, comments, "Dee")
            with pytest.raises(TimeoutError):
                waits.result(0.3)
        second = waits.result(10)
    assert rows.statuses(engine, [first, second]) == ["claimed", "pending"]
    assert said(engine, second) == ("1 on T", "Dee | newest: Dee")
    engine.dispose()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"within": None}, "within"),
        ({"collapse": None}, "within"),
        ({"within": 0}, "within"),
        ({"within": "600"}, "within"),
        ({"within": float("nan")}, "within"),
        ({"template": None, "context": None, "subject": "Hello", "text": "Hello"}, "collapse"),
        ({"cc": BOB}, "collapse"),
        ({"scheduled_at": rows.from_now(60)}, "collapse"),
        ({"expires_at": rows.from_now(60)}, "collapse"),
        ({"attachments": [Attachment("a.txt", b"a")]}, "collapse"),
        ({"context": {"when": rows.from_now(0)}}, "context"),
        ({"context": {"contexts": []}}, "context"),
    ],
)
def test_what_cannot_collapse_is_refused(
    engine: sa.Engine, comments: Settings, wrong: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidEmail, match=rf"^{field}="):
        comment(engine, comments, "Bob", **wrong)


def test_a_bulk_does_not_collapse(engine: sa.Engine, comments: Settings) -> None:
    mail = {"to": ADA, "template": "comments", "context": {"who": "Bob", "thread": "T"}}
    with Session(engine) as session, pytest.raises(InvalidEmail, match=r"^mails\[0\]\.collapse="):
        EmailService(session, comments).queue_emails([mail], collapse="comments:42", within=600)
