"""`explain` on real rows of every status: that the query finds what the sentence needs."""

import re
from typing import Any

import pytest
import sqlalchemy as sa

from outbox import breaker, fence, suppressions
from outbox.database import reading
from outbox.errors import NotPossible
from outbox.explaining import explain
from outbox.models import EmailAttempt, EmailEnvironment
from outbox.settings import Settings
from outbox.states import DeadReason, Outcome, Stage, Status
from tests import rows
from tests.rows import from_now

RELAYS = "smtp://mx1.example smtp://mx2.example"
FIRST, SECOND = "mx1.example:25", "mx2.example:25"
SOON = from_now(7200)
FINAL: dict[str, Any] = {"finalized_at": from_now(-9)}
CLOCK = r"\d\d:\d\d(:\d\d)? \((in )?\d+ (s|min|h|d)( ago)?\)"


def settings(**values: Any) -> Settings:
    return Settings.load(outbox_relays=RELAYS, **values)


def why(engine: sa.Engine, id_: int, **values: Any) -> str:
    """The sentence with every time in it as `T`."""
    with reading(engine) as connection:
        said = explain(connection, settings(**values), id_)
    prefix = f"Mail {id_} "
    assert said.startswith(prefix)
    return re.sub(rf"(\d{{4}}-\d\d-\d\d )?{CLOCK}", "T", said.removeprefix(prefix))


def tried(engine: sa.Engine, id_: int, outcome: Outcome, code: int, reply: str) -> None:
    with engine.begin() as connection:
        values = {"started_at": from_now(-60), "relay": FIRST, "worker": "w"}
        connection.execute(
            sa.insert(EmailAttempt).values(
                email_id=id_, number=1, outcome=outcome, code=code, reply=reply, stage=Stage.RCPT, **values
            )
        )


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({}, "has been due since T, and waits for a worker."),
        (
            {"scheduled_at": SOON, "next_attempt_at": SOON},
            "is scheduled for T.",
        ),
        (
            {"next_attempt_at": SOON, "attempts": 2, "last_error": "rcpt: greylisted"},
            'is waiting for retry 3 of 5 after "rcpt: greylisted" until T.',
        ),
        (
            {"next_attempt_at": SOON, "waiting_for": "14/second to x"},
            "is held back until T: 14/second to x.",
        ),
        ({"status": Status.CANCELLED, **FINAL}, "was cancelled at T; `outbox requeue 1` sends it after all."),
        ({"status": Status.SENT, "sent_at": from_now(-9), **FINAL}, "has counted as sent since T."),
        (
            {"status": Status.UNCERTAIN, "relay": FIRST, "last_error": "dot: no answer"},
            (
                f'is uncertain: relay {FIRST} may have sent it ("dot: no answer"); look for its '
                "Message-ID (`outbox show 1`) in the log of that relay, then "
                "`outbox resolve 1 sent|requeue|dead`."
            ),
        ),
        (
            {"status": Status.DEAD, "dead_reason": DeadReason.INVALID, "last_error": "no text", **FINAL},
            "has been dead since T: it cannot be sent as a message (no text).",
        ),
    ],
)
def test_a_row_by_itself(engine: sa.Engine, columns: dict[str, Any], said: str) -> None:
    assert rows.add(engine, **columns) == [1]
    assert why(engine, 1) == said


@pytest.mark.parametrize(
    ("status", "relay", "said"),
    [
        (Status.CLAIMED, None, "is with worker worker-1, which begins it by T or gives it back."),
        (Status.SENDING, None, "is being composed by worker worker-1, which began at T."),
        (Status.SENDING, FIRST, f"is being sent to relay {FIRST} by worker worker-1, which began at T."),
    ],
)
def test_in_a_workers_hands(engine: sa.Engine, status: Status, relay: str | None, said: str) -> None:
    (id_,) = rows.leased(engine, status, "t", relay=relay)
    assert why(engine, id_) == said


@pytest.mark.parametrize(
    ("outcome", "columns", "said"),
    [
        (
            Outcome.SENT,
            {"status": Status.SENT, "sent_at": from_now(-9)},
            f'was sent at T by relay {FIRST}, which said "{{}}".',
        ),
        (
            Outcome.REJECTED,
            {"status": Status.DEAD, "dead_reason": DeadReason.REJECTED, "last_error": "rcpt: so be it"},
            f'has been dead since T: relay {FIRST} refused it for good with "{{}}".',
        ),
        (
            Outcome.DEFERRED,
            {"status": Status.DEAD, "dead_reason": DeadReason.EXHAUSTED, "last_error": "rcpt: so be it", "attempts": 5},
            'has been dead since T: all of its 5 attempts failed, the last with "{}"; `outbox requeue 1` tries again.',
        ),
    ],
)
def test_with_the_relays_words(engine: sa.Engine, outcome: Outcome, columns: dict[str, Any], said: str) -> None:
    (id_,) = rows.add(engine, **columns, **FINAL)
    tried(engine, id_, outcome, 451, "so be it")
    assert why(engine, id_) == said.format("451 so be it")


def test_paused_relays(engine: sa.Engine) -> None:
    (id_,) = rows.add(engine)
    with engine.begin() as connection:
        breaker.pause(connection, FIRST, "moving house", "ada@office")
    assert why(engine, id_) == "has been due since T, and waits for a worker.", "the other relay takes it"
    with engine.begin() as connection:
        breaker.pause(connection, SECOND, "moving, too", "ada@office")
    assert why(engine, id_) == (
        f"has been due since T, but nothing can be sent: relay {FIRST} has been paused since T by ada@office because "
        f'"moving house", until `outbox resume {FIRST}`; relay {SECOND} has been paused since T by ada@office because '
        f'"moving, too", until `outbox resume {SECOND}`.'
    )


def test_bound_to_a_relay(engine: sa.Engine) -> None:
    (bound,), (orphan,) = rows.add(engine, relay=FIRST), rows.add(engine, relay="old.example:25")
    assert why(engine, bound) == "has been due since T, and waits for a worker."
    assert "may have had it already, old.example:25, and that is no longer in the settings: put it" in why(
        engine, orphan
    )
    with engine.begin() as connection:
        breaker.pause(connection, FIRST, "moving house", "ada@office")
    assert f"through no relay but the one that may have had it already: relay {FIRST} has been paused" in why(
        engine, bound
    )


def test_suppressed(engine: sa.Engine) -> None:
    dead = {"status": Status.DEAD, "dead_reason": DeadReason.SUPPRESSED, "last_error": "bounced", **FINAL}
    (id_,) = rows.add(engine, recipient="Ann@X.example", **dead)
    assert 'was suppressed then because "bounced" and is not any more' in why(engine, id_)
    with engine.begin() as connection:
        suppressions.add(connection, "x.example", "asked us to stop", "ada@office", from_now(3600))
    assert why(engine, id_) == (
        'has been dead since T: x.example has been suppressed since T until T by ada@office because "asked us to '
        f'stop"; `outbox suppress --remove x.example` lifts that, then `outbox requeue {id_}`.'
    )
    (pending,) = rows.add(engine, recipient="bob@x.example")
    assert "will not be sent, for x.example has been suppressed since T" in why(engine, pending)


def test_behind_the_fence(engine: sa.Engine) -> None:
    (id_,) = rows.add(engine)
    said = why(engine, id_, outbox_allow_recipients="example.org")
    assert said.startswith(
        "has been due since T, but will be held back: ann@example.com is not among OUTBOX_ALLOW_RECIPIENTS"
    )


def test_a_database_of_another_environment(engine: sa.Engine) -> None:
    (id_,) = rows.add(engine)
    assert why(engine, id_) == "has been due since T, and waits for a worker."
    with engine.connect() as connection:
        assert connection.scalar(sa.select(EmailEnvironment.name)) is None, "to look does not adopt it"
    with engine.begin() as connection:
        fence.adopt(connection, settings(outbox_environment="production"), "ada@office")
    assert "but this database holds the mail of 'production'" in why(engine, id_)
    assert "waits for a worker" in why(engine, id_, outbox_environment="production")


def test_no_such_mail(engine: sa.Engine) -> None:
    with reading(engine) as connection, pytest.raises(NotPossible, match="there is no mail 9"):
        explain(connection, settings(), 9)
