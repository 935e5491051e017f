"""`outbox adopt`: a person says whose mail the database holds."""

import json
import socket
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from outbox import fence
from outbox.cli import main
from outbox.models import EmailEnvironment
from outbox.settings import Settings
from tests import rows

Adopt = Callable[..., Result]


@pytest.fixture
def adopt(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Adopt:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("OUTBOX_ENVIRONMENT", "staging")
    return lambda *arguments, **options: CliRunner().invoke(main, ["adopt", *arguments], **options)


@pytest.fixture
def theirs(engine: sa.Engine) -> None:
    """A copy of production, with mail in it."""
    with engine.begin() as connection:
        fence.adopt(connection, Settings.load(outbox_environment="production"), "worker-1")
    rows.add(engine, 2)
    rows.add(engine, next_attempt_at=rows.from_now(3600))


@pytest.mark.usefixtures("theirs")
def test_it_says_what_would_go_and_asks(adopt: Adopt, engine: sa.Engine) -> None:
    refused = adopt(input="n\n")
    assert refused.exit_code == 1
    assert refused.stderr.startswith(
        "The mail in this database is that of 'production'. "
        "From 'staging', 2 mails would go at once, 1 later.\nSend them from here? [y/N]"
    )
    assert refused.stdout == ""
    assert _owner(engine) == "production"

    agreed = adopt(input="y\n")
    assert (agreed.exit_code, agreed.stdout) == (0, "The mail in this database is that of 'staging' now.\n")
    assert _owner(engine) == "staging"


@pytest.mark.usefixtures("theirs")
def test_nobody_there_to_answer_is_a_no(adopt: Adopt, engine: sa.Engine) -> None:
    assert adopt(input="").exit_code == 1
    assert _owner(engine) == "production"


@pytest.mark.usefixtures("theirs")
def test_a_script_says_yes_and_reads_json(adopt: Adopt, engine: sa.Engine) -> None:
    result = adopt("--yes", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "environment": "staging", "before": "production", "adopted": True, "due": 2, "scheduled": 1,
    }  # fmt: skip
    again = json.loads(adopt("--json").stdout)
    assert (again["before"], again["adopted"]) == ("staging", False)
    with engine.connect() as connection:
        assert str(connection.scalar(sa.select(EmailEnvironment.changed_by))).endswith(f"@{socket.gethostname()}")


def test_what_is_ours_already_is_left_alone(adopt: Adopt, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        fence.take_unowned(connection, Settings.load(outbox_environment="staging"), "worker-1")
    result = adopt()
    assert (result.exit_code, result.stdout) == (0, "The mail in this database is that of 'staging' already.\n")
    with engine.connect() as connection:
        assert connection.scalar(sa.select(EmailEnvironment.changed_by)) == "worker-1"


def test_what_is_nobodys_yet(adopt: Adopt, engine: sa.Engine) -> None:
    result = adopt(input="y\n")
    assert "The mail in this database is nobody's yet. From 'staging', 0 mails would go at once" in result.stderr
    assert _owner(engine) == "staging"


def test_a_name_from_elsewhere_does_not_steer_the_terminal(adopt: Adopt, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(EmailEnvironment).values(id=1, name="\x1b[2J", changed_by="x"))
    assert "\x1b" not in adopt(input="n\n").output


def _owner(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        return fence.owner(connection)
