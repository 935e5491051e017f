"""A mail as its recipient gets it: read from its very bytes, by the standard library's parser."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Self, cast


@dataclass(frozen=True, slots=True)
class AttachedFile:
    """An attachment or, with an `inline_id` (without brackets), a picture in the HTML."""

    name: str | None
    content_type: str
    data: bytes = field(repr=False)
    inline_id: str | None = None


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail to one recipient: a mail to two people is two of these."""

    id: int
    """Of its row: `session.get(QueuedEmail, mail.id)` has its status, attempts and times."""
    sender: str
    """The envelope's, bare; `headers["From"]` has the name, too."""
    recipient: str
    """The envelope's: who gets it. A bcc is named nowhere else."""
    to: list[str]
    """Bare addresses, as in `cc`: what every recipient reads; `headers` has the names."""
    cc: list[str]
    subject: str
    text: str | None
    html: str | None
    headers: Mapping[str, str]
    """Decoded."""
    attachments: list[AttachedFile]
    source: bytes = field(repr=False)
    """The message as it is handed to the relay."""

    @classmethod
    def read(cls, id_: int, sender: str, recipient: str, source: bytes, message: EmailMessage) -> Self:
        """From the envelope, the bytes, and what `parse` has made of them."""
        return cls(
            id=id_,
            sender=sender,
            recipient=recipient,
            to=_addresses(message, "To"),
            cc=_addresses(message, "Cc"),
            subject=str(message["Subject"]),
            text=_body(message, "plain"),
            html=_body(message, "html"),
            headers={name: str(value) for name, value in message.items()},
            attachments=[_file(part) for part in message.walk() if part.get_content_disposition() is not None],
            source=source,
        )


def parse(source: bytes) -> EmailMessage:
    """The message, in the standard library's words."""
    return message_from_bytes(source, policy=default)


def _addresses(message: EmailMessage, name: str) -> list[str]:
    header = message[name]
    return [address.addr_spec for address in header.addresses] if header is not None else []


def _body(message: EmailMessage, kind: str) -> str | None:
    part = message.get_body((kind,))
    return None if part is None else str(part.get_content()).replace("\r\n", "\n")


def _file(part: EmailMessage) -> AttachedFile:
    inline_id = part["Content-ID"]
    return AttachedFile(
        name=part.get_filename(),
        content_type=part.get_content_type(),
        data=cast("bytes", part.get_payload(decode=True)),
        inline_id=str(inline_id).strip("<> ") if inline_id is not None else None,
    )
