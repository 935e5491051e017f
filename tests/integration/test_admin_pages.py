"""The admin pages: finding a mail by whatever one has, moving it, and what is on record then."""

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from app.dead_tasks import DeadTask
from app.queues import CLEANUP_FILES, DEFAULT_QUEUE
from outbox import auditing
from outbox.attachments import Attachment
from outbox.models import EmailAudit, EmailContent
from outbox.service import EmailService
from outbox.states import DeadReason, Priority, Status
from tests import rows
from tests.application import World

DEAD: dict[str, Any] = {"status": Status.DEAD, "dead_reason": DeadReason.REJECTED, "finalized_at": rows.from_now(-5)}


@pytest.fixture
def root(sqlite_world: World) -> FlaskClient:
    return sqlite_world.client(sqlite_world.admin("root", time_zone="Europe/Berlin"))


def listed(client: FlaskClient, **wanted: str) -> list[int]:
    page = client.get("/admin/mail/", query_string=wanted, follow_redirects=True)
    assert page.status_code == 200
    return [int(id_) for id_ in re.findall(r'name="id" value="(\d+)"', page.text)]


def record(world: World) -> list[tuple[str, str, int | None, dict[str, Any]]]:
    with world.session() as session:
        lines = session.scalars(sa.select(EmailAudit).order_by(EmailAudit.id)).all()
        return [(line.who, line.action, line.email_id, line.detail) for line in lines]


def test_the_list_is_searched_and_paged(sqlite_world: World, root: FlaskClient) -> None:
    first = rows.add(sqlite_world.engine, 50)
    (dead,) = rows.add(sqlite_world.engine, subject="100% off", category="news", priority=Priority.HIGH, **DEAD)
    assert listed(root)[:2] == [dead, first[-1]]
    assert listed(root, before=str(first[1])) == [first[0]]
    assert listed(root, status="dead", dead_reason="rejected", subject="100%", category="news", priority="high") == [
        dead
    ]
    assert listed(root, recipient="ANN@example.com", status="sent") == []
    older = re.search(r'href="\?([^"]+)" rel="next"', root.get("/admin/mail/").text)
    assert older
    assert older[1] == f"before={first[1]}"


def test_a_search_is_an_address_that_means_the_same_to_everybody(root: FlaskClient) -> None:
    """What a form leaves empty is not in it, and a time that is the reader's names its offset."""
    form = {"recipient": " ada@example.com ", "subject": "", "status": "dead", "since": "2026-11-30T03:00"}
    moved = root.get("/admin/mail/", query_string=form)
    assert moved.status_code == 302
    address = moved.headers["Location"]
    assert parse_qs(urlsplit(address).query) == {
        "recipient": ["ada@example.com"],
        "status": ["dead"],
        "since": ["2026-11-30T02:00:00Z"],
    }
    page = root.get(address)
    assert page.status_code == 200
    assert 'value="2026-11-30T03:00:00"' in page.text


@pytest.mark.parametrize("wrong", ["status=lost", "priority=0", "since=yesterday", "before=x", "subject=a%00b"])
def test_what_makes_no_sense_is_named(root: FlaskClient, wrong: str) -> None:
    answer = root.get(f"/admin/mail/?{wrong}")
    assert answer.status_code == 400
    assert wrong.partition("=")[0] in answer.text


def test_the_box_takes_what_one_has(sqlite_world: World, root: FlaskClient) -> None:
    one, other = rows.add(sqlite_world.engine)[0], rows.add(sqlite_world.engine, recipient="bob@example.com")[0]
    with sqlite_world.session() as session:
        session.execute(
            sa.update(EmailContent).values(request_id=sa.literal("req-") + sa.cast(EmailContent.id, sa.Text))
        )
        message_id = session.scalars(sa.select(EmailContent.message_id).where(EmailContent.id == 2)).one()

    def leads_to(typed: str) -> str:
        answer = root.get("/admin/mail/find", query_string={"q": typed})
        return str(answer.headers["Location"])

    for typed in (str(other), f"#{other}", f"mail {other}", message_id, f"Message-ID: {message_id}", "req-2"):
        assert leads_to(typed) == f"/admin/mail/{other}", typed
    for typed in ("bob@example.com", "Bob <BOB@example.com>", "<bob@example.com>", message_id.strip("<>")):
        assert leads_to(typed) == f"/admin/mail/{other}", typed
    assert leads_to("receipt") == "/admin/mail/?subject=receipt"
    assert leads_to("req-1") == f"/admin/mail/{one}"
    assert leads_to("nobody@example.com") == "/admin/mail/?recipient=nobody@example.com"
    assert leads_to("4711") == "/admin/mail/?subject=4711"
    assert "There is no mail 4711" in root.get("/admin/mail/").text


def test_one_mail(sqlite_world: World, root: FlaskClient) -> None:
    (id_,) = rows.add(sqlite_world.engine, subject="Re\u202etpi\x1bx", last_error="rcpt: no \u202esuch", **DEAD)
    with sqlite_world.engine.begin() as connection:
        auditing.record_mails(connection, "grace@ops", "requeue", [id_])
    page = root.get(f"/admin/mail/{id_}")
    assert "has been dead since" in page.text
    assert r"Re\u202etpi\x1bx" in page.text
    assert "\u202e" not in page.text
    assert "grace@ops" in page.text
    source = root.get(f"/admin/mail/{id_}/source")
    assert source.mimetype == "text/plain"
    assert source.headers["X-Content-Type-Options"] == "nosniff"
    assert "Thank you." in source.text
    assert root.get(f"/admin/mail/{id_}/html").status_code == 404
    assert root.get("/admin/mail/77").status_code == 404


def test_pictures_of_the_mail_itself_stand_in_its_page(sqlite_world: World, root: FlaskClient) -> None:
    """By their whole names: one is the beginning of the other."""
    files = [
        Attachment("a.png", b"one", "image/png", inline_id="logo"),
        Attachment("b.png", b"two", "image/png", inline_id="logo2"),
    ]
    with sqlite_world.session() as session:
        html = "<img src='cid:logo2'><img src='cid:logo'>"
        EmailService(session).queue_email(
            "ada@example.com", "Hello", html=html, attachments=files, from_email="shop@example.com"
        )
    shown = re.findall("src='([^']*)'", root.get("/admin/mail/1/html").text)
    assert shown == ["data:image/png;base64,dHdv", "data:image/png;base64,b25l"]


def test_moves_are_offered_that_the_mails_found_can_make(sqlite_world: World, root: FlaskClient) -> None:
    """Of what lies on further pages nobody knows; then it is all that the search could find."""
    rows.add(sqlite_world.engine, subject="pending")
    rows.add(sqlite_world.engine, subject="many", count=51, **DEAD)

    def offered(subject: str) -> set[str]:
        return set(re.findall(r"/admin/mail/all\?move=(\w+)", root.get(f"/admin/mail/?subject={subject}").text))

    assert offered("pending") == {"cancel"}
    assert offered("many") == {"requeue", "cancel", "sent", "again", "dead"}


def test_what_is_sensitive_or_purged_is_not_shown(sqlite_world: World, root: FlaskClient) -> None:
    sensitive, purged = rows.add(sqlite_world.engine)[0], rows.add(sqlite_world.engine)[0]
    with sqlite_world.session() as session:
        secret = {"sensitive": True, "sealed": b"x", "html": "<p>4711", "text": "4711"}
        session.execute(sa.update(EmailContent).where(EmailContent.id == 1).values(secret))
        nothing = {"text": None, "html": None, "purged_at": rows.from_now(0)}
        session.execute(sa.update(EmailContent).where(EmailContent.id == 2).values(nothing))
    for id_, said in ((sensitive, "shown to its recipients alone"), (purged, "purged when it was old")):
        page = root.get(f"/admin/mail/{id_}")
        assert said in page.text
        assert "4711" not in page.text
        assert "<iframe" not in page.text
        assert root.get(f"/admin/mail/{id_}/html").status_code == 404
        assert root.get(f"/admin/mail/{id_}/source").status_code == 404


def test_a_selection_is_moved_and_what_is_not_is_told_why(world: World) -> None:
    root = world.client(world.admin("root"))
    dead = rows.add(world.engine, 2, **DEAD)
    (sent,) = rows.add(world.engine, status=Status.SENT, sent_at=rows.from_now(-5), finalized_at=rows.from_now(-5))
    moved = root.post(
        "/admin/mail/move", data={"move": "requeue", "id": [*dead, sent], "back": "/admin/mail/?status=dead"}
    )
    assert (moved.status_code, moved.headers["Location"]) == (303, "/admin/mail/?status=dead")
    assert rows.statuses(world.engine, [*dead, sent]) == ["pending", "pending", "sent"]
    assert record(world) == [("root (admin page)", "requeue", id_, {}) for id_ in dead]
    page = root.get("/admin/mail/").text
    assert "2 mails requeued." in page
    assert f"Mail {sent} is sent and cannot be requeued" in page


@pytest.mark.parametrize("back", ["https://evil.example/", "//evil.example", "/account", ""])
def test_a_move_leads_back_to_the_mails_and_nowhere_else(root: FlaskClient, back: str) -> None:
    moved = root.post("/admin/mail/move", data={"move": "cancel", "id": "1", "back": back})
    assert moved.headers["Location"] == "/admin/mail/"


def test_so_many_cannot_be_picked_one_by_one(root: FlaskClient) -> None:
    answer = root.post("/admin/mail/move", data={"move": "cancel", "id": [str(n) for n in range(1, 1002)]})
    assert (answer.status_code, "1,001 mails were picked" in answer.text) == (400, True)


def test_a_filter_is_moved_once_its_count_is_confirmed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "BATCH", 2)
    root = world.client(world.admin("root"))
    news = rows.add(world.engine, 5, category="news", **DEAD)
    (purged,) = rows.add(world.engine, category="news", **DEAD)
    (other,) = rows.add(world.engine, category="receipts", **DEAD)
    with world.session() as session:
        session.execute(sa.update(EmailContent).where(EmailContent.id == 2).values(purged_at=rows.from_now(-1)))
    asked = {"move": "requeue", "category": "news"}
    page = root.get("/admin/mail/all", query_string=asked)
    assert "Requeue: 6 mails" in page.text
    assert rows.statuses(world.engine, news) == ["dead"] * 5
    answer = root.post("/admin/mail/all", data=asked)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/admin/mail/?category=news")
    assert rows.statuses(world.engine, [*news, purged, other]) == [*["pending"] * 5, "dead", "dead"]
    assert record(world) == [("root (admin page)", "requeue", id_, {"filter": {"category": "news"}}) for id_ in news]
    page = root.get("/admin/mail/")
    assert "5 mails requeued." in page.text
    assert f"Mail {purged} is dead and cannot be requeued: what it said was purged" in page.text
    written = root.get("/admin/audit/").text
    assert "5 mails" in written
    assert "category news" in written


@pytest.mark.parametrize(("move", "becomes"), [("sent", "sent"), ("again", "pending"), ("dead", "dead")])
def test_what_is_uncertain_is_resolved(sqlite_world: World, root: FlaskClient, move: str, becomes: str) -> None:
    (id_,) = rows.add(sqlite_world.engine, status=Status.UNCERTAIN)
    root.post("/admin/mail/move", data={"move": move, "id": id_})
    assert rows.statuses(sqlite_world.engine, [id_]) == [becomes]
    assert record(sqlite_world)[0][:3] == ("root (admin page)", "resolve", id_)


def test_relays_are_paused_with_a_reason_and_resumed(sqlite_world: World, root: FlaskClient) -> None:
    name = sqlite_world.settings.endpoints[0].name
    assert root.post("/admin/relays/pause", data={"relay": name, "reason": " "}).status_code == 400
    assert root.post("/admin/relays/pause", data={"relay": "mx9:25", "reason": "x"}).status_code == 400
    root.post("/admin/relays/pause", data={"relay": name, "reason": "moving house"})
    page = root.get("/admin/relays/").text
    assert "moving house" in page
    assert "root (admin page)" in page
    root.post("/admin/relays/resume", data={"relay": name})
    assert "takes mail" in root.get("/admin/relays/").text
    assert [line[:2] for line in record(sqlite_world)] == [
        ("root (admin page)", "pause"),
        ("root (admin page)", "resume"),
    ]


def test_suppressions(world: World) -> None:
    root = world.client(world.admin("root"))
    for target in ("Ada@example.com", "example.com", "eve@evil.example"):
        root.post("/admin/suppressions/", data={"target": target, "reason": "asked us to stop"})
    assert root.post("/admin/suppressions/", data={"target": "no one", "reason": "x"}).status_code == 400

    def found(wanted: str) -> list[str]:
        page = root.get("/admin/suppressions/", query_string={"q": wanted}).text
        return re.findall(r"<b><bdi>([^<]+)", page)

    assert found("") == ["ada@example.com", "eve@evil.example", "example.com"]
    assert found("ADA@example.com") == ["ada@example.com", "example.com"]  # both keep mail from her
    assert found("evil") == ["eve@evil.example"]
    root.post("/admin/suppressions/remove", data={"target": "ada@example.com"})
    assert found("") == ["eve@evil.example", "example.com"]
    assert [line[1] for line in record(world)] == ["suppress", "suppress", "suppress", "unsuppress"]


def test_failed_tasks(sqlite_world: World, root: FlaskClient) -> None:
    values = {"queue": DEFAULT_QUEUE, "args": [7], "kwargs": {}, "exception": "OSError: no space left", "tries": 5}
    sqlite_world.add(*(DeadTask(task_id=id_, name=CLEANUP_FILES, traceback="Traceback", **values) for id_ in "ab"))
    assert "no space left" in root.get("/admin/tasks/").text
    assert "Traceback" in root.get("/admin/tasks/1").text
    root.post("/admin/tasks/1/retry")
    assert "sent once more" in root.get("/admin/tasks/1").text.lower()
    root.post("/admin/tasks/2/delete")
    assert root.get("/admin/tasks/2").status_code == 404
    root.post("/admin/tasks/2/retry")
    assert "There is no dead task 2" in root.get("/admin/tasks/").text
    assert [line[:2] for line in record(sqlite_world)] == [
        ("root (admin page)", "retry"),
        ("root (admin page)", "delete"),
    ]
