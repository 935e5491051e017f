"""What is told of a mail behind the relay's 250: which mail it finds, and what follows."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from outbox import feedback, suppressions
from outbox.database import reading
from outbox.explaining import explain
from outbox.feedback import Event, Taken
from outbox.settings import Settings
from outbox.states import Feedback, Status
from tests import rows
from tests.rows import from_now
from tests.told import kept, message_id_of, sent, suppressed

SES_ID = "0100018f3c2a1b4d-5e6f7a8b-9c0d-4e1f-a2b3-c4d5e6f7a8b9-000000"


def event(**fields: Any) -> Event:
    defaults: dict[str, Any] = {
        "kind": Feedback.BOUNCED,
        "provider": "ses",
        "id": "event-1",
        "recipient": "ann@example.com",
        "occurred_at": datetime.now(UTC),
        "said": "550 5.1.1 no such user",
    }
    return Event(**(defaults | fields))


def take(engine: sa.Engine, *events: Event) -> dict[Taken, int]:
    with engine.begin() as connection:
        return dict(feedback.take(connection, events))


def test_a_bounce_is_kept_once_and_suppresses(engine: sa.Engine) -> None:
    id_, message_id = sent(engine)
    bounce = event(message_ids=(message_id.strip("<>"),), recipient="ANN@Example.com")
    assert take(engine, bounce) == {Taken.RECORDED: 1}
    assert take(engine, bounce, bounce) == {Taken.KNOWN: 2}
    assert kept(engine, id_) == [("bounced", "550 5.1.1 no such user")]
    assert suppressed(engine) == {"ann@example.com": ("bounced: 550 5.1.1 no such user", "ses")}


def test_what_a_person_has_lifted_stays_lifted_when_the_event_comes_again(engine: sa.Engine) -> None:
    _, message_id = sent(engine)
    take(engine, event(message_ids=(message_id,)))
    with engine.begin() as connection:
        suppressions.remove(connection, "ann@example.com")
    assert take(engine, event(message_ids=(message_id,))) == {Taken.KNOWN: 1}
    assert suppressed(engine) == {}


def test_what_a_person_has_said_of_an_address_stays_and_a_passing_line_becomes_lasting(engine: sa.Engine) -> None:
    _, message_id = sent(engine)
    _, other_id = sent(engine, recipient="bob@example.com")
    with engine.begin() as connection:
        suppressions.add(connection, "ann@example.com", "asked us to stop", "root")
        suppressions.add(connection, "bob@example.com", "on holiday", "root", until=from_now(900))
    take(engine, event(message_ids=(message_id,)), event(message_ids=(other_id,), recipient="bob@example.com"))
    assert suppressed(engine) == {
        "ann@example.com": ("asked us to stop", "root"),
        "bob@example.com": ("bounced: 550 5.1.1 no such user", "ses"),
    }


def test_what_may_still_go_well_suppresses_nobody(engine: sa.Engine) -> None:
    id_, message_id = sent(engine)
    kinds = [Feedback.DELAYED, Feedback.SOFT_BOUNCED, Feedback.DELIVERED]
    told = [event(kind=kind, id=kind, message_ids=(message_id,), said="") for kind in kinds]
    assert take(engine, *told) == {Taken.RECORDED: 3}
    assert kept(engine, id_) == [(kind, "") for kind in kinds]
    assert suppressed(engine) == {}


def test_the_relays_own_name_for_a_mail_finds_it_too(engine: sa.Engine) -> None:
    sent(engine, f"Ok x{SES_ID}")
    id_, _ = sent(engine, f"Ok {SES_ID}")
    sent(engine, f"Ok {SES_ID}-1")
    assert take(engine, event(message_ids=("<other@example.com>",), provider_id=SES_ID)) == {Taken.RECORDED: 1}
    assert kept(engine, id_) == [("bounced", "550 5.1.1 no such user")]


def test_what_is_of_no_mail_of_ours_changes_nothing(engine: sa.Engine) -> None:
    id_, message_id = sent(engine, f"Ok {SES_ID}")
    (waiting,) = rows.add(engine)
    (cancelled,) = rows.add(engine, status=Status.CANCELLED, finalized_at=from_now(-9))
    never_went = tuple(message_id_of(engine, one) for one in (waiting, cancelled))
    strangers = [
        event(),
        event(message_ids=("<nobody@example.com>", "\ud800", "", "\0")),
        event(message_ids=(message_id,), recipient="bob@example.com"),
        event(message_ids=(message_id,), recipient="ann@example.com\0"),
        event(message_ids=(f"{message_id}\0",)),
        event(message_ids=never_went),
        event(provider_id="Ok"),
        event(provider_id="%" * 9),
        event(provider_id=SES_ID, recipient="bob@example.com"),
        event(provider_id=SES_ID[:30]),
    ]
    assert take(engine, *strangers) == {Taken.UNKNOWN: len(strangers)}
    assert kept(engine, id_) == kept(engine, waiting) == kept(engine, cancelled) == []
    assert suppressed(engine) == {}


def test_hostile_words_are_kept_as_one_line_and_the_future_is_now(engine: sa.Engine) -> None:
    id_, message_id = sent(engine)
    hostile = event(
        message_ids=(message_id,),
        said="550\r\n\x1b[31m\0 \u202eno\ud800" + "x" * 9000,
        id="\0" * 4000,
        occurred_at=datetime.now(UTC) + timedelta(days=9000),
    )
    assert take(engine, hostile) == {Taken.RECORDED: 1}
    assert take(engine, hostile) == {Taken.KNOWN: 1}
    ((_, said),) = kept(engine, id_)
    assert said == f"550 [31m no {'x' * 9000}"[: feedback.LONGEST_SAID]
    with reading(engine) as connection:
        notice = feedback.last(connection, id_)
    assert notice is not None
    assert notice.occurred_at <= datetime.now(UTC)


def test_the_sentence_tells_the_last_word(engine: sa.Engine) -> None:
    id_, message_id = sent(engine)
    earlier = datetime.now(UTC) - timedelta(minutes=9)
    take(engine, event(message_ids=(message_id,)))
    take(engine, event(kind=Feedback.DELAYED, id="event-0", message_ids=(message_id,), occurred_at=earlier))
    with reading(engine) as connection:
        said = explain(connection, Settings.load(), id_)
    assert re.fullmatch(
        rf'Mail {id_} was sent at .* by relay relay:25, which said ".*"; ses says that it bounced for good at .* '
        r'with "550 5.1.1 no such user", and ann@example.com is suppressed, until `outbox suppress --remove '
        r"ann@example.com`\.",
        said,
    )
