"""Who must not get mail: found in one query, and their rows born dead."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox import claims, suppressions
from outbox.claims import Begin
from outbox.errors import InvalidAddress, InvalidEmail
from outbox.models import EmailSuppression, QueuedEmail
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.settlement import Attempt, Settlement, settle
from outbox.states import DeadReason, Outcome, Priority, Stage, Status
from tests import rows
from tests.rows import from_now

SETTINGS = Settings.load(smtp_from_email="shop@example.com")
ANN, BOB, SUB = "Ann@X.example", "bob@y.example", "cy@sub.y.example"


@pytest.fixture
def connection(engine: sa.Engine) -> Iterator[sa.Connection]:
    with engine.begin() as connection:
        yield connection


def find(connection: sa.Connection, *addresses: str, category: str | None = None) -> dict[str, str]:
    """Address -> why mail, of that subscription if there is one, must not go to it."""
    found = suppressions.find(connection, [(address, category) for address in addresses])
    assert {asked for _, asked in found} <= {category}
    return {address: reason for (address, _), reason in found.items()}


def over(engine: sa.Engine, target: str) -> None:
    """It was suppressed until a minute ago."""
    with engine.begin() as connection:
        suppressions.add(connection, target, "for a while", "ada@office", from_now(60))
        connection.execute(
            sa.update(EmailSuppression).where(EmailSuppression.target == target).values(until=from_now(-60))
        )


def test_an_address_in_whatever_case_a_domain_and_no_subdomain(connection: sa.Connection) -> None:
    assert find(connection, ANN, BOB) == {}
    suppressions.add(connection, "ann@x.EXAMPLE", "bounced", "mx1:25")
    suppressions.add(connection, "Y.example", "asked us to stop", "ada@office")
    found = find(connection, ANN, "anna@x.example", BOB, SUB)
    assert found == {ANN: "bounced", BOB: "asked us to stop"}
    assert find(connection) == {}


def test_the_address_answers_before_its_domain(connection: sa.Connection) -> None:
    suppressions.add(connection, "y.example", "the domain", "ada@office")
    suppressions.add(connection, BOB, "he himself", "ada@office")
    assert find(connection, BOB) == {BOB: "he himself"}


def test_a_category_stops_its_own_mail_alone(connection: sa.Connection) -> None:
    suppressions.add(connection, ANN, "too much", "ada@office", category="news")
    suppressions.add(connection, "y.example", "no advertising", "ada@office", category="offers")
    assert find(connection, ANN, BOB, category="news") == {ANN: "too much"}
    assert find(connection, ANN, BOB, category="offers") == {BOB: "no advertising"}
    assert find(connection, ANN, BOB, category=None) == {}
    both = suppressions.find(connection, [(ANN, "news"), (ANN, None), (BOB, "news"), (BOB, "offers")])
    assert both == {(ANN, "news"): "too much", (BOB, "offers"): "no advertising"}


def test_what_stops_all_mail_answers_first_and_goes_by_itself(connection: sa.Connection) -> None:
    suppressions.add(connection, BOB, "too much", "ada@office", category="news")
    suppressions.add(connection, BOB, "bounced", "mx1:25")
    assert find(connection, BOB, category="news") == find(connection, BOB) == {BOB: "bounced"}
    suppressions.add(connection, "y.example", "closed", "ada@office")
    assert suppressions.remove(connection, BOB)
    assert find(connection, BOB, category="news") == {BOB: "closed"}
    assert suppressions.remove(connection, "y.example")
    assert find(connection, BOB, category="news") == {BOB: "too much"}
    assert find(connection, BOB) == {}
    assert not suppressions.remove(connection, BOB, "offers")
    assert suppressions.remove(connection, BOB, "news")
    assert suppressions.listed(connection) == []


def test_until_is_the_end(engine: sa.Engine) -> None:
    over(engine, BOB)
    with engine.begin() as connection:
        suppressions.add(connection, "x.example", "for a while", "ada@office", from_now(60))
        assert find(connection, ANN, BOB) == {ANN: "for a while"}
        assert [line.target for line in suppressions.listed(connection)] == [BOB, "x.example"]


def test_adding_again_says_it_anew_and_removing_ends_it(connection: sa.Connection) -> None:
    first = suppressions.add(connection, BOB, "for a while", "ada@office", from_now(3600))
    again = suppressions.add(connection, BOB, "for good", "bob@office")
    assert first.until is not None
    assert again == suppressions.Suppression(BOB, "for good", "bob@office", None, first.created_at)
    assert suppressions.listed(connection) == [again]
    assert suppressions.remove(connection, BOB.upper()) is True
    assert suppressions.remove(connection, BOB) is False
    assert find(connection, BOB) == {}


def test_an_international_domain_is_the_one_that_mail_goes_to(connection: sa.Connection) -> None:
    suppressions.add(connection, "Bücher.example", "closed", "ada@office")
    suppressions.add(connection, "ann@grüße.example", "left", "ada@office")
    assert [line.target for line in suppressions.listed(connection)] == [
        "ann@xn--gre-6ka8l.example",
        "xn--bcher-kva.example",
    ]


@pytest.mark.parametrize("target", ["", "@x.example", "a b.example", "ann@", "x..example", "*.example", "Ann <a"])
def test_what_is_neither_an_address_nor_a_domain(connection: sa.Connection, target: str) -> None:
    with pytest.raises(InvalidAddress, match="target="):
        suppressions.add(connection, target, "why", "ada@office")
    assert suppressions.listed(connection) == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"reason": " "}, "reason=' ': say why"),
        ({"reason": "a\0b"}, "say why, in printable characters"),
        ({"until": from_now(-5)}, "give a time to come"),
    ],
)
def test_what_makes_no_sense(connection: sa.Connection, values: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidEmail, match=problem):
        suppressions.add(connection, BOB, **({"reason": "why", "source": "ada@office"} | values))


def test_a_thousand_addresses_are_one_query(engine: sa.Engine) -> None:
    seen: list[str] = []
    with engine.begin() as connection:
        suppressions.add(connection, "n7@x.example", "bounced", "mx1:25")
        sa.event.listen(engine, "before_cursor_execute", lambda *parts: seen.append(parts[2]))
        found = find(connection, *(f"n{number}@x.example" for number in range(1000)))
    assert found == {"n7@x.example": "bounced"}
    assert len(seen) == 1


def test_the_query_reads_an_index(postgresql_url: str) -> None:
    engine = sa.create_engine(postgresql_url)
    lines = [{"target": f"n{n}@x.example", "reason": "bounced", "source": "mx1:25"} for n in range(20_000)]
    with engine.begin() as connection:
        connection.execute(sa.insert(EmailSuppression), lines)
        connection.execute(sa.text("ANALYZE email_suppressions"))
        plan: list[str] = []

        def explain(conn: sa.Connection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if not statement.startswith("EXPLAIN"):
                plan.extend(conn.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())

        sa.event.listen(connection, "before_cursor_execute", explain)
        find(connection, *(f"n{n}@x.example" for n in range(0, 20_000, 20)), category="news")
    engine.dispose()
    assert "pk_email_suppressions" in "\n".join(plan)
    assert "Seq Scan" not in "\n".join(plan)


# --- When a mail is queued


def queued(engine: sa.Engine) -> dict[str, tuple[str, str | None, str | None, bool]]:
    with Session(engine) as session:
        return {
            row.recipient: (row.status, row.dead_reason, row.last_error, row.finalized_at is not None)
            for row in session.scalars(sa.select(QueuedEmail).order_by(QueuedEmail.id))
        }


DEAD = ("dead", "suppressed", "asked us to stop", True)
ALIVE = ("pending", None, None, False)


@pytest.mark.parametrize("key", [None, "k"], ids=["plain", "keyed"])
@pytest.mark.parametrize("bulk", [False, True], ids=["single", "bulk"])
def test_a_suppressed_recipient_is_born_dead_and_the_others_go(engine: sa.Engine, bulk: bool, key: str | None) -> None:
    with engine.begin() as connection:
        suppressions.add(connection, "y.example", "asked us to stop", "ada@office")
    over(engine, "cy@z.example")
    mail: dict[str, Any] = {
        "to": [BOB, ANN], "bcc": ["cy@z.example", "Bea@Y.example"], "subject": "s", "text": "t", "idempotency_key": key,
    }  # fmt: skip
    with Session(engine) as session, session.begin():
        service = EmailService(session, SETTINGS)
        if bulk:
            (first,) = service.queue_emails([mail])
        else:
            row = service.queue_email(**mail)
            assert (row.status, row.dead_reason, row.last_error) == DEAD[:3]
            session.flush()
            first = row.id
        assert session.get_one(QueuedEmail, first).recipient == BOB
    assert queued(engine) == {
        BOB: DEAD,
        "Ann@x.example": ALIVE,
        "cy@z.example": ALIVE,
        "Bea@y.example": DEAD,
    }
    with engine.begin() as connection:
        assert len(claims.claim(connection, dict.fromkeys(Priority, 9), "w", 60).ids[Priority.NORMAL]) == 2


def test_a_bulk_insert_stays_one(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        suppressions.add(connection, "n3@x.example", "asked us to stop", "ada@office")
    seen: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *parts: seen.append(" ".join(parts[2].split()[:3])))
    mails = [{"to": f"n{n}@x.example", "subject": "s", "text": "t"} for n in range(50)]
    with Session(engine) as session, session.begin():
        ids = EmailService(session, SETTINGS).queue_emails(mails)
    assert seen.count("SELECT target, reason,") == 1
    assert len(set(ids)) == 50
    assert [recipient for recipient, line in queued(engine).items() if line == DEAD] == ["n3@x.example"]
    if engine.dialect.name == "postgresql":
        assert seen.count("INSERT INTO email_queue") == 1


# --- By the relay


def bounce(engine: sa.Engine, recipient: str, reply: str) -> None:
    """The relay says that there is no such recipient."""
    (id_,) = rows.add(engine, recipient=recipient)
    with engine.begin() as connection:
        claim = claims.claim(connection, dict.fromkeys(Priority, 9), "w", 60)
        claims.begin(connection, [Begin(id_, claim.token, "own", "mx1:25")], 60)
        attempt = Attempt(id_, 1, 0.1, Outcome.REJECTED, Stage.RCPT, 550, reply, "mx1:25", "w")
        dead = Settlement(
            id_, "own", Status.DEAD, dead_reason=DeadReason.REJECTED, last_error=f"rcpt: {reply}", suppress=True,
            attempt=attempt,
        )  # fmt: skip
        assert settle(connection, [dead]) == {id_}


def test_the_relay_suppresses_and_a_person_is_not_overruled(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        suppressions.add(connection, BOB, "asked us to stop", "ada@office", from_now(60))
    bounce(engine, ANN, "5.1.1 no such user")
    bounce(engine, BOB, "5.1.1 no such user")
    with engine.begin() as connection:
        ann, bob = suppressions.listed(connection)
    assert ann[:4] == ("ann@x.example", "rcpt: 5.1.1 no such user", "mx1:25", None)
    assert (bob.reason, bob.source, bob.until is None) == ("asked us to stop", "ada@office", False)


def test_who_had_unsubscribed_gets_no_mail_at_all_when_the_relay_says_so(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        suppressions.add(connection, ANN, "unsubscribed from 'news'", "one-click", category="news")
    bounce(engine, ANN, "5.1.1 no such user")
    with engine.begin() as connection:
        assert find(connection, ANN) == {ANN: "rcpt: 5.1.1 no such user"}
        assert [line.category for line in suppressions.listed(connection)] == ["", "news"]


def test_what_was_over_begins_anew(engine: sa.Engine) -> None:
    over(engine, BOB)
    bounce(engine, BOB, "5.1.1 no such user")
    with engine.begin() as connection:
        assert find(connection, BOB) == {BOB: "rcpt: 5.1.1 no such user"}
