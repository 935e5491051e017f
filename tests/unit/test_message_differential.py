"""Outbox's composer against the `emails` library's own: a reader finds the same mail in both.

Each restriction of the generators below stands for something that the library, not Outbox, gets wrong.
"""

import re
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import default
from email.utils import getaddresses
from typing import Any

import emails
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outbox.addresses import Mailbox
from outbox.message import File, Message
from tests.generating import addresses, header_names_of_words, inline_ids, message_ids

# A machine under load composes and generates slowly; that is no finding.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# The library's header code (Header) takes what str.splitlines calls a line end for a fold, and lets NUL and the other
# controls through; CR and LF it refuses, as the enqueue does.
_characters = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
# It does not encode ASCII text that looks encoded ("=?utf-8?q?x?=") and so a reader decodes it.
_words = st.text(_characters, min_size=1, max_size=40).filter(lambda word: "=?" not in word and not word.isspace())
# It folds at runs of blanks and cannot break a word of ASCII: single blanks, words of at most 40 characters.
_phrases = st.lists(_words.map(lambda word: re.sub(r"\s+", "_", word)), min_size=1, max_size=12).map(" ".join)

mailboxes = st.builds(Mailbox, st.just("") | _phrases, addresses)
lists = st.lists(mailboxes, max_size=5)
bodies = st.text(st.characters(exclude_categories=["Cs"]), max_size=200) | st.lists(
    st.sampled_from(
        [
            "\r",
            "\n",
            "\r\n",
            ".",
            "..",
            " ",
            "\t",
            "=",
            "From ",
            "--",
            "é",
            "漢",
            "😀",
            "<p>",
            "long " * 250,
            "x" * 1100,
        ]
    ),
    max_size=30,
).map("".join)
headers = st.dictionaries(header_names_of_words, _phrases, max_size=4)
files = st.builds(
    File,
    filename=_phrases,
    content_type=st.sampled_from(["image/png", "application/pdf", "application/octet-stream", "text/csv"]),
    data=st.binary(max_size=400),
    inline_id=st.none() | inline_ids,
)
mails = st.fixed_dictionaries(
    {
        "message_id": message_ids(30),
        "date": st.datetimes(datetime(1970, 1, 2), datetime(2199, 1, 1), timezones=st.timezones()),  # noqa: DTZ001 - Hypothesis adds it
        "sender": mailboxes,
        "to": st.lists(mailboxes, min_size=1, max_size=5),
        "cc": lists,
        "reply_to": lists,
        "subject": _phrases,
        "text": bodies.filter(bool),
        "html": st.none() | bodies,
        "headers": headers,
        # It keeps one file a name: of two with the same name, the second is lost.
        "files": st.lists(files, max_size=4, unique_by=lambda file: file.filename),
    }
)


def by_outbox(mail: dict[str, Any]) -> bytes:
    wire = {name: ", ".join(mailbox.header for mailbox in mail[name]) for name in ("to", "cc", "reply_to")}
    return Message(**(mail | wire | {"sender": mail["sender"].header})).as_bytes()


def by_emails(mail: dict[str, Any]) -> bytes:
    return emails.Message(
        message_id=mail["message_id"],
        # As text: the library reads an aware datetime as if it were local.
        date=mail["date"].astimezone(UTC).strftime("%a, %d %b %Y %H:%M:%S +0000"),
        mail_from=tuple(mail["sender"]),
        # As lists of pairs: the library mistakes a tuple of two for one pair.
        mail_to=[tuple(mailbox) for mailbox in mail["to"]],
        cc=[tuple(mailbox) for mailbox in mail["cc"]],
        reply_to=[tuple(mailbox) for mailbox in mail["reply_to"]],
        subject=mail["subject"],
        text=mail["text"],
        html=mail["html"],
        headers=mail["headers"],
        attachments=[
            {
                "filename": file.filename,
                "mime_type": file.content_type,
                "data": file.data,
                "content_disposition": "attachment" if file.inline_id is None else "inline",
                "content_id": file.inline_id,
            }
            for file in mail["files"]
        ],
    ).as_bytes()


ADDRESSED = ("From", "To", "Cc", "Reply-To")


def what_a_reader_finds(raw: bytes) -> dict[str, Any]:
    root = message_from_bytes(raw, policy=default)
    assert isinstance(root, EmailMessage)
    found: dict[str, Any] = {
        name: str(value) for name, value in root.items() if name not in (*ADDRESSED, "Content-Type")
    }
    found["Date"] = root["Date"].datetime
    # Names are read by the older parser: the newer one (3.11) leaves blanks between the encoded words of a long name.
    older = message_from_bytes(raw)
    found |= {
        name: [(str(make_header(decode_header(shown))), address) for shown, address in getaddresses([older[name]])]
        for name in ADDRESSED
        if older[name] is not None
    }
    return found | {"tree": tree(root)}


def tree(part: Any) -> tuple[Any, ...]:
    if part.is_multipart():
        return (part.get_content_type(), *map(tree, part.iter_parts()))
    content = part.get_payload(decode=True)
    if part.get_content_disposition() is None:
        content = re.sub(r"\r\n|\r|\n", "\n", content.decode(part.get_content_charset()))
    return (
        part.get_content_type(),
        part.get_content_disposition(),
        part.get_filename(),
        part["Content-ID"],
        content,
    )


@unhurried
@given(mails)
def test_a_reader_finds_the_same_mail_as_from_the_emails_library(mail: dict[str, Any]) -> None:
    assert what_a_reader_finds(by_outbox(mail)) == what_a_reader_finds(by_emails(mail))
