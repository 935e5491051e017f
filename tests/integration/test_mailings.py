"""Mail to many users: each once in a period, in batches, whoever else runs and whatever cannot be written."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from threading import Event, Thread
from time import sleep
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app import mailings
from app.accounts.models import User
from app.mailings import Mailing, Tally
from outbox.errors import SettingsError
from tests.application import World

REMINDER = Mailing("daily_reminder", "reminders")
USERS = sa.select(User)


def _said(figure: int, user: User) -> dict[str, Any]:
    quiz = {"title": "Primes", "subject": "Mathematics", "questions": 4, "url": "https://quiz.example/quizzes/1"}
    context = {
        "name": user.name,
        "last_login_at": None,
        "attempted": figure,
        "available": 9,
        "open": 1,
        "average": None,
        "quizzes": [quiz],
        "quizzes_url": "https://quiz.example/quizzes",
        "preferences_url": "https://quiz.example/preferences",
    }
    return {"context": context}


def _everybody(figure: int = 1) -> Callable[[Session, Sequence[User]], Mapping[int, Mapping[str, Any]]]:
    return lambda _, users: {user.id: _said(figure, user) for user in users}


def _send(world: World, compose: mailings.Compose | None = None, period: str = "2026-11-22") -> dict[str, int]:
    sessions = world.app.extensions["sessions"]
    compose = compose or _everybody()
    tally: Tally = mailings.send(sessions, world.settings, REMINDER, period=period, users=USERS, compose=compose)
    return {name: count for name, count in asdict(tally).items() if count}


def _recipients(world: World) -> list[str]:
    return [str(mail["To"]) for mail in world.mails()]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailings, "BATCH", 2)


def test_everybody_with_an_address_once_in_a_period(world: World) -> None:
    for name in ("ada", "bob", "cyd", "dee", "eve"):
        world.user(name)
    world.user("zoe", email=None)
    assert _send(world) == {"queued": 5}
    # What was said has changed meanwhile; whoever has the mail gets no other.
    assert _send(world, _everybody(figure=2)) == {"already": 5}
    assert _recipients(world) == [f"{name}@example.com" for name in ("ada", "bob", "cyd", "dee", "eve")]
    assert _send(world, period="2026-11-23") == {"queued": 5}


def test_a_run_that_ends_half_way_is_taken_up_by_the_next(world: World) -> None:
    for name in ("ada", "bob", "cyd", "dee", "eve"):
        world.user(name)
    batches = 0

    def dies(session: Session, users: Sequence[User]) -> Mapping[int, Mapping[str, Any]]:
        nonlocal batches
        batches += 1
        if batches == 2:
            raise MemoryError
        return _everybody()(session, users)

    with pytest.raises(MemoryError):
        _send(world, dies)
    assert _send(world) == {"already": 2, "queued": 3}
    assert len(_recipients(world)) == 5


def test_two_runs_at_once(world: World) -> None:
    for number in range(20):
        world.user(f"user{number}")
    tallies: list[dict[str, int]] = []
    runs = [Thread(target=lambda n=n: tallies.append(_send(world, _everybody(figure=n)))) for n in (1, 2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert sum(tally.get("queued", 0) for tally in tallies) == 20
    assert sum(tally.get("already", 0) for tally in tallies) == 20
    recipients = _recipients(world)
    assert len(recipients) == len(set(recipients)) == 20


def test_a_mail_that_cannot_be_written_keeps_nobody_elses_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for name, email in (("ada", "ada@example.com"), ("bob", "no address"), ("cyd", "cyd@example.com")):
        world.user(name, email=email)
    with caplog.at_level(logging.WARNING):
        assert _send(world) == {"queued": 2, "invalid": 1}
    assert "no address" in caplog.text
    assert _recipients(world) == ["ada@example.com", "cyd@example.com"]


def test_what_was_composed_for_a_mail_that_cannot_be_written_is_undone(world: World) -> None:
    names = ("ada", "bob", "cyd")
    users = [world.user(name, email="no address" if name == "bob" else f"{name}@example.com") for name in names]

    def says_so(session: Session, users: Sequence[User]) -> Mapping[int, Mapping[str, Any]]:
        ids = [user.id for user in users]
        session.execute(sa.update(User).where(User.id.in_(ids)).values(last_reminder_sent=sa.func.now()))
        return _everybody()(session, users)

    assert _send(world, says_so) == {"queued": 2, "invalid": 1}
    with world.session() as session:
        said = session.scalars(sa.select(User.id).where(User.last_reminder_sent.is_not(None)).order_by(User.id)).all()
    assert said == [users[0].id, users[2].id]


def test_a_wrong_address_does_not_cost_a_round_for_each_of_its_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailings, "BATCH", 64)
    for number in range(64):
        world.user(email="no address" if number == 20 else f"u{number}@example.com")
    composed: list[int] = []

    def counts(session: Session, users: Sequence[User]) -> Mapping[int, Mapping[str, Any]]:
        composed.append(len(users))
        return _everybody()(session, users)

    assert _send(world, counts) == {"queued": 63, "invalid": 1}
    assert sorted(composed) == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 64]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_between_two_batches_whoever_waits_to_write_has_their_turn(world: World) -> None:
    for name in ("ada", "bob", "cyd"):
        world.user(name)
    begun = Event()

    def log_in() -> None:
        begun.set()
        with world.engine.begin() as connection:
            connection.execute(sa.update(User).values(last_login_at=sa.func.now()))

    login = Thread(target=log_in)
    waiting: list[bool] = []

    def compose(session: Session, users: Sequence[User]) -> Mapping[int, Mapping[str, Any]]:
        if not begun.is_set():
            login.start()
            begun.wait()
            sleep(0.4)  # as long as a batch takes; by now who waits looks every tenth of a second
        else:
            waiting.append(login.is_alive())
        return _everybody()(session, users)

    assert _send(world, compose) == {"queued": 3}
    login.join()
    assert waiting == [False]


def test_whom_there_is_nothing_to_say_to(world: World) -> None:
    ada, _ = world.user("ada"), world.user("bob")
    assert _send(world, lambda _, users: {u.id: _said(1, u) for u in users if u.id == ada.id}) == {
        "queued": 1,
        "nothing_to_say": 1,
    }


def test_what_a_batch_costs_does_not_depend_on_its_users(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailings, "BATCH", 100)
    statements: list[str] = []
    counts = []
    sa.event.listen(world.engine, "before_cursor_execute", lambda *event: statements.append(event[2]))
    for users in (2, 30):
        for _ in range(users):
            world.user()
        statements.clear()
        _send(world, period=str(users))
        counts.append(len(statements))
    assert counts[0] == counts[1]


def test_without_a_sender_nothing_is_marked_as_said(sqlite_world: World) -> None:
    """A missing setting is nobody's mail that cannot be written: the run fails, and the next one says it all."""
    ada = sqlite_world.user("ada")

    def compose(session: Session, users: Sequence[User]) -> Mapping[int, Mapping[str, Any]]:
        session.execute(sa.update(User).values(last_reminder_sent=sa.func.now()))
        return _everybody()(session, users)

    unset = sqlite_world.settings.model_copy(update={"smtp_from_email": None})
    sessions = sqlite_world.app.extensions["sessions"]
    with pytest.raises(SettingsError, match="SMTP_FROM_EMAIL"):
        mailings.send(sessions, unset, REMINDER, period="2026-11-22", users=USERS, compose=compose)
    with sqlite_world.session() as session:
        assert session.get_one(User, ada.id).last_reminder_sent is None
