"""The guard of the state machine: whatever moves a row makes no move that `states.MOVES` does not know."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from outbox import claims, settlement
from outbox.claims import Begin, Release
from outbox.reaper import reap
from outbox.settings import Settings
from outbox.settlement import Settlement
from outbox.states import LEASED, MOVES, DeadReason, Priority, Status
from tests import rows

OURS, STALE = "our token", "a token of the past"

COLUMNS: dict[Status, dict[str, Any]] = {
    Status.PENDING: {},
    Status.CLAIMED: {},
    Status.SENDING: {},
    Status.SENT: {"sent_at": rows.from_now(-9), "finalized_at": rows.from_now(-9)},
    Status.DEAD: {"dead_reason": DeadReason.REJECTED, "finalized_at": rows.from_now(-9)},
    Status.UNCERTAIN: {},
    Status.CANCELLED: {"finalized_at": rows.from_now(-9)},
}

Move = Callable[[sa.Connection, int, str], object]


def settle(status: Status) -> Move:
    reason = DeadReason.REJECTED if status is Status.DEAD else None
    return lambda connection, id_, token: settlement.settle(
        connection, [Settlement(id_, token, status, counted=True, dead_reason=reason)]
    )


BY_TOKEN: dict[str, Move] = {
    "begin": lambda connection, id_, token: claims.begin(connection, [Begin(id_, token, "own")], rows.LEASE),
    "release": lambda connection, id_, token: claims.release(connection, [Release(id_, token)]),
    **{f"settle as {status}": settle(status) for status in Status},
}
UNASKED: dict[str, Move] = {
    "claim": lambda connection, *_: claims.claim(connection, dict.fromkeys(Priority, 9), "worker-2", rows.LEASE),
    "return_unbegun": lambda connection, *_: claims.return_unbegun(connection, 9),
}


def make(engine: sa.Engine, status: Status, **lease: Any) -> int:
    if status in LEASED:
        return rows.leased(engine, status, OURS, **lease)[0]
    return rows.add(engine, **({"status": status} | COLUMNS[status]))[0]


def run(engine: sa.Engine, move: Move, id_: int, token: str) -> None:
    """What the database refuses (a CHECK) has not happened either."""
    try:
        with engine.begin() as connection:
            move(connection, id_, token)
    except sa.exc.IntegrityError:
        pass


@pytest.mark.parametrize("name", [*BY_TOKEN, *UNASKED])
def test_no_move_that_is_not_on_the_page(engine: sa.Engine, name: str) -> None:
    move = (BY_TOKEN | UNASKED)[name]
    moved = 0
    for status in Status:
        for lease in ({}, {"lease_expires_at": rows.from_now(-1)}):
            id_ = make(engine, status, **lease)
            run(engine, move, id_, OURS)
            after = Status(rows.row(engine, id_).status)
            assert after is status or after in MOVES[status], f"{name}: {status} -> {after}"
            moved += after is not status
            with engine.begin() as connection:
                connection.execute(sa.text("DELETE FROM email_queue"))
    expected = name not in {"settle as claimed", "settle as sending"}
    assert (moved > 0) is expected


@pytest.mark.parametrize("name", BY_TOKEN)
def test_a_stale_token_moves_nothing(engine: sa.Engine, name: str) -> None:
    for id_ in [make(engine, status) for status in Status]:
        before = rows.row(engine, id_)
        run(engine, BY_TOKEN[name], id_, STALE)
        assert rows.row(engine, id_) == before
    assert rows.attempts(engine) == []


@pytest.mark.parametrize(("name", "moved"), [("claim", {Status.PENDING}), ("return_unbegun", set())])
def test_what_is_leased_to_another_is_left_alone(engine: sa.Engine, name: str, moved: set[Status]) -> None:
    ids = {status: make(engine, status) for status in Status}
    before = {status: rows.row(engine, id_) for status, id_ in ids.items()}
    run(engine, UNASKED[name], 0, STALE)
    assert {status for status, id_ in ids.items() if rows.row(engine, id_) != before[status]} == moved


@pytest.mark.parametrize("on_uncertain", ["retry", "hold"])
def test_the_reaper_makes_allowed_moves_only(engine: sa.Engine, on_uncertain: str) -> None:
    settings = Settings.load()
    ids = {status: make(engine, status) for status in Status}
    for id_ in ids.values():
        with engine.begin() as connection:
            connection.execute(
                sa.text(
                    "UPDATE email_queue SET on_uncertain = :on_uncertain,"
                    " lease_expires_at = CASE WHEN claim_token IS NOT NULL THEN next_attempt_at END WHERE id = :id"
                ),
                {"on_uncertain": on_uncertain, "id": id_},
            )
    assert reap(engine, settings) == 2
    became = {status: Status(rows.row(engine, id_).status) for status, id_ in ids.items()}
    changed = {status: after for status, after in became.items() if after is not status}
    assert changed == {
        Status.CLAIMED: Status.PENDING,
        Status.SENDING: Status.PENDING if on_uncertain == "retry" else Status.UNCERTAIN,
    }
    assert all(after in MOVES[status] for status, after in changed.items())


def test_every_status_is_on_the_page() -> None:
    assert set(MOVES) == set(Status) == set(COLUMNS)
