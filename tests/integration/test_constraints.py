"""The database refuses a row that makes no sense, whoever writes it."""

from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa

from outbox.models import (
    Base,
    EmailAttachment,
    EmailAttempt,
    EmailContent,
    EmailEnvironment,
    EmailEvent,
    EmailRelay,
    QueuedEmail,
)
from outbox.states import DeadReason, Feedback, Kind, OnUncertain, Outcome, RelayState, Stage, Status

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = {"claim_token": "t", "claimed_by": "w", "lease_expires_at": NOW}
ROWS: dict[Status, dict[str, Any]] = {
    Status.PENDING: {},
    Status.CLAIMED: LEASE,
    Status.SENDING: LEASE,
    Status.SENT: {"sent_at": NOW, "finalized_at": NOW},
    Status.DEAD: {"dead_reason": DeadReason.REJECTED, "finalized_at": NOW},
    Status.UNCERTAIN: {},
    Status.CANCELLED: {"finalized_at": NOW},
}
"""What a row of each status must carry, besides what every row does."""

REFUSED: list[tuple[str, Status, dict[str, Any]]] = [
    ("status", Status.PENDING, {"status": "queued"}),
    ("kind", Status.PENDING, {"kind": "from"}),
    ("on_uncertain", Status.PENDING, {"on_uncertain": "maybe"}),
    ("dead_reason", Status.DEAD, {"dead_reason": "bored"}),
    ("priority", Status.PENDING, {"priority": 3}),
    ("priority", Status.PENDING, {"priority": -1}),
    ("counts", Status.PENDING, {"attempts": -1}),
    ("counts", Status.PENDING, {"claims": -1}),
    ("counts", Status.PENDING, {"max_attempts": 0}),
    ("leased", Status.CLAIMED, {"claim_token": None, "claimed_by": None, "lease_expires_at": None}),
    ("leased", Status.SENDING, {"claim_token": None}),
    ("leased", Status.SENDING, {"claimed_by": None}),
    ("leased", Status.SENDING, {"lease_expires_at": None}),
    ("leased", Status.PENDING, LEASE),
    ("leased", Status.SENT, LEASE),
    ("leased", Status.UNCERTAIN, LEASE),
    ("final", Status.SENT, {"finalized_at": None}),
    ("final", Status.DEAD, {"finalized_at": None}),
    ("final", Status.CANCELLED, {"finalized_at": None}),
    ("final", Status.PENDING, {"finalized_at": NOW}),
    ("final", Status.UNCERTAIN, {"finalized_at": NOW}),
    ("sent", Status.SENT, {"sent_at": None}),
    ("sent", Status.DEAD, {"sent_at": NOW}),
    ("dead", Status.DEAD, {"dead_reason": None}),
    ("dead", Status.CANCELLED, {"dead_reason": DeadReason.EXPIRED}),
]

RELAYS: dict[RelayState, dict[str, Any]] = {
    RelayState.CLOSED: {},
    RelayState.OPEN: {"paused_until": NOW},
    RelayState.HALF_OPEN: {"paused_until": NOW, "probe_token": "t"},
    RelayState.PAUSED: {},
}
"""What a relay in each state must carry."""

REFUSED_RELAYS: list[tuple[str, RelayState, dict[str, Any]]] = [
    ("state", RelayState.CLOSED, {"state": "ajar"}),
    ("probe", RelayState.HALF_OPEN, {"probe_token": None}),
    ("probe", RelayState.OPEN, {"probe_token": "t"}),
    ("probe", RelayState.CLOSED, {"probe_token": "t"}),
    ("probe", RelayState.PAUSED, {"probe_token": "t"}),
    ("until", RelayState.OPEN, {"paused_until": None}),
    ("until", RelayState.HALF_OPEN, {"paused_until": None}),
]


@pytest.mark.parametrize("status", Status)
def test_a_row_of_each_status_is_taken(engine: sa.Engine, status: Status) -> None:
    with engine.begin() as connection:
        _queue(connection, status)
        assert connection.scalar(sa.select(QueuedEmail.status)) == status


@pytest.mark.parametrize(("check", "status", "values"), REFUSED)
def test_a_row_that_makes_no_sense_is_refused(
    engine: sa.Engine, check: str, status: Status, values: dict[str, Any]
) -> None:
    with engine.begin() as connection, pytest.raises(sa.exc.IntegrityError, match=rf"ck_email_queue_{check}\b"):
        _queue(connection, status, **values)


@pytest.mark.parametrize(("check", "values"), [("outcome", {"outcome": "lost"}), ("stage", {"stage": "hello"})])
def test_an_attempt_that_makes_no_sense_is_refused(engine: sa.Engine, check: str, values: dict[str, Any]) -> None:
    with engine.begin() as connection, pytest.raises(sa.exc.IntegrityError, match=rf"ck_email_attempts_{check}\b"):
        _attempt(connection, _queue(connection, Status.PENDING), **values)


@pytest.mark.parametrize("state", RelayState)
def test_a_relay_in_each_state_is_taken(engine: sa.Engine, state: RelayState) -> None:
    with engine.begin() as connection:
        _relay(connection, state)
        assert connection.scalar(sa.select(EmailRelay.state)) == state


@pytest.mark.parametrize(("check", "state", "values"), REFUSED_RELAYS)
def test_a_relay_that_makes_no_sense_is_refused(
    engine: sa.Engine, check: str, state: RelayState, values: dict[str, Any]
) -> None:
    with engine.begin() as connection, pytest.raises(sa.exc.IntegrityError, match=rf"ck_email_relays_{check}\b"):
        _relay(connection, state, **values)


def test_a_database_has_one_environment(engine: sa.Engine) -> None:
    environment = sa.insert(EmailEnvironment)
    with engine.begin() as connection:
        connection.execute(environment.values(id=1, name="production"))
    with engine.begin() as connection, pytest.raises(sa.exc.IntegrityError, match="ck_email_environment_single"):
        connection.execute(environment.values(id=2, name="staging"))
    with engine.begin() as connection, pytest.raises(sa.exc.IntegrityError):
        connection.execute(environment.values(id=1, name="staging"))


def test_an_attempt_of_each_outcome_and_stage_is_taken(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        email = _queue(connection, Status.PENDING)
        for number, (outcome, stage) in enumerate(product(Outcome, Stage)):
            _attempt(connection, email, number=number, outcome=outcome, stage=stage)


def test_feedback_is_of_a_known_kind_and_kept_once(engine: sa.Engine) -> None:
    told = {"provider": "ses", "provider_event_id": "1", "occurred_at": NOW, "said": ""}
    with engine.begin() as connection:
        email = _queue(connection, Status.SENT)
        for number, kind in enumerate(Feedback):
            connection.execute(
                sa.insert(EmailEvent).values(
                    told | {"email_id": email, "kind": kind, "provider_event_id": f"e{number}"}
                )
            )
    for again, refused_by in (("opened", "ck_email_events_kind"), (str(Feedback.BOUNCED), "told|provider_event_id")):
        line = sa.insert(EmailEvent).values(told | {"email_id": email, "kind": again, "provider_event_id": "e0"})
        with engine.begin() as connection, pytest.raises(sa.exc.IntegrityError, match=refused_by):
            connection.execute(line)


def test_a_key_needs_a_hash_and_is_given_once(engine: sa.Engine) -> None:
    with engine.begin() as connection, pytest.raises(sa.exc.IntegrityError, match="ck_email_contents_keyed"):
        _content(connection, idempotency_key="k")
    with engine.begin() as connection:
        _content(connection, message_id="<1@x>")
        _content(connection, message_id="<2@x>")  # without a key: any number of them
        _content(connection, message_id="<3@x>", idempotency_key="k", payload_hash="h")
    with engine.begin() as connection, pytest.raises(sa.exc.IntegrityError, match="idempotency_key"):
        _content(connection, message_id="<4@x>", idempotency_key="k", payload_hash="h")


def test_the_same_attempt_is_written_once(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        email = _queue(connection, Status.PENDING)
        _attempt(connection, email)
        with pytest.raises(sa.exc.IntegrityError):
            _attempt(connection, email)


def test_a_blob_in_use_stays(engine: sa.Engine) -> None:
    blobs = Base.metadata.tables["email_blobs"]
    with engine.begin() as connection:
        content = _content(connection)
        connection.execute(sa.insert(blobs).values(sha256="ab", size=1, data=b"x"))
        connection.execute(
            sa.insert(EmailAttachment).values(
                content_id=content, position=0, sha256="ab", filename="x", content_type="text/plain"
            )
        )
    with engine.begin() as connection, pytest.raises(sa.exc.IntegrityError):
        connection.execute(sa.delete(blobs))


def test_a_mail_goes_with_all_that_belongs_to_it(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        _attempt(connection, _queue(connection, Status.PENDING))
        connection.execute(sa.delete(EmailContent))
        for table in ("email_queue", "email_attempts"):
            assert connection.scalar(sa.select(sa.func.count()).select_from(sa.table(table))) == 0


def test_every_check_has_a_row_that_it_refuses() -> None:
    declared = {
        str(constraint.name).removeprefix("ck_")
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, sa.CheckConstraint)
    }
    tried = {f"email_queue_{check}" for check, _, _ in REFUSED}
    tried |= {f"email_relays_{check}" for check, _, _ in REFUSED_RELAYS}
    tried |= {"email_attempts_outcome", "email_attempts_stage", "email_contents_keyed", "email_environment_single"}
    tried |= {"email_events_kind"}
    assert declared == tried


def _queue(connection: sa.Connection, status: Status, /, **values: Any) -> int:
    row = {
        "content_id": _content(connection),
        "recipient": "ada@example.com",
        "kind": Kind.TO,
        "subject": "s",
        "status": status,
        "max_attempts": 5,
        "on_uncertain": OnUncertain.RETRY,
    }
    made = connection.execute(sa.insert(QueuedEmail).values(row | ROWS[status] | values).returning(QueuedEmail.id))
    return made.scalar_one()


def _content(connection: sa.Connection, **values: Any) -> int:
    row = {"message_id": "<1@x>", "date": NOW, "sender": "a@x", "to_header": "b@x", "subject": "s", "size": 1}
    return connection.execute(sa.insert(EmailContent).values(row | values).returning(EmailContent.id)).scalar_one()


def _relay(connection: sa.Connection, state: RelayState, /, **values: Any) -> None:
    row = {"name": "localhost:25", "state": state}
    connection.execute(sa.insert(EmailRelay).values(row | RELAYS[state] | values))


def _attempt(connection: sa.Connection, email_id: int, **values: Any) -> None:
    row = {"email_id": email_id, "number": 1, "started_at": NOW, "outcome": Outcome.SENT, "stage": Stage.DOT}
    said = {"reply": "ok", "relay": "localhost:25", "worker": "w"}
    connection.execute(sa.insert(EmailAttempt).values(row | said | values))
