"""Who wants what: recorded once, asked when a mail is queued and when it is sent, and taken back."""

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox import suppressions
from outbox.errors import InvalidEmail
from outbox.explaining import explain
from outbox.models import EmailContent
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.states import DeadReason, Status
from outbox.subscriptions import Subscription, hindered, prefer, preferences, resubscribe, unsubscribe, wants
from tests import rows
from tests.delivering import deliver, queue, settings_for
from tests.rows import from_now
from tests.smtp_server import SmtpServer
from tests.subscribing import OLD_KEY, SUBSCRIBED, with_subscriptions

ADA = "Ada@Example.com"
NEWS = Subscription(ADA, "news")
SETTINGS = with_subscriptions()
SUPPRESSED = (Status.DEAD, DeadReason.SUPPRESSED, "unsubscribed from 'news'")


def send(engine: sa.Engine, settings: Settings = SETTINGS, **mail: Any) -> int:
    (id_,) = queue(engine, settings, **({"to": ADA, "category": "news"} | mail))
    return id_


def outcome(engine: sa.Engine, id_: int) -> tuple[str, str | None, str | None]:
    row = rows.row(engine, id_)
    return row.status, row.dead_reason, row.last_error


def test_unsubscribe_and_undo(engine: sa.Engine) -> None:
    before = send(engine)
    with engine.begin() as connection:
        unsubscribe(connection, NEWS, "one-click")
        assert not wants(connection, NEWS)
        assert wants(connection, Subscription(ADA, "product-updates"))
    assert outcome(engine, send(engine)) == SUPPRESSED
    assert outcome(engine, send(engine, to="ADA@example.com")) == SUPPRESSED
    for other in (
        {"category": "product-updates"},
        {"category": "receipt"},
        {"category": None},
        {"to": "b@example.com"},
    ):
        assert outcome(engine, send(engine, **other)) == (Status.PENDING, None, None)
    assert outcome(engine, before)[0] == Status.PENDING, "it dies when its turn comes"
    with engine.begin() as connection:
        resubscribe(connection, NEWS)
        assert wants(connection, NEWS)
        resubscribe(connection, NEWS)
    assert outcome(engine, send(engine))[0] == Status.PENDING


def test_a_bulk_of_several_categories(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        unsubscribe(connection, NEWS, "one-click")
    mails = [
        {"to": ADA, "subject": "s", "text": "t", "category": category}
        for category in ("news", "product-updates", "receipt", None)
    ]
    with Session(engine) as session, session.begin():
        ids = EmailService(session, SETTINGS).queue_emails(mails)
    assert [outcome(engine, id_)[0] for id_ in ids] == ["dead", "pending", "pending", "pending"]


def test_what_waits_dies_when_its_turn_comes_and_a_receipt_goes(engine: sa.Engine, smtp: SmtpServer) -> None:
    settings = settings_for(smtp, **SUBSCRIBED)
    news, receipt, other = (send(engine, settings, category=c) for c in ("news", "receipt", "product-updates"))
    with engine.begin() as connection:
        unsubscribe(connection, NEWS, "one-click")
        assert "will not be sent, for ada@example.com unsubscribed from 'news' at" in explain(
            connection, settings, news
        )
    assert deliver(engine, settings) == {Status.DEAD: 1, Status.SENT: 2}
    assert outcome(engine, news) == SUPPRESSED
    assert rows.statuses(engine, [receipt, other]) == [Status.SENT] * 2
    assert len(smtp.mails) == 2
    with engine.begin() as connection:
        said = explain(connection, settings, news)
    assert "ada@example.com unsubscribed from 'news' at" in said
    assert "`outbox suppress --remove ada@example.com --category news` lifts that" in said


def test_a_category_that_became_transactional_goes(engine: sa.Engine, smtp: SmtpServer) -> None:
    with engine.begin() as connection:
        unsubscribe(connection, NEWS, "one-click")
    settings = settings_for(smtp, **SUBSCRIBED | {"outbox_subscriptions": "product-updates"})
    id_ = send(engine, settings)
    assert deliver(engine, settings) == {Status.SENT: 1}
    with engine.begin() as connection:
        assert "was sent at" in explain(connection, settings, id_)
    assert b"List-" not in smtp.mails[0].data


def test_another_key_between_a_task_and_its_retry(engine: sa.Engine) -> None:
    first = send(engine, idempotency_key="news:42:ada")
    again = send(engine, with_subscriptions(outbox_signing_keys=[OLD_KEY]), idempotency_key="news:42:ada")
    assert first == again
    with Session(engine) as session:
        assert session.scalars(sa.select(EmailContent.id)).all() == [1]


def test_to_ask_twice_keeps_the_first_word(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        unsubscribe(connection, NEWS, "one-click")
        (first,) = suppressions.listed(connection)
    with engine.begin() as connection:
        unsubscribe(connection, Subscription("ADA@example.COM", "news"), "preference page")
        assert suppressions.listed(connection) == [first]
    assert (first.target, first.category, first.source, first.until) == ("ada@example.com", "news", "one-click", None)


@pytest.mark.parametrize("seconds", [60, -60], ids=["for a while", "over"])
def test_what_had_an_end_has_none_any_more(engine: sa.Engine, seconds: float) -> None:
    with engine.begin() as connection:
        suppressions.add(connection, ADA, "on holiday", "bob@office", from_now(60), category="news")
        connection.execute(
            sa.text("UPDATE email_suppressions SET until = :until").bindparams(
                sa.bindparam("until", from_now(seconds), type_=EmailContent.created_at.type)
            )
        )
        assert wants(connection, NEWS) is (seconds < 0)
        unsubscribe(connection, NEWS, "one-click")
        (line,) = suppressions.listed(connection)
    assert (line.reason, line.source, line.until) == ("unsubscribed from 'news'", "one-click", None)


def test_preferences_change_categories_alone(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        suppressions.add(connection, ADA, "bounced", "mx1:25")
        unsubscribe(connection, Subscription(ADA, "gone"), "one-click")
        unsubscribe(connection, Subscription("bob@example.com", "news"), "one-click")
        kept = suppressions.listed(connection)
        assert preferences(connection, SETTINGS, ADA) == {"news": True, "product-updates": True}

        prefer(connection, SETTINGS, ADA, {"product-updates"}, "preference page")
        assert preferences(connection, SETTINGS, "ada@example.com") == {"news": False, "product-updates": True}
        prefer(connection, SETTINGS, ADA, (), "preference page")
        assert preferences(connection, SETTINGS, ADA) == {"news": False, "product-updates": False}
        assert preferences(connection, SETTINGS, "bob@example.com") == {"news": False, "product-updates": True}
        prefer(connection, SETTINGS, ADA, ["news", "product-updates"], "preference page")
        assert suppressions.listed(connection) == kept
        assert hindered(connection, SETTINGS, ADA) == {"news", "product-updates"}
        assert hindered(connection, SETTINGS, "bob@example.com") == set()


def test_a_category_of_the_whole_domain_hinders(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        suppressions.add(connection, "example.com", "they asked", "bob@office", category="news")
        assert hindered(connection, SETTINGS, ADA) == {"news"}
        assert preferences(connection, SETTINGS, ADA) == {"news": True, "product-updates": True}


def test_what_is_no_subscription_cannot_be_wanted(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        with pytest.raises(InvalidEmail, match=r"^wanted='receipt': choose from news, product-updates$"):
            prefer(connection, SETTINGS, ADA, ["news", "receipt"], "preference page")
        assert suppressions.listed(connection) == []
