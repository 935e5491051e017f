"""The state machine holds together."""

from outbox.states import FINAL, LEASED, MOVES, Priority, Status


def test_every_status_has_its_moves() -> None:
    assert set(MOVES) == set(Status)


def test_every_status_can_be_reached_from_pending() -> None:
    reached = {Status.PENDING}
    while further := set().union(*(MOVES[status] for status in reached)) - reached:
        reached |= further
    assert reached == set(Status)


def test_every_mail_can_come_to_an_end() -> None:
    ending = set(FINAL)
    while further := {status for status, moves in MOVES.items() if moves & ending} - ending:
        ending |= further
    assert ending == set(Status)


def test_nothing_stands_still() -> None:
    assert all(status not in moves for status, moves in MOVES.items())


def test_only_the_owner_sends() -> None:
    assert {status for status, moves in MOVES.items() if Status.SENDING in moves} == {Status.CLAIMED}
    assert {Status.CLAIMED, Status.SENDING} == LEASED


def test_a_mail_is_found_sent_where_it_may_have_been() -> None:
    """By its owner; by a person or a journal where it was given up; by a journal where it was to be sent again."""
    origins = {status for status, moves in MOVES.items() if Status.SENT in moves}
    assert origins == {Status.SENDING, Status.UNCERTAIN, Status.PENDING}


def test_sent_is_for_good_and_a_person_can_bring_back_the_rest() -> None:
    assert MOVES[Status.SENT] == frozenset()
    assert all(Status.PENDING in MOVES[status] for status in FINAL - {Status.SENT})


def test_an_uncertain_mail_is_never_sent_without_a_verdict() -> None:
    assert Status.UNCERTAIN not in FINAL
    assert MOVES[Status.UNCERTAIN].isdisjoint(LEASED)


def test_lanes_have_the_names_of_the_api() -> None:
    assert [priority.label for priority in sorted(Priority)] == ["high", "normal", "low"]
