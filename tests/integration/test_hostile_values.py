"""Every hostile value through every argument: refused with a sentence, or read again exactly as it was meant.

What is meant is worked out here, from the argument alone (`Meant`), and not by asking the product.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import format_datetime
from functools import cache
from types import SimpleNamespace
from typing import Any

import idna
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox.attachments import Attachment
from outbox.chunk import message_of
from outbox.database import create_engine
from outbox.draft import Draft, draft
from outbox.errors import InvalidEmail
from outbox.message import File
from outbox.models import EmailContent, QueuedEmail
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.states import Status
from tests.delivering import deliver, settings_for
from tests.hostile_values import ADDRESSES, Hostile, corpus
from tests.smtp_server import EAI, SmtpServer
from tests.strict_reader import Part, Read, parameters_of, read

CORPUS = corpus()
SETTINGS = Settings.load(_env_file=None, smtp_from_email="Shop <shop@example.com>")
BASE: dict[str, Any] = {"to": "ada@example.com", "subject": "Hello", "text": "Hello, Ada.\n"}

Mail = dict[str, Any]


def quoted(name: str) -> str:
    escaped = name.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}" <ada@example.com>'


def attached(value: str, **given: Any) -> Mail:
    file = {"filename": "a.pdf", "data": b"%PDF", "content_type": "application/pdf"} | given
    return {"attachments": [Attachment(**file)]}


ARGUMENTS: dict[str, tuple[str, Callable[[str], Mail]]] = {
    "to": ("to", lambda value: {"to": value}),
    "one of to": ("to", lambda value: {"to": ["bob@example.com", value]}),
    "cc": ("cc", lambda value: {"cc": [value]}),
    "bcc": ("bcc", lambda value: {"bcc": [value]}),
    "reply_to": ("reply_to", lambda value: {"reply_to": value}),
    "from_email": ("from_email", lambda value: {"from_email": value}),
    "name": ("to", lambda value: {"to": quoted(value)}),
    "local part": ("to", lambda value: {"to": f"{value}@example.com"}),
    "domain": ("to", lambda value: {"to": f"ada@{value}.example"}),
    "subject": ("subject", lambda value: {"subject": value}),
    "text": ("text", lambda value: {"text": value}),
    "html": ("html", lambda value: {"html": value}),
    "header name": ("headers", lambda value: {"headers": {value: "good"}}),
    "header value": ("headers['X-Hostile']", lambda value: {"headers": {"X-Hostile": value}}),
    "filename": ("attachments[0].filename", lambda value: attached(value, filename=value)),
    "content_type": ("attachments[0].content_type", lambda value: attached(value, content_type=value)),
    "inline_id": ("attachments[0].inline_id", lambda value: attached(value, inline_id=value)),
    "category": ("category", lambda value: {"category": value}),
    "idempotency_key": ("idempotency_key", lambda value: {"idempotency_key": value}),
    "request_id": ("request_id", lambda value: {"request_id": value}),
    "locale": ("locale", lambda value: {"locale": value}),
}
"""What is hostile -> the name that an error must bear, and the arguments with a value in that place."""

LABELS = ("category", "idempotency_key", "request_id", "locale")
"""They do not travel: it is their columns that must hold them."""


# --- what is meant ----------------------------------------------------------------------------------------------------


@dataclass
class Meant:
    """What a strict reader must find, and who must get it."""

    recipients: list[str]
    sender: str
    read: Read


def meant(mail: Mapping[str, Any]) -> Meant:
    addressed = {
        "From": _mailboxes(mail.get("from_email", SETTINGS.smtp_from_email)),
        "To": _mailboxes(mail["to"]),
        "Cc": _mailboxes(mail.get("cc", ())),
        "Reply-To": _mailboxes(mail.get("reply_to", ())),
    }
    addressed = {name: mailboxes for name, mailboxes in addressed.items() if mailboxes}
    envelope = [*addressed["To"], *addressed.get("Cc", ()), *_mailboxes(mail.get("bcc", ()))]
    headers = {"Subject": mail["subject"].strip(" \t")}
    headers |= {name: value.strip(" \t") for name, value in mail.get("headers", {}).items()}
    if "auto-submitted" not in map(str.lower, headers):
        headers["Auto-Submitted"] = "auto-generated"
    headers["MIME-Version"] = "1.0"
    names = ["Date", "Message-ID", *addressed, *headers, "Content-Type"]
    names.insert(names.index("MIME-Version"), names.pop(names.index("MIME-Version")))
    bodies = [_body(kind, mail[kind]) for kind in ("text", "html") if mail.get(kind)]
    inline = [_file(file) for file in mail.get("attachments", ()) if file.inline_id is not None]
    others = [_file(file) for file in mail.get("attachments", ()) if file.inline_id is None]
    alternative = ("multipart/alternative", *(part.type for part in bodies))
    related = ("multipart/related", alternative, *(part.type for part in inline))
    tree = ("multipart/mixed", related, *(part.type for part in others))
    found = Read(names, headers, addressed, tree, [*bodies, *inline, *others])
    return Meant(list(dict.fromkeys(address for _, address in envelope)), addressed["From"][0][1], found)


def _mailboxes(given: str | Iterable[str]) -> list[tuple[str, str]]:
    return [_mailbox(one) for one in ([given] if isinstance(given, str) else given)]


@cache
def _mailbox(given: str) -> tuple[str, str]:
    """Whatever is before the last `<` is a name; what is between it and a last `>`, or all of it, an address."""
    name, address = "", given.strip(" \t")
    if address.endswith(">"):
        name, _, address = address[:-1].rpartition("<")
        name = name.strip(" \t")
    if name.startswith('"'):
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    local, _, domain = address.rpartition("@")
    wire = idna.encode(domain, uts46=True).decode()
    return re.sub(r"[ \t]+", " ", name).strip(" "), f"{unicodedata.normalize('NFC', local)}@{wire}"


def _body(kind: str, text: str) -> Part:
    data = re.sub(r"\r\n|\r|\n", "\r\n", text).encode()
    return Part({"text": "text/plain", "html": "text/html"}[kind], {"charset": "utf-8"}, None, None, None, data)


def _file(file: Attachment) -> Part:
    assert file.content_type is not None
    disposition = "attachment" if file.inline_id is None else "inline"
    kind, parameters = parameters_of(file.content_type)
    return Part(kind, parameters, disposition, file.filename, file.inline_id, file.data)


def check(raw: bytes, content: Mapping[str, Any], expected: Meant) -> None:
    """The bytes of a mail, read strictly, are what was meant."""
    found = read(raw)
    assert found.headers.pop("Date") == format_datetime(content["date"].astimezone(UTC))
    assert found.headers.pop("Message-ID") == content["message_id"]
    assert found == expected.read
    foreign = any(not address.isascii() for boxes in found.mailboxes.values() for _, address in boxes)
    assert raw.isascii() is not foreign


# --- each value in each argument --------------------------------------------------------------------------------------


@cache
def drafted(argument: str, value: str) -> Draft | InvalidEmail:
    """Every other exception is a finding."""
    try:
        return draft(SETTINGS, **(BASE | ARGUMENTS[argument][1](value)))
    except InvalidEmail as error:
        return error


def composed(checked: Draft) -> bytes:
    """By way of what a column of JSON keeps."""
    content = checked.content | {"headers": json.loads(json.dumps(checked.content["headers"]))}
    files = [File(file.filename, file.media_type, file.data, file.inline_id) for file in checked.attachments]
    return message_of(SimpleNamespace(**content), files).as_bytes()  # type: ignore[arg-type]  # the columns of a row


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_a_hostile_value_is_refused_or_read_as_it_was_meant(argument: str) -> None:
    field, mail = ARGUMENTS[argument]
    verdicts = {"refused": 0, "read": 0}
    for hostile in CORPUS:
        checked = drafted(argument, hostile.text)
        try:
            if isinstance(checked, InvalidEmail):
                _check_refusal(checked, field)
                verdicts["refused"] += 1
                continue
            expected = meant(BASE | mail(hostile.text))
            assert [address for _, address in checked.recipients] == expected.recipients
            if argument in LABELS:
                assert checked.content[argument] == hostile.text
            else:
                check(composed(checked), checked.content, expected)
            verdicts["read"] += 1
        except AssertionError as error:
            raise AssertionError(f"{argument}, {hostile.name}: {hostile.text!a:.200}: {error}") from error
    assert all(verdicts.values()), verdicts  # an argument that takes or refuses everything was not tested


def _check_refusal(error: InvalidEmail, field: str) -> None:
    assert error.field == field
    said = str(error)
    assert said.startswith(f"{field}=")
    assert said.isprintable(), "it would steer a terminal, or forge a line of a log"
    assert len(said) < 600
    assert len(error.problem) > 10


REFUSED = ("two addresses", "comment", "group", "route", "quoted local part", "not an address", "address literal")
TAKEN = ("homograph", "any script", "address")
"""Homographs, too: whose address looks like whose is for those to judge who know whom they write to."""


@pytest.mark.parametrize("group", ADDRESSES)
def test_what_becomes_of_addresses(group: str) -> None:
    assert (group in REFUSED) != (group in TAKEN)
    for address in ADDRESSES[group]:
        assert isinstance(drafted("to", address), InvalidEmail) == (group in REFUSED), ascii(address)


def test_the_corpus_is_large_and_nothing_is_in_it_twice() -> None:
    assert len(CORPUS) >= 1500
    assert len({hostile.text for hostile in CORPUS}) == len({hostile.name for hostile in CORPUS}) == len(CORPUS)
    assert corpus() == CORPUS


# --- all values over SMTP ---------------------------------------------------------------------------------------------


def all_that_is_taken(number: int, hostile: Hostile) -> Mail:
    """A mail that bears the value in every place that takes it; as a file's bytes, where any value can go."""

    def takes(argument: str) -> bool:
        return not isinstance(drafted(argument, hostile.text), InvalidEmail)

    value = hostile.text
    mail: Mail = BASE | {"to": [value if takes("to") else f"hostile-{number}@example.com"]}
    mail |= {argument: value for argument in ("from_email", "subject", "text", "html", *LABELS) if takes(argument)}
    mail |= {argument: [value] for argument in ("cc", "bcc") if takes(argument)}
    mail["reply_to"] = [value] * takes("reply_to") + [quoted(value)] * takes("name")
    mail["headers"] = {value: "good"} if takes("header name") else {}
    mail["headers"] |= {"X-Hostile": value} if takes("header value") else {}
    mail["attachments"] = [
        Attachment(
            value if takes("filename") else "a.pdf",
            value.encode("utf-8", "surrogatepass"),
            value if takes("content_type") else "application/pdf",
            value if takes("inline_id") else None,
        )
    ]
    return mail


def test_every_value_over_smtp(sqlite_url: str) -> None:
    """By way of SQLite; what PostgreSQL keeps is below, and all behind it is the same."""
    engine = create_engine(sqlite_url)
    mails = [all_that_is_taken(number, hostile) for number, hostile in enumerate(CORPUS)]
    with SmtpServer(extensions=EAI) as server:
        settings = settings_for(server)
        with Session(engine) as session, session.begin():
            EmailService(session, settings).queue_emails(mails)
        with engine.connect() as connection:
            contents = connection.execute(sa.select(EmailContent.__table__).order_by(EmailContent.id)).mappings().all()
        assert len(contents) == len(CORPUS)
        statuses = deliver(engine, settings)
        with engine.connect() as connection:
            rows = connection.execute(sa.select(QueuedEmail.content_id, QueuedEmail.recipient)).all()
        engine.dispose()
        assert statuses == {Status.SENT: len(rows)}
        arrived = {_message_id(mail.data): mail for mail in server.mails}
        assert len(server.mails) == len(rows) == len(arrived)  # of each mail, one copy: all its rows are one address
    for hostile, mail, content in zip(CORPUS, mails, contents, strict=True):
        expected = meant(mail)
        copy = arrived[content["message_id"]]
        try:
            assert [copy.recipient] == expected.recipients
            assert copy.sender == expected.sender
            check(copy.data, dict(content), expected)
            assert {label: content[label] for label in LABELS} == {label: mail.get(label) for label in LABELS}
        except AssertionError as error:
            raise AssertionError(f"{hostile.name}: {hostile.text!a:.200}: {error}") from error


def test_postgresql_keeps_every_value(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url)
    mails = [all_that_is_taken(number, hostile) for number, hostile in enumerate(CORPUS)]
    with Session(engine) as session, session.begin():
        EmailService(session, SETTINGS).queue_emails(mails)
    with engine.connect() as connection:
        contents = connection.execute(sa.select(EmailContent.__table__).order_by(EmailContent.id)).mappings().all()
    engine.dispose()
    for mail, content in zip(mails, contents, strict=True):
        given = {name: mail.get(name) for name in ("subject", "text", "html", *LABELS)}
        assert {name: content[name] for name in given} == given
        assert mail["headers"].items() <= content["headers"].items()
        assert content["reply_to"] == draft(SETTINGS, **mail).content["reply_to"]


def _message_id(data: bytes) -> str:
    found = re.search(rb"^Message-ID: (<[^>]*>)\r$", data, re.MULTILINE)
    assert found is not None
    return found[1].decode()
