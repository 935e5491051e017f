"""The command line and sensitive mail: it queues such mail, shows nothing that it says, and changes the keys."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from cryptography.fernet import Fernet
from sqlalchemy.orm import Session

from outbox.cli import main
from outbox.cli.rotating import _BATCH
from outbox.models import EmailContent
from outbox.service import EmailService
from outbox.settings import Settings
from tests.delivering import deliver, settings_for
from tests.smtp_server import SmtpServer

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))
SECRET = ["--to", "ada@example.com", "--subject", "Code 123456", "--header", "X-Code: 123456", "--sensitive"]

Cli = Callable[..., Result]


@pytest.fixture
def cli(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("SMTP_FROM_EMAIL", "shop@example.com")
    monkeypatch.setenv("OUTBOX_ENCRYPTION_KEYS", OLD)
    return lambda *arguments, **how: CliRunner().invoke(main, arguments, **how)


def queue(engine: sa.Engine, keys: str, count: int = 1) -> None:
    settings = Settings.load(smtp_from_email="shop@example.com", outbox_encryption_keys=keys)
    mail = {"to": "ada@example.com", "subject": "Code", "text": "123456", "sensitive": True}
    with Session(engine) as session, session.begin():
        EmailService(session, settings).queue_emails([mail] * count)


def test_nothing_that_it_says_is_shown(cli: Cli) -> None:
    queued = cli("queue", *SECRET, "--text-file", "-", input="123456")
    assert queued.exit_code == 0, queued.output
    outputs = [queued, *(cli(*verb) for verb in (["list"], ["show", "1"], ["why", "1"], ["drain", "--dry-run"]))]
    outputs += [cli(*verb, "--json") for verb in (["list"], ["show", "1"], ["why", "1"])]
    for output in outputs:
        assert output.exit_code == 0, output.output
        assert "123456" not in output.output
    assert "(sensitive)" in outputs[1].output
    assert "sensitive and encrypted, 6 bytes" in outputs[2].output
    assert json.loads(cli("show", "1", "--json").output)["content"]["sealed"] is True


@pytest.mark.parametrize("option", ["--html", "--source"])
def test_its_source_is_for_its_recipients(cli: Cli, option: str) -> None:
    cli("queue", *SECRET, "--text", "123456")
    refused = cli("show", "1", option)
    assert refused.exit_code == 1
    assert refused.output == "Error: mail 1 is sensitive: what it says is shown to its recipients alone\n"


def test_a_wiped_mail_says_so(cli: Cli) -> None:
    cli("queue", *SECRET, "--text", "123456")
    assert cli("cancel", "1").exit_code == 0
    shown = cli("show", "1").output
    assert "sensitive and wiped, 6 bytes" in shown
    assert "Purged" in shown
    refused = cli("requeue", "1")
    assert refused.exit_code == 1
    assert "what it said was sensitive, and wiped when it was over; to repeat it, queue a new mail" in refused.output


def test_an_error_hides_the_value(cli: Cli) -> None:
    refused = cli("queue", *SECRET, "--text", "123456\0")
    assert refused.exit_code == 2
    assert refused.output == "Error: text='(hidden)': text cannot hold NUL\n"


def test_without_a_key_it_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OUTBOX_ENCRYPTION_KEYS")
    for verb in (["queue", *SECRET, "--text", "123456"], ["rotate-keys"]):
        refused = cli(*verb)
        assert refused.exit_code == 2
        assert "OUTBOX_ENCRYPTION_KEYS" in refused.output
        assert "F.generate_key()" in refused.output


# --- rotate-keys


def rotated(cli: Cli, monkeypatch: pytest.MonkeyPatch, keys: str) -> dict[str, Any]:
    monkeypatch.setenv("OUTBOX_ENCRYPTION_KEYS", keys)
    made = cli("rotate-keys", "--json")
    assert made.exit_code == 0, made.output
    found: dict[str, Any] = json.loads(made.output)
    return found


def test_after_it_the_old_key_can_go(
    cli: Cli, engine: sa.Engine, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(engine, OLD, _BATCH + 2)
    queue(engine, NEW)
    assert rotated(cli, monkeypatch, f"{NEW},{OLD}") == {"rotated": _BATCH + 2, "already": 1, "unreadable": 0}
    assert rotated(cli, monkeypatch, f"{NEW},{OLD}") == {"rotated": 0, "already": _BATCH + 3, "unreadable": 0}
    deliver(engine, settings_for(smtp, outbox_encryption_keys=NEW))
    assert len(smtp.mails) == _BATCH + 3
    assert all(b"123456" in mail.data for mail in smtp.mails)
    assert rotated(cli, monkeypatch, NEW) == {"rotated": 0, "already": 0, "unreadable": 0}, "all of them are wiped"


def test_what_no_key_opens_is_left_and_told(cli: Cli, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    queue(engine, OTHER)
    queue(engine, OLD)
    with engine.connect() as connection:
        (before,) = connection.scalars(sa.select(EmailContent.sealed).limit(1)).all()
    monkeypatch.setenv("OUTBOX_ENCRYPTION_KEYS", f"{NEW},{OLD}")
    made = cli("rotate-keys")
    assert made.exit_code == 1
    assert made.output == (
        "1 mail encrypted anew, 0 had the first key already.\n"
        "Error: 1 mail encrypted with a key that is not in OUTBOX_ENCRYPTION_KEYS\n"
    )
    with engine.connect() as connection:
        assert connection.scalars(sa.select(EmailContent.sealed).order_by(EmailContent.id)).first() == before
