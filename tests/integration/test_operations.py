"""What a person may do to a mail, from which status, and what it leaves on the row."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from outbox import claims, operations
from outbox.chunk import load
from outbox.errors import NotPossible
from outbox.models import QueuedEmail
from outbox.operations import Resolution
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.states import LEASED, MOVES, DeadReason, Outcome, Priority, Status
from tests import rows
from tests.rows import from_now

SETTINGS = Settings.load(smtp_from_email="shop@example.com")
NOBODY = 4711

DEAD: dict[str, Any] = {
    "status": Status.DEAD,
    "dead_reason": DeadReason.EXHAUSTED,
    "finalized_at": from_now(-9),
    "attempts": 5,
}
CANCELLED: dict[str, Any] = {"status": Status.CANCELLED, "finalized_at": from_now(-9)}
UNCERTAIN: dict[str, Any] = {"status": Status.UNCERTAIN, "relay": "mx1:25", "attempts": 2}


def of_each_status(engine: sa.Engine) -> dict[Status, int]:
    ids = {status: rows.leased(engine, status, "t")[0] for status in LEASED}
    sent: dict[str, Any] = {"status": Status.SENT, "sent_at": from_now(-9), "finalized_at": from_now(-9)}
    for columns in ({"status": Status.PENDING}, sent, DEAD, CANCELLED, UNCERTAIN):
        (ids[Status(str(columns["status"]))],) = rows.add(engine, **columns)
    return ids


Move = Callable[[sa.Connection, list[int]], object]


def resolve(resolution: Resolution) -> Move:
    return lambda connection, ids: [operations.resolve(connection, id_, resolution, "ada@office") for id_ in ids]


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        (operations.requeue, dict.fromkeys((Status.DEAD, Status.CANCELLED, Status.UNCERTAIN), Status.PENDING)),
        (operations.cancel, {Status.PENDING: Status.CANCELLED}),
        (resolve(Resolution.SENT), {Status.UNCERTAIN: Status.SENT}),
        (resolve(Resolution.REQUEUE), {Status.UNCERTAIN: Status.PENDING}),
        (resolve(Resolution.DEAD), {Status.UNCERTAIN: Status.DEAD}),
    ],
    ids=["requeue", "cancel", "resolve sent", "resolve requeue", "resolve dead"],
)
def test_each_moves_from_its_statuses_and_from_no_other(
    engine: sa.Engine, move: Move, expected: dict[Status, Status]
) -> None:
    ids = of_each_status(engine)
    before = {status: rows.row(engine, id_) for status, id_ in ids.items()}
    with engine.begin() as connection:
        moved = move(connection, [*ids.values(), NOBODY])
    after = {status: rows.row(engine, id_) for status, id_ in ids.items()}
    assert {status: row.status for status, row in after.items() if row != before[status]} == expected
    assert all(to in MOVES[from_] for from_, to in expected.items())
    if isinstance(moved, set):
        assert moved == {ids[status] for status in expected}
    else:
        assert moved == [status in expected for status in ids] + [False]


def test_a_requeued_mail_begins_anew_and_remembers_why(engine: sa.Engine) -> None:
    moments = {"created_at": -1e6, "scheduled_at": -9e5, "next_attempt_at": -8e5, "expires_at": -60}
    past: dict[str, Any] = {name: from_now(seconds) for name, seconds in moments.items()}
    (id_,) = rows.add(
        engine, **DEAD, **past, claims=7, last_code=451, last_error="rcpt: greylisted",
        waiting_for="a rate", relay="mx1:25",
    )  # fmt: skip
    with engine.begin() as connection:
        rows.add_attempt(connection, id_, 7, Outcome.DEFERRED)
        assert operations.requeue(connection, [id_]) == {id_}
    row = rows.row(engine, id_)
    assert (row.attempts, row.claims, row.last_code, row.last_error) == (0, 7, 451, "rcpt: greylisted")
    assert (row.dead_reason, row.finalized_at, row.expires_at, row.relay, row.waiting_for) == (None,) * 5
    assert row.scheduled_at == row.next_attempt_at
    assert abs(row.next_attempt_at - from_now(0)) < timedelta(seconds=30)
    with engine.begin() as connection:
        claim = claims.claim(connection, dict.fromkeys(Priority, 9), "w", 60)
        (mail,) = load(connection, [id_], claim.token)
    assert mail.number == 8, "its next attempt is a line of its own"
    assert mail.standing.age < 30, "its age counts anew"


def test_an_expiry_to_come_stays(engine: sa.Engine) -> None:
    (id_,) = rows.add(engine, **CANCELLED, expires_at=from_now(3600))
    with engine.begin() as connection:
        operations.requeue(connection, [id_])
    assert rows.row(engine, id_).expires_at > from_now(3000)


def test_what_a_resolution_says(engine: sa.Engine) -> None:
    ids = [rows.add(engine, **UNCERTAIN, last_error="dot: timed out")[0] for _ in Resolution]
    with engine.begin() as connection:
        for id_, resolution in zip(ids, Resolution, strict=True):
            assert operations.resolve(connection, id_, resolution, "ada@office")
            assert not operations.resolve(connection, id_, resolution, "bob@office")
    sent, requeued, dead = (rows.row(engine, id_) for id_ in ids)
    assert sent.sent_at == sent.finalized_at
    assert sent.last_error == "resolved as sent by ada@office"
    assert (requeued.status, requeued.relay, requeued.last_error) == ("pending", None, "dot: timed out")
    assert (dead.dead_reason, dead.last_error) == ("exhausted", "given up while uncertain, by ada@office")


def test_of_a_person_and_a_worker_one_has_it(engine: sa.Engine) -> None:
    """Twenty rounds: the row is cancelled or claimed, and whoever came second knows."""
    for _ in range(20):
        (id_,) = rows.add(engine)
        said: dict[str, bool] = {}
        both = threading.Barrier(2)

        def cancel(id_: int = id_, said: dict[str, bool] = said, both: threading.Barrier = both) -> None:
            both.wait()
            with engine.begin() as connection:
                said["cancelled"] = operations.cancel(connection, [id_]) == {id_}

        thread = threading.Thread(target=cancel)
        thread.start()
        both.wait()
        with engine.begin() as connection:
            claimed = claims.claim(connection, dict.fromkeys(Priority, 9), "w", 60)
        thread.join(30)
        said["claimed"] = list(claimed.ids[Priority.NORMAL]) == [id_]
        assert said == {"cancelled": not said["claimed"], "claimed": said["claimed"]}
        assert rows.row(engine, id_).status == ("claimed" if said["claimed"] else "cancelled")


# --- As an application does it


@pytest.fixture
def sessions(engine: sa.Engine) -> sessionmaker[Session]:
    return sessionmaker(engine)


def test_in_the_callers_transaction(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    (pending,) = rows.add(engine)
    (dead,) = rows.add(engine, **DEAD)
    with sessions() as session:
        service = EmailService(session, SETTINGS)
        service.cancel(pending)
        service.requeue(dead)
        session.rollback()
    assert rows.statuses(engine, [pending, dead]) == ["pending", "dead"]
    with sessions.begin() as session:
        service = EmailService(session, SETTINGS)
        service.cancel(pending)
        service.requeue(dead)
    assert rows.statuses(engine, [pending, dead]) == ["cancelled", "pending"]


def test_what_the_session_holds_does_not_lie(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        service = EmailService(session, SETTINGS)
        row = service.queue_email("ada@x.example", "s", text="t")
        session.flush()
        service.cancel(row.id)  # not committed yet
        assert (row.status, row.finalized_at is None) == ("cancelled", False)
        assert service.explain(row.id).startswith(f"Mail {row.id} was cancelled at ")
        service.requeue(row.id)
        assert (row.status, row.finalized_at) == ("pending", None)
        other = session.scalars(sa.select(QueuedEmail)).one()
        assert other is row


def test_a_row_that_only_waits_in_the_session(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        service = EmailService(session, SETTINGS)
        row = service.queue_email("ada@x.example", "s", text="t")
        with pytest.raises(NotPossible, match="mail 1 is pending and cannot be requeued"):
            service.requeue(1)  # its first, in an empty database
        assert row.id == 1
        assert service.explain(1).startswith("Mail 1 has been due since ")


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (Status.PENDING, "is pending and cannot be requeued: it can be cancelled"),
        (Status.CLAIMED, "is claimed and cannot be requeued: a worker has it"),
        (Status.SENDING, "is sending and cannot be requeued: a worker is sending it"),
        (Status.SENT, "is sent and cannot be requeued: nothing can be done with it any more; to repeat it"),
    ],
)
def test_what_is_not_possible_says_what_is(
    sessions: sessionmaker[Session], engine: sa.Engine, status: Status, sentence: str
) -> None:
    id_ = of_each_status(engine)[status]
    with sessions.begin() as session, pytest.raises(NotPossible, match=f"mail {id_} {sentence}"):
        EmailService(session, SETTINGS).requeue(id_)
    assert rows.row(engine, id_).status == status


def test_what_cannot_be_cancelled_says_what_is_possible(sessions: sessionmaker[Session], engine: sa.Engine) -> None:
    ids = of_each_status(engine)
    with sessions.begin() as session:
        service = EmailService(session, SETTINGS)
        with pytest.raises(NotPossible, match="is uncertain and cannot be cancelled: it can be resolved"):
            service.cancel(ids[Status.UNCERTAIN])
        with pytest.raises(NotPossible, match="is dead and cannot be cancelled: it can be requeued"):
            service.cancel(ids[Status.DEAD])
        for call in (service.cancel, service.requeue, service.explain):
            with pytest.raises(NotPossible, match=f"there is no mail {NOBODY}"):
                call(NOBODY)


def test_a_requeue_wakes_after_its_commit_and_a_cancel_does_not(
    sessions: sessionmaker[Session], engine: sa.Engine
) -> None:
    (pending,), (dead,) = rows.add(engine), rows.add(engine, **DEAD)
    rung: list[str] = []
    with sessions.begin() as session:
        EmailService(session, SETTINGS, lambda: rung.append("wake")).cancel(pending)
    assert rung == []
    with sessions.begin() as session:
        EmailService(session, SETTINGS, lambda: rung.append("wake")).requeue(dead)
        assert rung == []
    assert rung == ["wake"]
