"""The fence: who may be written to, and from where."""

import threading
from email import message_from_bytes
from email.policy import SMTP

import pytest
import sqlalchemy as sa

from outbox import fence
from outbox.errors import InvalidAddress
from outbox.models import EmailEnvironment
from outbox.settings import Settings

MAIL = b"From: shop@example.com\r\nTo: Ada <ada@example.com>\r\nSubject: Hello\r\n\r\nHello, Ada\r\n"
PRODUCTION = Settings.load(outbox_environment="production")
STAGING = Settings.load(outbox_environment="staging")


def test_without_a_redirect_a_mail_stays_as_it_is() -> None:
    assert fence.redirected(Settings.load(), "ada@example.com", MAIL) == ("ada@example.com", MAIL)


def test_a_redirected_mail_names_who_would_have_got_it() -> None:
    settings = Settings.load(outbox_redirect_to="qa@example.org")
    recipient, data = fence.redirected(settings, "bcc@example.com", MAIL)
    assert recipient == "qa@example.org"
    assert data == b"X-Original-To: bcc@example.com\r\n" + MAIL
    message = message_from_bytes(data, policy=SMTP)
    assert (message["X-Original-To"], message["To"]) == ("bcc@example.com", "Ada <ada@example.com>")
    assert message.get_payload() == "Hello, Ada\r\n"


@pytest.mark.parametrize("recipient", ["jörg@example.com", f"{'ö' * 32}@{'.'.join(['x' * 60] * 3)}.example"])
def test_a_recipient_that_is_not_ascii_is_named_in_ascii(recipient: str) -> None:
    """A redirect must not ask for a relay with SMTPUTF8 where the mail itself does not."""
    _, data = fence.redirected(Settings.load(outbox_redirect_to="qa@example.org"), recipient, MAIL)
    assert data.isascii()
    assert max(map(len, data.split(b"\r\n"))) <= 76
    assert message_from_bytes(data, policy=SMTP)["X-Original-To"] == recipient


@pytest.mark.parametrize("recipient", ["a@b\r\nBcc: x@example.com", "a\0@b", "ä@b\r\nBcc: x", "a\u2028@b", "\ud800@b"])
def test_a_recipient_cannot_write_headers(recipient: str) -> None:
    with pytest.raises(InvalidAddress):
        fence.redirected(Settings.load(outbox_redirect_to="qa@example.org"), recipient, MAIL)


@pytest.mark.parametrize(
    ("allowed", "recipient", "why"),
    [
        (None, "ada@example.com", None),
        ("ada@example.com", "Ada@Example.com", None),
        ("@Example.com", "ada@EXAMPLE.com", None),
        ("example.com", "ada@example.com", None),
        ("", "ada@example.com", "OUTBOX_ALLOW_RECIPIENTS is empty: nobody may get mail"),
        ("example.com", "ada@example.org", "ada@example.org is not among OUTBOX_ALLOW_RECIPIENTS"),
        ("example.com", "ada@mail.example.com", "ada@mail.example.com is not among OUTBOX_ALLOW_RECIPIENTS"),
        ("example.com", "ada@badexample.com", "ada@badexample.com is not among OUTBOX_ALLOW_RECIPIENTS"),
        ("ada@example.com", "example.com@x.example", "example.com@x.example is not among OUTBOX_ALLOW_RECIPIENTS"),
        ("ada@example.com", "bob@example.com", "bob@example.com is not among OUTBOX_ALLOW_RECIPIENTS"),
    ],
)
def test_who_may_get_mail(allowed: str | None, recipient: str, why: str | None) -> None:
    assert fence.held(Settings.load(outbox_allow_recipients=allowed), recipient) == why


@pytest.mark.parametrize(
    ("allowed", "why"),
    [
        ("qa@example.org", None),
        ("example.com", "OUTBOX_REDIRECT_TO=qa@example.org is not among OUTBOX_ALLOW_RECIPIENTS"),
        ("", "OUTBOX_ALLOW_RECIPIENTS is empty: nobody may get mail"),
    ],
)
def test_with_a_redirect_its_address_has_to_be_allowed(allowed: str, why: str | None) -> None:
    settings = Settings.load(outbox_allow_recipients=allowed, outbox_redirect_to="qa@example.org")
    assert fence.held(settings, "ada@example.com") == why


def test_the_first_to_send_has_the_database_and_others_hold_its_mail(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        assert fence.owner(connection) is None
        assert fence.whose(connection, STAGING) is None
        fence.take_unowned(connection, PRODUCTION, "worker-1")
    with engine.begin() as connection:
        fence.take_unowned(connection, STAGING, "worker-2")
        assert fence.whose(connection, PRODUCTION) is None
        assert fence.whose(connection, STAGING) == (
            "this database holds the mail of 'production', and OUTBOX_ENVIRONMENT is 'staging': nothing is sent from "
            "here; if it should be, run `outbox adopt`"
        )
    assert _owners(engine) == [("production", "worker-1")]


def test_who_adopts_it_has_it(engine: sa.Engine) -> None:
    for settings in (PRODUCTION, STAGING):
        with engine.begin() as connection:
            fence.adopt(connection, settings, "ada")
    with engine.begin() as connection:
        assert fence.whose(connection, STAGING) is None
        assert "'staging'" in str(fence.whose(connection, PRODUCTION))
    assert _owners(engine) == [("staging", "ada")]


def test_of_several_that_come_at_once_one_gets_it(engine: sa.Engine) -> None:
    together, answers = threading.Barrier(8), []

    def come(number: int) -> None:
        settings = Settings.load(outbox_environment=f"environment-{number % 4}")
        together.wait(30)
        with engine.begin() as connection:
            fence.take_unowned(connection, settings, f"worker-{number}")
            answers.append((settings.outbox_environment, fence.whose(connection, settings)))

    threads = [threading.Thread(target=come, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ((name, _),) = _owners(engine)
    assert len(answers) == 8
    assert [environment for environment, why in answers if why is None] == [name] * 2
    assert all(f"the mail of {name!r}" in why for _, why in answers if why is not None)


def _owners(engine: sa.Engine) -> list[tuple[str, str | None]]:
    with engine.connect() as connection:
        found = connection.execute(sa.select(EmailEnvironment.name, EmailEnvironment.changed_by)).all()
    return [(name, by) for name, by in found]
