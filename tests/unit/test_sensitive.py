"""A sensitive mail is sealed before anything is written, and no error says any of what it says."""

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy.orm import Session

from outbox.attachments import Attachment, Blob
from outbox.database import create_engine
from outbox.draft import Draft, draft
from outbox.errors import InvalidEmail, InvalidTemplate
from outbox.message import File, Message
from outbox.sealing import Safe, unlock
from outbox.service import EmailService
from outbox.settings import Settings

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))
KEYED: dict[str, Any] = {"smtp_from_email": "shop@example.com", "outbox_encryption_keys": NEW}
SETTINGS = Settings.load(**KEYED)
CANARY = "c4n4ry"
MAIL: dict[str, Any] = {
    "to": "ada@example.com",
    "subject": f"Subject {CANARY}",
    "text": f"Text {CANARY}",
    "html": f"<p>{CANARY}</p>",
    "headers": {"X-Code": CANARY},
    "attachments": [
        Attachment(f"{CANARY}.pdf", CANARY.encode(), f'application/pdf; name="{CANARY}"', inline_id=CANARY)
    ],
    "sensitive": True,
}


def drafted(settings: Settings = SETTINGS, **mail: Any) -> Draft:
    return draft(settings, **(MAIL | mail))


def everything(made: Draft) -> str:
    files = [(file.filename, file.data, file.content_type, file.inline_id) for file in made.attachments]
    return repr((made.content, made.row, made.recipients, files))


def test_nothing_of_it_is_left_in_the_columns() -> None:
    made = drafted()
    assert CANARY not in everything(made)
    assert CANARY in everything(drafted(sensitive=False))
    assert (made.content["subject"], made.row["subject"]) == ("(sensitive)", "(sensitive)")
    assert (made.content["text"], made.content["html"], made.content["headers"]) == (None, None, {})
    assert made.content["sensitive"] is True
    assert made.content["size"] == drafted(sensitive=False).content["size"], "of what is sent"
    (file,) = made.attachments
    assert (file.filename, file.media_type, file.inline_id) == ("attachment 1", "application/octet-stream", None)


def test_all_of_it_is_in_the_sealed_text() -> None:
    made = drafted()
    said = Safe([NEW]).open(made.content["sealed"])
    assert {name: said[name] for name in ("subject", "text", "html")} == {
        name: MAIL[name] for name in ("subject", "text", "html")
    }
    assert said["headers"]["X-Code"] == CANARY
    assert said["files"] == [
        {"filename": f"{CANARY}.pdf", "content_type": f'application/pdf; name="{CANARY}"', "inline_id": CANARY}
    ]
    locked = made.attachments[0].data
    assert isinstance(locked, bytes)
    assert unlock(locked, said["files_key"]) == CANARY.encode()


def test_two_mails_with_the_same_file_share_nothing() -> None:
    first, second = (drafted().attachments[0] for _ in range(2))
    assert first.sha256 != second.sha256


def test_its_hash_is_one_under_a_key_and_is_always_there() -> None:
    plain = drafted(sensitive=False, idempotency_key="k").content["payload_hash"]
    made = drafted()
    assert made.content["payload_hash"] not in {None, plain}
    assert made.content["payload_hash"] == drafted(idempotency_key="k").content["payload_hash"], "of the same mail"
    assert made.content["payload_hash"] != drafted(text="other").content["payload_hash"]
    rotated = drafted(Settings.load(**KEYED | {"outbox_encryption_keys": f"{OLD},{NEW}"}))
    assert made.content["payload_hash"] in rotated.hashes, "an old key still knows its mails"
    assert made.content["payload_hash"] != rotated.content["payload_hash"]


def test_a_mail_that_is_not_sensitive_has_the_same_columns() -> None:
    """A bulk insert takes its columns from the first mail."""
    plain = drafted(sensitive=False).content
    assert plain.keys() == drafted().content.keys()
    assert (plain["sensitive"], plain["sealed"], plain["payload_hash"]) == (False, None, None)


def test_without_a_key_it_is_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidEmail, match=r"^sensitive=True: set OUTBOX_ENCRYPTION_KEYS.*F\.generate_key") as caught:
        drafted(Settings.load(smtp_from_email="shop@example.com"))
    assert caught.value.field == "sensitive"


def broken_list() -> Iterator[Any]:
    raise RuntimeError(CANARY)
    yield


BAD: list[tuple[str, Any, str]] = [
    ("subject", f"{CANARY}\n", "subject"),
    ("subject", CANARY * 500, "subject"),
    ("subject", [CANARY], "subject"),
    ("text", f"{CANARY}\0", "text"),
    ("text", f"{CANARY}\ud800", "text"),
    ("html", [CANARY], "html"),
    ("headers", {"X-Code": f"{CANARY}\n"}, "headers['X-Code']"),
    ("headers", [CANARY], "headers"),
    ("headers", {f"{CANARY}:": "x"}, "headers"),
    ("attachments", [CANARY], "attachments[0]"),
    ("attachments", [Attachment(f"{CANARY}/x", b"")], "attachments[0].filename"),
    ("attachments", [Attachment("x", b"", CANARY)], "attachments[0].content_type"),
    ("attachments", [Attachment("x", b"", None, f"{CANARY} x")], "attachments[0].inline_id"),
    ("attachments", broken_list(), "mail"),
    ("to", CANARY, "to"),
    ("reply_to", CANARY, "reply_to"),
    ("category", f"{CANARY}\n", "category"),
    ("priority", CANARY, "priority"),
    ("scheduled_at", CANARY, "scheduled_at"),
]


def everywhere(error: BaseException) -> str:
    """All that anybody can get out of an error, short of the caller's own variables."""
    assert error.__cause__ is None
    assert error.__context__ is None
    return repr((error.args, vars(error), str(error))) + "".join(
        line for line in traceback.format_exception(error) if not line.startswith("  File")
    )


@pytest.mark.parametrize(("argument", "value", "field"), BAD, ids=lambda value: f"{value!r:.30}")
def test_an_error_hides_the_value(argument: str, value: Any, field: str) -> None:
    try:
        drafted(**{argument: value})
    except InvalidEmail as error:
        caught = error
    assert CANARY not in everywhere(caught)
    assert (caught.field, caught.value) == (field, "(hidden)")
    assert "(hidden)" in str(caught)


@pytest.mark.parametrize(
    ("mail", "field"),
    [
        (MAIL | {"subject": f"{CANARY}\n"}, "mails[1].subject"),
        (MAIL | {"txet": CANARY}, "mails[1]"),
        ({"sensitiv": True, "to": "ada@example.com", "text": CANARY}, "mails[1]"),
        (("ada@example.com", CANARY), "mails[1]"),
    ],
    ids=["a value", "a name", "the name that would have made it sensitive", "no names at all"],
)
def test_an_error_in_bulk_hides_it_too(mail: Any, field: str) -> None:
    with Session(create_engine("sqlite://")) as session, pytest.raises(InvalidEmail) as caught:
        EmailService(session, SETTINGS).queue_emails([MAIL, mail])
    assert caught.value.field == field
    assert CANARY not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {caught.value.value!r}"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ("{{ code.upper() ~ missing }}", "reset/body.txt, line 1"),
        ("\n{{ {}[code] }}", "reset/body.txt, line 2"),
        ("{{ code | date }}", "reset/body.txt, line 1"),
        ("{{ code.missing }}", "reset/body.txt, line 1"),
        ("{{ code", "reset/body.txt, line 1"),
        ("{% include code %}", "reset/body.txt, line 1"),
        ("{{ code ~ nul }}", None),
    ],
)
def test_a_template_says_where_and_not_what(tmp_path: Path, body: str, where: str | None) -> None:
    folder = tmp_path / "templates/email/reset"
    folder.mkdir(parents=True)
    (folder / "subject.txt").write_text("Your code")
    (folder / "body.txt").write_text(body)
    settings = Settings.load(**KEYED, outbox_templates=str(tmp_path / "templates/email"))
    context = {"code": CANARY, "nul": "\0"}
    with pytest.raises(InvalidTemplate) as caught:
        draft(settings, "ada@example.com", template="reset", context=context, sensitive=True)
    assert CANARY not in everywhere(caught.value)
    assert (where or "something wrong with it") in str(caught.value)


def test_a_template_makes_a_sealed_mail(tmp_path: Path) -> None:
    folder = tmp_path / "templates/email/reset"
    folder.mkdir(parents=True)
    (folder / "subject.txt").write_text("Code {{ code }}")
    (folder / "body.html").write_text("<p>{{ code }}</p>")
    settings = Settings.load(**KEYED, outbox_templates=str(tmp_path / "templates/email"))
    made = draft(settings, "ada@example.com", template="reset", context={"code": CANARY}, sensitive=True)
    assert CANARY not in everything(made)
    assert made.content["template"] == "reset"
    said = Safe([NEW]).open(made.content["sealed"])
    assert said["subject"] == f"Code {CANARY}"
    assert CANARY in said["text"]
    assert CANARY in said["html"]


def test_a_file_that_is_stored_in_clear_is_refused() -> None:
    with pytest.raises(InvalidEmail, match=r"^attachments\[0\]='\(hidden\)': .*give its bytes") as caught:
        drafted(attachments=[Attachment(f"{CANARY}.pdf", Blob("0" * 64, 5))], html=None)
    assert CANARY not in everywhere(caught.value)


def test_an_invitation_stays_one() -> None:
    ics = f"BEGIN:VCALENDAR\nMETHOD:REQUEST\nSUMMARY:{CANARY}\nEND:VCALENDAR"
    made = drafted(attachments=[Attachment.invitation(ics)], html=None)
    assert made.attachments[0].media_type == "application/octet-stream"
    (file,) = Safe([NEW]).open(made.content["sealed"])["files"]
    assert file["content_type"] == "text/calendar; charset=utf-8; method=REQUEST"


def test_a_digest_is_not_sensitive() -> None:
    """Its contexts wait in the database."""
    with pytest.raises(InvalidEmail, match=r"collapse.*it is not sensitive"):
        drafted(collapse="comments:42", within=60, template="news", context={}, text=None, html=None, subject=None)


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(TypeError, match="'txet'") as caught:
        drafted(txet=CANARY)
    assert CANARY not in str(caught.value)


def test_no_repr_says_what_a_mail_says() -> None:
    made = drafted(sensitive=False)
    fields = ("sender", "reply_to", "subject", "text", "html", "headers", "message_id", "date")
    file = File(CANARY, CANARY, CANARY.encode())
    message = Message(
        **{name: made.content[name] for name in fields}, to=made.content["to_header"], cc=None, files=[file]
    )
    assert repr(message) == f"<Message {made.content['message_id']}>"
    assert CANARY not in f"{made!r} {message!r} {file!r}"
    assert CANARY not in repr(Attachment("a.pdf", CANARY.encode()))
