"""The seeded world: what it holds, that it is believable, and that it leaves others' users alone."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.accounts.models import User
from app.categories import REMINDERS
from app.projects.models import Task, TaskStatus
from app.quizzes.models import Attempt, Question, Subject
from app.seed import NotEmpty, seed
from outbox import subscriptions
from outbox.models import QueuedEmail
from outbox.subscriptions import Subscription
from tests.application import PASSWORD, World

NOW = datetime(2026, 11, 22, 17, 30, tzinfo=UTC)
COUNTS = {"organisations": 3, "users": 20, "quizzes": 8, "attempts": 95, "projects": 3, "tasks": 60}


def test_a_small_world_that_lets_its_users_in(world: World) -> None:
    with world.session() as session:
        assert seed(session, world.settings, NOW, PASSWORD) == COUNTS
    with world.session() as session:
        _everybody_is_somebody(session, world)
        _the_quizzes_are_ones(session)
        _the_tasks_have_a_past_and_a_future(session)
        assert session.scalar(sa.select(sa.func.count()).select_from(QueuedEmail)) == 0
    client = world.client()
    for name in ("admin", "ada"):
        answer = client.post("/login", data={"name": name, "password": PASSWORD}, follow_redirects=True)
        assert answer.status_code == 200
        assert ("Admin" in answer.text) == (name == "admin")
        client.post("/logout")


def _everybody_is_somebody(session: Session, world: World) -> None:
    users = session.scalars(sa.select(User)).all()
    assert [user.username for user in users if user.is_admin] == ["admin"]
    assert [user.username for user in users if user.email is None] == ["kurt"]
    assert len({user.time_zone for user in users}) > 5
    seen = Counter(
        "never" if user.last_login_at is None else user.last_login_at < NOW - timedelta(days=2) for user in users
    )
    assert seen == {"never": 3, True: 9, False: 8}
    assert len({user.password_hash for user in users}) == 1
    assert not subscriptions.wants(session.connection(), Subscription("dorothy@example.com", REMINDERS))


def _the_quizzes_are_ones(session: Session) -> None:
    assert session.scalar(sa.select(sa.func.count()).select_from(Subject)) == 3
    questions = session.scalars(sa.select(Question)).all()
    assert set(Counter(question.quiz_id for question in questions).values()) <= set(range(5, 9))
    assert all(len(set(question.choices)) == 4 for question in questions)
    assert {question.answer for question in questions} == {0, 1, 2, 3}
    assert [q.choices[q.answer] for q in questions if "A-0" in q.text] == ["Grace Hopper"]
    for attempt in session.scalars(sa.select(Attempt)):
        answers = [question.answer for question in attempt.quiz.questions]
        right = sum(chosen == answer for chosen, answer in zip(attempt.choices, answers, strict=True))
        assert (attempt.correct, attempt.questions) == (right, len(answers))
        assert attempt.user.last_login_at is not None
        assert attempt.quiz.created_at < attempt.taken_at <= attempt.user.last_login_at
    taken = {(attempt.user_id, attempt.quiz_id) for attempt in session.scalars(sa.select(Attempt))}
    assert max(Counter(user for user, _ in taken).values()) < 8  # something is left for everybody


def _the_tasks_have_a_past_and_a_future(session: Session) -> None:
    tasks = session.scalars(sa.select(Task)).all()
    assert Counter(task.status for task in tasks) == {"done": 27, "in_progress": 15, "pending": 18}
    late = [task for task in tasks if task.due_at and task.due_at < NOW and task.status != TaskStatus.DONE]
    assert len(late) == 12
    assert len([task for task in tasks if task.completed_at and task.completed_at < NOW - timedelta(days=30)]) > 9
    assert len([task for task in tasks if task.assignee is None]) == 3
    assert len({task.assignee for task in tasks if task.status != TaskStatus.DONE} - {None}) == 20
    for task in tasks:
        assert task.assignee is None or task.assignee.organisation_id == task.project.organisation_id
        times = [task.created_at, *(change.changed_at for change in task.changes)]
        assert times == sorted(times)
        assert times[-1] < NOW
        statuses = [change for change in task.changes if change.field == "status"]
        assert [change.old for change in statuses] + [task.status] == ["pending", *(change.new for change in statuses)]


def test_the_same_world_every_time(world: World) -> None:
    def told() -> list[object]:
        with world.session() as session:
            seed(session, world.settings, NOW, PASSWORD)
            tasks = session.scalars(sa.select(Task).order_by(Task.id)).all()
            found: list[object] = [
                (task.title, task.due_at, task.assignee and task.assignee.name, task.created_at) for task in tasks
            ]
            session.rollback()
        return found

    assert told() == told()


def test_where_there_are_users_nothing_is_added(world: World) -> None:
    world.user("ada")
    with world.session() as session, pytest.raises(NotEmpty, match="has users already"):
        seed(session, world.settings, NOW, PASSWORD)
    run = world.app.test_cli_runner().invoke
    refused = run(args=["seed"], input=f"{PASSWORD}\n")
    assert refused.exit_code == 1
    assert "Error: This database has users already" in refused.output
    with world.session() as session:
        assert session.scalars(sa.select(User.username)).all() == ["ada"]


def test_the_command_asks_for_a_password_that_is_one(world: World) -> None:
    run = world.app.test_cli_runner().invoke
    short = run(args=["seed"], input="short\n")
    assert short.exit_code == 1
    assert "Error: a password of 5 characters: use 12 or more" in short.output
    done = run(args=["seed"], input=f"{PASSWORD}\n")
    assert done.exit_code == 0, done.output
    assert ", ".join(f"{number} {name}" for name, number in COUNTS.items()) in done.output
