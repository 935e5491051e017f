"""What `queue_email` is given -> a mail, or one error that names the argument, its value and the remedy."""

import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from outbox.attachments import Attachment, Blob
from outbox.draft import Draft, draft
from outbox.errors import InvalidAddress, InvalidEmail, InvalidHeader, TooLarge
from outbox.settings import Settings
from outbox.states import Kind, OnUncertain, Priority

SETTINGS = Settings.load(
    smtp_from_email="Shop <shop@example.com>", outbox_max_message_bytes=100_000, outbox_max_attachment_bytes=50_000
)
PAST, SOON, LATER = (datetime(year, 1, 1, tzinfo=UTC) for year in (2020, 2100, 2101))
PDF = Attachment("a.pdf", b"%PDF")
GOOD: dict[str, Any] = {"to": "ada@example.com", "subject": "Hello", "text": "Hello, Ada"}


def drafted(**mail: Any) -> Draft:
    return draft(SETTINGS, **(GOOD | mail))


def named(**mail: Any) -> Callable[..., Any]:
    """Makes a line of a table, whose id says what is given."""
    return lambda *rest: pytest.param(mail, *rest, id=", ".join(f"{k}={v!r:.40}" for k, v in mail.items()))


BAD_ADDRESSES = [
    "",
    " ",
    "ada",
    "@example.com",
    "ada@",
    "ada@@example.com",
    "ada@example.com, bob@example.com",
    "Ada <ada@example.com>, Bob <bob@example.com>",
    "Ada <ada@example.com> Bob",
    "<ada@example.com",
    "ada@example.com\r\nBcc: eve@example.com",
    "Ada\nBcc: eve@example.com <ada@example.com>",
    "Ada\0 <ada@example.com>",
    "Ada\ud800 <ada@example.com>",
    "ada @example.com",
    "ad\u2028@example.com",
    "a\u037eb@example.com",  # NFC makes a semicolon of it
    f"{'a' * 65}@example.com",
    f"a@{'b' * 260}.example",
    "ada@exa mple.com",
    "ada@-.com",
    "ada@example..com",
    "ada@[127.0.0.1",
    "\u202eada@example.com",
    ("Ada", "ada@example.com"),
    42,
    b"ada@example.com",
    Path("ada@example.com"),
]
BAD_TYPES: list[Any] = [
    "pdf",
    "application/pdf\r\nX: b",
    "text/plain; name=a b",
    "text/plain; name=a; NAME=b",
    'text/plain; name="=?utf-8?q?x?="',
    'text/plain; name="\ud800"',
    'text/plain; name="\u00e4"',
    "a" * 300 + "/b",
    "message/rfc822",
    "Multipart/mixed",
    7,
    b"text/plain",
]
BAD_INLINE_IDS: list[Any] = [
    "a@b@c",
    "a..b",
    "(a)",
    "a,b",
    "=?utf-8?q?x?=",
    "",
    "a b",
    "<logo>",
    "a\r\nX: b",
    "log\u00f6",
    "\ud800",
    "a\x01",
    "a" * 256,
    7,
]


@pytest.mark.parametrize("argument", ["to", "cc", "bcc", "reply_to", "from_email"])
@pytest.mark.parametrize("address", BAD_ADDRESSES, ids=repr)
def test_bad_address(argument: str, address: Any) -> None:
    given = address if argument == "from_email" or isinstance(address, bytes) else [address]
    with pytest.raises(InvalidAddress) as caught:
        drafted(**{argument: given})
    assert caught.value.field == argument
    assert caught.value.value in (address, "Ada")  # of the pair, the first half is what is wrong
    assert str(caught.value).startswith(f"{argument}=")


@pytest.mark.parametrize(
    ("mail", "error", "field"),
    [
        # Somebody to go to
        named(to=[])(InvalidAddress, "to"),
        named(to=())(InvalidAddress, "to"),
        named(to=None)(InvalidAddress, "to"),
        named(to=42)(InvalidAddress, "to"),
        named(to={"ada@example.com": "Ada"})(InvalidAddress, "to"),
        named(to=["bob@example.com", None])(InvalidAddress, "to"),
        named(bcc=[None])(InvalidAddress, "bcc"),
        named(to=[["ada@example.com"]])(InvalidAddress, "to"),
        named(cc="")(InvalidAddress, "cc"),
        named(cc=None)(InvalidAddress, "cc"),
        named(reply_to="")(InvalidAddress, "reply_to"),
        named(reply_to=0)(InvalidAddress, "reply_to"),
        named(from_email="")(InvalidAddress, "from_email"),
        named(from_email=["ada@example.com"])(InvalidAddress, "from_email"),
        # Something to say
        named(subject=None)(InvalidEmail, "subject"),
        named(subject=7)(InvalidEmail, "subject"),
        named(subject=b"Hello")(InvalidEmail, "subject"),
        named(subject="Hello\nBcc: eve@example.com")(InvalidHeader, "subject"),
        named(subject="Hello\r")(InvalidHeader, "subject"),
        named(subject="Hel\0lo")(InvalidHeader, "subject"),
        named(subject="Hel\udc80lo")(InvalidEmail, "subject"),
        named(subject="x" * 999)(InvalidHeader, "subject"),
        named(text=None)(InvalidEmail, "text"),
        named(text="")(InvalidEmail, "text"),
        named(text=None, html="")(InvalidEmail, "text"),
        named(text=b"Hello")(InvalidEmail, "text"),
        named(html=b"<p>")(InvalidEmail, "html"),
        named(text=5)(InvalidEmail, "text"),
        named(text="Hel\0lo")(InvalidEmail, "text"),
        named(html="<p>\0")(InvalidEmail, "html"),
        named(text="half an emoji \ud83d")(InvalidEmail, "text"),
        named(html="half an emoji \ude00")(InvalidEmail, "html"),
        named(text="\u00e4" * 50_001)(TooLarge, "size"),
        named(html="x" * 100_001)(TooLarge, "size"),
        named(text="x" * 50_001, html="x" * 50_000)(TooLarge, "size"),
        named(attachments=[Attachment("a", b"x" * 40_000)] * 2)(TooLarge, "size"),  # base64 is longer by a third
        # Headers
        named(headers="X-A: b")(InvalidHeader, "headers"),
        named(headers=[("X-A", "b")])(InvalidHeader, "headers"),
        named(headers={"X-A\r\nBcc": "eve@example.com"})(InvalidHeader, "headers"),
        named(headers={"X-A\n": "b"})(InvalidHeader, "headers"),
        named(headers={"X-A\0": "b"})(InvalidHeader, "headers"),
        named(headers={"X A": "b"})(InvalidHeader, "headers"),
        named(headers={"X-A:": "b"})(InvalidHeader, "headers"),
        named(headers={"": "b"})(InvalidHeader, "headers"),
        named(headers={"X-\u00c4": "b"})(InvalidHeader, "headers"),
        named(headers={7: "b"})(InvalidHeader, "headers"),
        named(headers={None: "b"})(InvalidHeader, "headers"),
        named(headers={"X" * 77: "b"})(InvalidHeader, "headers"),
        named(headers={"X-A": "b\r\nBcc: eve@example.com"})(InvalidHeader, "headers['X-A']"),
        named(headers={"X-A": "b\nc"})(InvalidHeader, "headers['X-A']"),
        named(headers={"X-A": "b\rc"})(InvalidHeader, "headers['X-A']"),
        named(headers={"X-A": "b\0"})(InvalidHeader, "headers['X-A']"),
        named(headers={"X-A": "\ud800"})(InvalidHeader, "headers['X-A']"),
        named(headers={"X-A": None})(InvalidHeader, "headers['X-A']"),
        named(headers={"X-A": 1})(InvalidHeader, "headers['X-A']"),
        named(headers={"X-A": b"b"})(InvalidHeader, "headers['X-A']"),
        named(headers={"X-A": "b" * 999})(InvalidHeader, "headers['X-A']"),
        named(headers={"Bcc": "eve@example.com"})(InvalidHeader, "headers"),
        named(headers={"sUBJECT": "Other"})(InvalidHeader, "headers"),
        named(headers={"Content-Type": "text/evil"})(InvalidHeader, "headers"),
        named(headers={"X-A": "1", "x-a": "2"})(InvalidHeader, "headers"),
        # Attachments
        named(attachments=None)(InvalidEmail, "attachments"),
        named(attachments=PDF)(InvalidEmail, "attachments"),
        named(attachments=Path("/etc/passwd"))(InvalidEmail, "attachments"),
        named(attachments="/etc/passwd")(InvalidEmail, "attachments[0]"),
        named(attachments=["/etc/passwd"])(InvalidEmail, "attachments[0]"),
        named(attachments=[PDF, ("a.pdf", b"%PDF")])(InvalidEmail, "attachments[1]"),
        named(attachments=[PDF, None])(InvalidEmail, "attachments[1]"),
        named(attachments=[Attachment("a", "text")])(InvalidEmail, "attachments[0].data"),  # type: ignore[arg-type]
        named(attachments=[Attachment("a", None)])(InvalidEmail, "attachments[0].data"),  # type: ignore[arg-type]
        named(attachments=[Attachment("a", Blob("../a", 1))])(InvalidEmail, "attachments[0].data"),
        named(attachments=[Attachment("a", Blob("a" * 64, -1))])(InvalidEmail, "attachments[0].data"),
        named(attachments=[Attachment("a", Blob("a" * 64, 50_001))])(TooLarge, "attachments[0].data"),
        named(attachments=[Attachment("a", b"x" * 50_001)])(TooLarge, "attachments[0].data"),
        named(attachments=[Attachment(i, b"x", inline_id="a") for i in "ab"])(InvalidEmail, "attachments[1].inline_id"),
        named(attachments=[Attachment("", b"")])(InvalidEmail, "attachments[0].filename"),
        named(attachments=[Attachment(None, b"")])(InvalidEmail, "attachments[0].filename"),  # type: ignore[arg-type]
        named(attachments=[Attachment("..", b"")])(InvalidEmail, "attachments[0].filename"),
        named(attachments=[Attachment("../a", b"")])(InvalidEmail, "attachments[0].filename"),
        named(attachments=[Attachment("C:\\a", b"")])(InvalidEmail, "attachments[0].filename"),
        named(attachments=[Attachment("a\r\nX: b", b"")])(InvalidEmail, "attachments[0].filename"),
        named(attachments=[Attachment("a\0.exe", b"")])(InvalidEmail, "attachments[0].filename"),
        named(attachments=[Attachment("a\udc80", b"")])(InvalidEmail, "attachments[0].filename"),
        named(attachments=[Attachment("gpj.\u202eexe", b"")])(InvalidEmail, "attachments[0].filename"),
        named(attachments=[Attachment("a" * 256, b"")])(InvalidEmail, "attachments[0].filename"),
        *(
            named(attachments=[Attachment("a", b"", kind)])(InvalidHeader, "attachments[0].content_type")
            for kind in BAD_TYPES
        ),
        named(attachments=[Attachment("a.eml", b"")])(InvalidHeader, "attachments[0].content_type"),
        *(
            named(attachments=[Attachment("a", b"", None, inline)])(InvalidHeader, "attachments[0].inline_id")
            for inline in BAD_INLINE_IDS
        ),
        # When and how
        named(priority="urgent")(InvalidEmail, "priority"),
        named(priority="HIGH")(InvalidEmail, "priority"),
        named(priority="")(InvalidEmail, "priority"),
        named(priority=0)(InvalidEmail, "priority"),
        named(priority=None)(InvalidEmail, "priority"),
        named(priority=["high"])(InvalidEmail, "priority"),
        named(scheduled_at=datetime(2030, 1, 1))(InvalidEmail, "scheduled_at"),  # noqa: DTZ001
        named(scheduled_at="2030-01-01T00:00:00Z")(InvalidEmail, "scheduled_at"),
        named(scheduled_at=SOON.date())(InvalidEmail, "scheduled_at"),
        named(scheduled_at=1.5)(InvalidEmail, "scheduled_at"),
        named(scheduled_at=datetime.max.replace(tzinfo=timezone(-timedelta(hours=12))))(InvalidEmail, "scheduled_at"),
        named(expires_at=datetime(2030, 1, 1))(InvalidEmail, "expires_at"),  # noqa: DTZ001
        named(expires_at=datetime.min.replace(tzinfo=timezone(timedelta(hours=12))))(InvalidEmail, "expires_at"),
        named(expires_at=PAST)(InvalidEmail, "expires_at"),
        named(expires_at=SOON, scheduled_at=LATER)(InvalidEmail, "expires_at"),
        named(expires_at=SOON, scheduled_at=SOON)(InvalidEmail, "expires_at"),
        named(expires_at=PAST + timedelta(hours=1), scheduled_at=PAST)(InvalidEmail, "expires_at"),
        named(max_attempts=0)(InvalidEmail, "max_attempts"),
        named(max_attempts=-1)(InvalidEmail, "max_attempts"),
        named(max_attempts=True)(InvalidEmail, "max_attempts"),
        named(max_attempts=2.0)(InvalidEmail, "max_attempts"),
        named(max_attempts="5")(InvalidEmail, "max_attempts"),
        named(max_attempts=2**31)(InvalidEmail, "max_attempts"),  # more than the column holds
        named(on_uncertain="maybe")(InvalidEmail, "on_uncertain"),
        named(on_uncertain="")(InvalidEmail, "on_uncertain"),
        named(on_uncertain=False)(InvalidEmail, "on_uncertain"),
        *(
            named(**{label: value})(InvalidEmail, label)
            for label in ["idempotency_key", "category", "locale", "request_id"]
            for value in ["", "x" * 256, "a\nb", "a\0", "\ud800", 7, b"key", ("a", 1)]
        ),
        # A template says it all, and a context is for one
        named(template="receipt")(InvalidEmail, "subject"),
        named(template="receipt", subject=None)(InvalidEmail, "text"),
        named(template="receipt", subject=None, text=None, html="")(InvalidEmail, "html"),
        named(context={})(InvalidEmail, "context"),
        *(
            named(template="receipt", subject=None, text=None, context=context)(InvalidEmail, "context")
            for context in ["name", [("name", "Ada")], {1: "Ada"}]
        ),
        # What this version cannot do
        named(sensitive=True)(InvalidEmail, "sensitive"),
    ],
)
def test_bad_input(mail: dict[str, Any], error: type[InvalidEmail], field: str) -> None:
    with pytest.raises(InvalidEmail) as caught:
        drafted(**mail)
    assert type(caught.value) is error
    assert caught.value.field == field
    message = str(caught.value)
    assert re.match(rf"{re.escape(field)}=.+: \S.{{8}}", message, re.DOTALL), message
    assert len(message) < 500
    assert message.isprintable() or "\n" not in message


def test_no_sender_at_all() -> None:
    with pytest.raises(InvalidAddress, match=r"from_email=None: give from_email, or set SMTP_FROM_EMAIL"):
        draft(Settings.load(), **GOOD)


@pytest.mark.parametrize("junk", [" " * 100_000 + '"', "a " * 50_000 + "<", '"' + "\\a" * 50_000, "<" * 100_000])
def test_a_long_address_is_refused_at_once(junk: str) -> None:
    """It comes from a form that anybody can fill in; a regular expression can take hours over it."""
    started = time.process_time()
    with pytest.raises(InvalidAddress):
        drafted(to=f"{junk}@example.com")
    assert time.process_time() - started < 0.5


# --- Good input


@pytest.mark.parametrize(
    ("given", "header", "address"),
    [
        ("ada@example.com", "ada@example.com", "ada@example.com"),
        ("  ada@example.com ", "ada@example.com", "ada@example.com"),
        ("Ada <ada@example.com>", "Ada <ada@example.com>", "ada@example.com"),
        ('"Lovelace, Ada" <ada@example.com>', '"Lovelace, Ada" <ada@example.com>', "ada@example.com"),
        ("Ada@EXAMPLE.com", "Ada@example.com", "Ada@example.com"),
        ("ada@b\u00fccher.example", "ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
        ("\u00c4da <ada@example.com>", "=?utf-8?b?w4RkYQ==?= <ada@example.com>", "ada@example.com"),
        ("root@intranet", "root@intranet", "root@intranet"),
        ("j\u00f6rg@b\u00fccher.example", "j\u00f6rg@xn--bcher-kva.example", "j\u00f6rg@xn--bcher-kva.example"),
        ("\u00c4da <a\u0308da@example.com>", "=?utf-8?b?w4RkYQ==?= <\u00e4da@example.com>", "\u00e4da@example.com"),
    ],
)
def test_headers_are_in_wire_form_and_recipients_bare(given: str, header: str, address: str) -> None:
    mail = drafted(to=given, cc=[given], reply_to=given, from_email=given)
    assert mail.content["to_header"] == mail.content["cc_header"] == mail.content["reply_to"] == header
    assert mail.content["sender"] == header
    assert mail.recipients == [(Kind.TO, address)]


def test_nobody_gets_a_mail_twice_for_being_on_two_lists() -> None:
    mail = drafted(
        to=["ada@example.com", "Ada <ada@EXAMPLE.com>", "bob@example.com"],
        cc=["bob@example.com", "cy@example.com"],
        bcc=["cy@example.com", "dee@example.com", "dee@example.com"],
    )
    assert mail.recipients == [
        (Kind.TO, "ada@example.com"),
        (Kind.TO, "bob@example.com"),
        (Kind.CC, "cy@example.com"),
        (Kind.BCC, "dee@example.com"),
    ]
    assert "dee@" not in repr(mail.content)


def test_anything_that_can_be_iterated_gives_addresses_and_files() -> None:
    addresses = ["ada@example.com", "bob@example.com"]
    for given in (addresses, tuple(addresses), iter(addresses), set(addresses), dict.fromkeys(addresses).keys()):
        assert [address for _, address in drafted(to=given).recipients] == addresses
    mail = drafted(to=(a for a in addresses), cc=(a for a in ["cy@example.com"]), attachments=(f for f in [PDF]))
    assert mail.content["to_header"] == "ada@example.com, bob@example.com"
    assert mail.content["cc_header"] == "cy@example.com"
    assert mail.attachments == [PDF]


@pytest.mark.parametrize(
    ("sender", "domain"),
    [
        (None, "example.com"),
        ("Ops <ops@mail.example.org>", "mail.example.org"),
        ("ops@b\u00fccher.example", "xn--bcher-kva.example"),
        ("root@intranet", "intranet"),
    ],
)
def test_the_message_id_is_on_the_senders_domain(sender: str | None, domain: str) -> None:
    ids = [drafted(from_email=sender).content["message_id"] for _ in range(2)]
    assert all(re.fullmatch(rf"<[0-9a-f]{{32}}@{re.escape(domain)}>", id_) for id_ in ids)
    assert ids[0] != ids[1]


def test_defaults() -> None:
    mail = drafted()
    assert mail.row == {
        "subject": "Hello",
        "supersedes": None,
        "collapse": None,
        "category": None,
        "priority": Priority.NORMAL,
        "max_attempts": 5,
        "on_uncertain": OnUncertain.RETRY,
        "request_id": None,
    }
    assert mail.content["sender"] == "Shop <shop@example.com>"
    assert mail.content["payload_hash"] is None
    assert mail.content["date"].microsecond == 0
    assert abs(mail.content["date"] - datetime.now(UTC)) < timedelta(seconds=5)
    assert [mail.content[column] for column in ("cc_header", "reply_to", "html", "locale")] == [None] * 4


@pytest.mark.parametrize("priority", Priority)
def test_priorities(priority: Priority) -> None:
    assert drafted(priority=priority).row["priority"] == drafted(priority=priority.label).row["priority"] == priority


def test_times() -> None:
    row = drafted(scheduled_at=SOON, expires_at=LATER).row
    assert (row["scheduled_at"], row["next_attempt_at"], row["expires_at"]) == (SOON, SOON, LATER)
    elsewhere = SOON.astimezone(timezone(timedelta(hours=-9)))
    assert drafted(scheduled_at=elsewhere).row["next_attempt_at"] == SOON
    assert drafted(scheduled_at=PAST).row["next_attempt_at"] == PAST
    assert "expires_at" not in drafted(scheduled_at=PAST).row


def test_given_values_win_over_the_settings() -> None:
    row = drafted(max_attempts=1, on_uncertain="hold", category="billing", request_id="r-1").row
    assert (row["max_attempts"], row["on_uncertain"]) == (1, "hold")
    assert (row["category"], row["request_id"]) == ("billing", "r-1")
    held = SETTINGS.model_copy(update={"outbox_on_uncertain": OnUncertain.HOLD, "outbox_max_attempts": 9})
    assert draft(held, **GOOD).row["on_uncertain"] == "hold"
    assert draft(held, **GOOD).row["max_attempts"] == 9


@pytest.mark.parametrize(
    ("filename", "media_type"),
    [
        ("a.pdf", "application/pdf"),
        ("a.PNG", "image/png"),
        ("no extension", "application/octet-stream"),
        ("a.unheard-of", "application/octet-stream"),
        # The name's type is that of what is inside: `text/plain` would be shown, as rubbish.
        ("notes.txt.gz", "application/octet-stream"),
        ("site.tar.bz2", "application/octet-stream"),
        ("data:text", "application/octet-stream"),
    ],
)
def test_the_media_type_is_guessed_from_the_name(filename: str, media_type: str) -> None:
    assert drafted(attachments=[Attachment(filename, b"x")]).attachments[0].media_type == media_type
    given = Attachment(filename, b"x", 'text/csv; charset=utf-8; header="present"')
    assert drafted(attachments=[given]).attachments[0].media_type.startswith("text/csv")


def test_size_counts_bytes_of_bodies_and_of_encoded_files() -> None:
    mail = drafted(text="\u00e4\u00e4", html="<p>", attachments=[Attachment("a", b"x" * 58)])
    assert mail.content["size"] == 4 + 3 + 2 * 78
    assert drafted(text="x" * 100_000).content["size"] == 100_000  # the limit itself


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, {"Auto-Submitted": "auto-generated"}),
        ({"X-B": "2", "X-A": "1"}, {"X-B": "2", "X-A": "1", "Auto-Submitted": "auto-generated"}),
        ({"auto-submitted": "no"}, {"auto-submitted": "no"}),
        ({"X-A": "1", "Auto-Submitted": "auto-replied"}, {"X-A": "1", "Auto-Submitted": "auto-replied"}),
    ],
)
def test_every_mail_says_that_no_person_wrote_it_unless_told_otherwise(
    given: dict[str, str] | None, kept: dict[str, str]
) -> None:
    assert list(drafted(headers=given).content["headers"].items()) == list(kept.items())


def test_a_request_id_is_no_header_unless_given_as_one() -> None:
    assert "X-Request-ID" not in drafted(request_id="r-1").content["headers"]
    assert drafted(headers={"X-Request-ID": "r-1"}).content["headers"]["X-Request-ID"] == "r-1"


# --- The hash that says whether a key means the same mail

FULL: dict[str, Any] = {
    "to": ["ada@example.com"],
    "cc": ["cy@example.com"],
    "bcc": ["dee@example.com"],
    "subject": "Hello",
    "text": "Hello, Ada",
    "html": "<p>Hello, Ada",
    "reply_to": "desk@example.com",
    "from_email": "Shop <shop@example.com>",
    "headers": {"X-A": "1", "X-B": "2"},
    "attachments": [Attachment("a.txt", b"a")],
    "locale": "de",
    "category": "billing",
    "idempotency_key": "k",
}


def hashed(**mail: Any) -> str:
    hash_: str = draft(SETTINGS, **(FULL | mail)).content["payload_hash"]
    assert re.fullmatch("[0-9a-f]{64}", hash_)
    return hash_


@pytest.mark.parametrize(
    "mail",
    [
        {},
        {"idempotency_key": "another"},
        {"priority": "high"},
        {"scheduled_at": SOON},
        {"expires_at": SOON},
        {"max_attempts": 1},
        {"on_uncertain": "hold"},
        {"request_id": "another"},
        {"to": "ada@example.com"},
        {"to": ("ada@EXAMPLE.com",)},
        {"headers": {"X-B": "2", "X-A": "1"}},
        {"attachments": [Attachment("a.txt", bytes([97]))]},
    ],
    ids=", ".join,
)
def test_the_same_mail_has_the_same_hash(mail: dict[str, Any]) -> None:
    assert hashed(**mail) == hashed()


@pytest.mark.parametrize(
    "mail",
    [
        {"to": ["bob@example.com"]},
        {"to": ["Ada <ada@example.com>"]},
        {"to": ["ada@example.com", "bob@example.com"]},
        {"cc": []},
        {"bcc": []},
        {"bcc": ["eve@example.com"]},
        {"cc": ["dee@example.com"], "bcc": ["cy@example.com"]},
        {"subject": "hello"},
        {"text": "Hello, Ada!"},
        {"text": None},
        {"html": "<p>Hello, <b>Ada"},
        {"text": FULL["html"], "html": FULL["text"]},
        {"reply_to": None},
        {"from_email": "Ops <shop@example.com>"},
        {"from_email": None},
        {"headers": {"X-A": "1"}},
        {"headers": {"X-A": "2", "X-B": "1"}},
        {"attachments": []},
        {"attachments": [Attachment("b.txt", b"a")]},
        {"attachments": [Attachment("a.txt", b"b")]},
        {"attachments": [Attachment("a.txt", b"a", "text/html")]},
        {"attachments": [Attachment("a.txt", b"a", None, "logo")]},
        {"attachments": [Attachment("a.txt", b"a"), Attachment("a.txt", b"a")]},
        {"locale": "fr"},
        {"category": None},
    ],
    ids=", ".join,
)
def test_another_mail_has_another_hash(mail: dict[str, Any]) -> None:
    assert hashed(**mail) != hashed()


def test_the_hash_of_a_set_is_the_same_in_every_process() -> None:
    """The order of a set of strings differs from one process to the next: a retry would look like another mail."""
    addresses = [f"user{number}@example.com" for number in range(20)]
    assert hashed(to=set(addresses)) == hashed(to=frozenset(reversed(addresses))) == hashed(to=sorted(addresses))


def test_the_hash_does_not_ask_the_machine_for_media_types() -> None:
    """Which names are known depends on what is installed; hosts of one application differ."""
    import mimetypes  # noqa: PLC0415 - its tables are changed below

    before = hashed(attachments=[Attachment("a.parquetx", b"a")])
    mimetypes.add_type("application/x-parquet", ".parquetx")
    assert hashed(attachments=[Attachment("a.parquetx", b"a")]) == before


def test_drafts_are_made_by_many_threads() -> None:
    """One attachment for all of them: its hash is computed on first use."""
    shared = Attachment("a.pdf", b"%PDF" * 1000)
    hashes: list[str] = []
    threads = [threading.Thread(target=lambda: hashes.append(hashed(attachments=[shared]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hashes) == 8
    assert len(set(hashes)) == 1
