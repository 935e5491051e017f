"""The pytest plugin for applications: what your code queues, delivered to a scripted relay, in your own transaction.

    def test_sign_up(outbox, outbox_session):
        sign_up(outbox_session, "ada@example.com")
        outbox.deliver()
        assert "Hello" in outbox.assert_sent(to="ada@example.com", subject="Welcome").text

Installed, it is loaded by pytest; else `pytest -p outbox.testing`. Override `outbox_session` with your own session, and
`outbox_settings` if your application does not take its settings from the environment.

The delivery is production's: its statements, its retries, its SMTP client. What is missing is the network, Celery and
the second thread. PYTEST_DONT_REWRITE: nothing here is an assertion of a test.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa
    from sqlalchemy.orm import Session

    from outbox.settings import Settings
    from outbox.testing.box import Outbox
    from outbox.testing.mail import Mail

__all__ = ["Mail", "Outbox"]

SENDER = "Test <test@example.com>"
"""Who mail is from, where the application's settings do not say."""


@pytest.fixture
def outbox(
    outbox_session: "Session", outbox_settings: "Settings", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> "Outbox":
    """What is queued and what was sent, delivery at a call, and a relay that fails on demand."""
    from outbox import service
    from outbox.testing.box import Outbox

    # `EmailService(session)` reads the environment once a process, and keeps what it found. In a test it takes what the
    # test's delivery takes, be that the environment with a sender added or what the application has put in its place.
    monkeypatch.setattr(service, "_environment", lambda: outbox_settings)
    # Nobody is to be woken: the application's wake would look for its Redis.
    monkeypatch.setattr(service, "wake_after_commit", lambda _session, _wake: None)
    # A developer's own journal must not be replayed into a test.
    journal = tmp_path / "outbox-journal.jsonl"
    return Outbox(outbox_session, outbox_settings.model_copy(update={"outbox_journal": journal}))


@pytest.fixture
def outbox_settings() -> "Settings":
    """The application's own, from the environment and `.env`; with a sender, should they name none."""
    from outbox.settings import Settings

    settings = Settings.load()
    return settings if settings.smtp_from_email else settings.model_copy(update={"smtp_from_email": SENDER})


@pytest.fixture
def outbox_session(_outbox_engine: "sa.Engine") -> "Iterator[Session]":
    """A session on an SQLite in memory that holds Outbox's tables. What it commits is gone after the test."""
    from sqlalchemy.orm import Session

    with (
        _outbox_engine.connect() as connection,
        connection.begin() as transaction,
        Session(bind=connection, join_transaction_mode="create_savepoint") as session,
    ):
        yield session
        session.close()
        transaction.rollback()


@pytest.fixture(scope="session")
def _outbox_engine() -> "Iterator[sa.Engine]":
    from sqlalchemy.pool import StaticPool

    from outbox.database import create_engine
    from outbox.models import Base

    # One connection, for the database is gone with it; an application may open its session in another thread.
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def __getattr__(name: str) -> object:
    """The types, for a test that names them; imported when asked for, as everything here is."""
    homes = {"Mail": "mail", "Outbox": "box"}
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{homes[name]}"), name)
