"""Notifications: written, listed, counted; and said once by a task, however often that is delivered."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.accounts.models import User
from app.notifications import broadcast, routes
from app.notifications.feed import BODY_CHARACTERS, TITLE_CHARACTERS, notify, write
from app.notifications.models import Notification
from app.queues import BROADCAST_NOTIFICATION, SEND_NOTIFICATION
from tests.application import World
from tests.smtp_server import SmtpServer


def tell(world: World, *users: User, title: str = "Hello", **more: str) -> None:
    with world.app.app_context(), world.app.extensions["sessions"].begin() as session:
        notify(session, [user.id for user in users], title, **more)


def told(world: World, user: User) -> list[str]:
    with world.session() as session:
        rows = sa.select(Notification).where(Notification.user_id == user.id).order_by(Notification.id)
        return [row.title for row in session.scalars(rows)]


def newest(world: World, user: User) -> Notification:
    with world.session() as session:
        rows = sa.select(Notification).where(Notification.user_id == user.id).order_by(Notification.id.desc())
        found = session.scalars(rows).first()
    assert found is not None
    return found


def run(world: World, name: str, *arguments: Any, task_id: str) -> Any:
    """Deliver the task under that id."""
    task = world.app.extensions["celery"].tasks[name]
    return task.apply(arguments, task_id=task_id, throw=True).get()


def test_they_are_the_transaction_s_and_its_savepoints(world: World) -> None:
    ada, bob = world.user("ada"), world.user("bob")
    with world.app.app_context(), world.app.extensions["sessions"]() as session:
        notify(session, [ada.id], "rolled back")
        session.rollback()
        notify(session, [ada.id, bob.id, 999_999], "both", "and nobody who is no more", "/tasks/7")
        with session.begin_nested():
            notify(session, [ada.id], "of a savepoint")
        outer = session.begin_nested()
        with session.begin_nested():
            notify(session, [ada.id], "within what is undone")
        outer.rollback()
        session.commit()
        notify(session, [bob.id], "closed without a commit")
    assert told(world, ada) == ["both", "of a savepoint"]
    row = newest(world, bob)
    assert (row.title, row.body, row.url, row.read_at) == ("both", "and nobody who is no more", "/tasks/7", None)


ELSEWHERE = (
    "tasks",
    "https://example.com/",
    "//example.com",
    "/\\example.com",
    "/\t/example.com",
    "javascript:1",
    "/" * 3000,
)


def test_a_notification_leads_nowhere_else_and_says_something(sqlite_world: World) -> None:
    ada = sqlite_world.user()
    for url in ELSEWHERE:
        with pytest.raises(ValueError, match="give a path of the application, such as /tasks/7"):
            tell(sqlite_world, ada, url=url)
    with pytest.raises(ValueError, match="a notification needs a title"):
        tell(sqlite_world, ada, title=" \n")
    assert told(sqlite_world, ada) == []


def test_text_is_cut_and_can_be_stored(world: World) -> None:
    ada = world.user()
    tell(world, ada, title="a\0\ud800" + "b" * 10_000, body="c" * 10_000)
    row = newest(world, ada)
    assert (row.title[:3], len(row.title), row.title[-1]) == ("a?b", TITLE_CHARACTERS, "…")
    assert len(row.body) == BODY_CHARACTERS


def test_ids_of_a_user_become_visible_in_their_order(postgresql_world: World) -> None:
    """A transaction has drawn its id and not committed: a second one waits, a login of the same user does not."""
    world = postgresql_world
    ada = world.user()
    drawn, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with world.app.app_context(), world.app.extensions["sessions"]() as session:
            notify(session, [ada.id], "first")

            @event.listens_for(session, "before_commit")
            def _(_: Session) -> None:
                drawn.set()
                assert go_on.wait(30)

            session.commit()

    slow, fast = threading.Thread(target=first), threading.Thread(target=lambda: tell(world, ada, title="second"))
    slow.start()
    assert drawn.wait(30)
    fast.start()
    try:
        wait_for_lock(world.engine)
        with world.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL lock_timeout = '1s'"))
            connection.execute(sa.update(User).values(last_login_at=sa.func.now()))
        assert told(world, ada) == []
    finally:
        go_on.set()
        slow.join()
        fast.join()
    assert told(world, ada) == ["first", "second"]


def wait_for_lock(engine: sa.Engine) -> None:
    """Until somebody waits for an advisory lock."""
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    for _ in range(3_000):
        with engine.connect() as connection:
            if connection.scalar(waiting):
                return
            connection.execute(sa.text("SELECT pg_sleep(0.01)"))
    pytest.fail("the second transaction did not wait for the first")


def test_a_task_delivered_again_tells_nobody_twice(world: World) -> None:
    ada = world.user()
    assert world.run(SEND_NOTIFICATION, ada.id, "of another task") == {"notified": 1}
    for notified in (1, 0):
        assert run(world, SEND_NOTIFICATION, ada.id, "Ready", "", "/files/1", task_id="t") == {"notified": notified}
    assert told(world, ada) == ["of another task", "Ready"]


def test_a_broadcast_reaches_its_organisation_and_goes_on_where_it_was_killed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = world.organisation(), world.organisation()
    users = [world.user(organisation=here) for _ in range(5)]
    stranger = world.user(organisation=there)
    world.run(SEND_NOTIFICATION, stranger.id, "the tasks are known from here on")
    monkeypatch.setattr(broadcast, "BATCH", 2)
    with monkeypatch.context() as broken:
        broken.setattr(broadcast, "write", fail_at(2, write))
        with pytest.raises(KeyboardInterrupt):
            run(world, BROADCAST_NOTIFICATION, here.id, "Closed on Friday", task_id="t")
    assert [told(world, user) for user in users] == [["Closed on Friday"]] * 2 + [[]] * 3
    for notified in (3, 0):
        assert run(world, BROADCAST_NOTIFICATION, here.id, "Closed on Friday", task_id="t") == {"notified": notified}
    assert [told(world, user) for user in users] == [["Closed on Friday"]] * 5
    assert told(world, stranger) == ["the tasks are known from here on"]


def fail_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The process is killed in that call, after what it did."""
    calls = 0

    def failing(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        done = function(*arguments)
        if calls == call:
            raise KeyboardInterrupt
        return done

    return failing


def test_a_task_names_whom_there_is_not(sqlite_world: World) -> None:
    for name in (SEND_NOTIFICATION, BROADCAST_NOTIFICATION):
        with pytest.raises(ValueError, match=r"there is no (user|organisation) 77 to notify"):
            sqlite_world.run(name, 77, "Hello")


def test_the_list_its_pages_and_the_bell(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_PAGE", 2)
    ada, bob = world.user("ada"), world.user("bob")
    for title in ("Alpha", "Beta", "<Gamma>"):
        tell(world, ada, title=title, url="/tasks/")
    tell(world, bob, title="of Bob")
    browser = world.client(ada)
    page = browser.get("/notifications/").text
    assert "&lt;Gamma&gt;" in page
    assert "Beta" in page
    assert "Alpha" not in page
    assert "of Bob" not in page
    assert f'data-after="{newest(world, ada).id}"' in page
    assert "<b>3</b>" in page
    older = page.partition("/notifications/?before=")[2].partition('"')[0]
    assert "Alpha" in browser.get(f"/notifications/?before={older}").text
    assert "Nothing older" in browser.get("/notifications/?before=1").text
    assert "Nothing yet" in world.client(world.user()).get("/notifications/").text


def test_reading_one_leads_on_and_all_up_to_what_was_seen(world: World) -> None:
    ada, bob = world.user("ada"), world.user("bob")
    tell(world, ada, bob, title="seen", url="/tasks/7")
    seen = newest(world, ada)
    tell(world, ada, title="not seen")
    browser = world.client(ada)
    assert browser.post(f"/notifications/{newest(world, bob).id}/read").status_code == 404
    assert browser.post(f"/notifications/{2**70}/read").status_code == 404
    assert browser.post(f"/notifications/{seen.id}/read").location == "/tasks/7"
    assert browser.post("/notifications/read", data={"up_to": seen.id}).location == "/notifications/"
    assert "<b>1</b>" in browser.get("/notifications/").text
    assert newest(world, bob).read_at is None
    browser.post("/notifications/read", data={"up_to": newest(world, ada).id})
    page = browser.get("/notifications/").text
    assert "<b hidden>0</b>" in page
    assert 'action="/notifications/read" hidden>' in page
    assert browser.post("/notifications/read").status_code == 400


def test_what_is_no_id_is_said_so(sqlite_world: World) -> None:
    browser = sqlite_world.client(sqlite_world.user())
    for id_ in ("x", "-1", "1.5", "9" * 40, "\N{ARABIC-INDIC DIGIT THREE}"):
        for path in ("/notifications/?before=", "/notifications/stream?after="):
            assert browser.get(path + id_).status_code == 400
        assert browser.post("/notifications/read", data={"up_to": id_}).status_code == 400


def test_the_bell_counts_from_its_own_index(postgresql_world: World) -> None:
    world = postgresql_world
    ada = world.user()
    with world.session() as session:
        session.execute(
            sa.text(
                "INSERT INTO notifications (user_id, title, body, url, read_at)"
                " SELECT :ada, 'read', '', '', now() FROM generate_series(1, 5000)"
            ),
            {"ada": ada.id},
        )
        session.execute(sa.text("ANALYZE notifications"))
    with world.session() as session:
        plan = session.execute(
            sa.text("EXPLAIN SELECT id FROM notifications WHERE user_id = :ada AND read_at IS NULL LIMIT 100"),
            {"ada": ada.id},
        ).scalars()
        assert "ix_notifications_unread" in "\n".join(plan)


@pytest.fixture
def sqlite_world(sqlite_url: str, redis_url: str, smtp: SmtpServer) -> Any:
    """For what the database has no part in."""
    world = World(smtp, database_url=sqlite_url, redis_url=redis_url)
    yield world
    world.close()


@pytest.fixture
def postgresql_world(postgresql_url: str, redis_url: str, smtp: SmtpServer) -> Any:
    """For what only PostgreSQL does."""
    world = World(smtp, database_url=postgresql_url, redis_url=redis_url)
    yield world
    world.close()
