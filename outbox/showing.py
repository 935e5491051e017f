"""What a mail says, for whoever looks into it: `outbox show` and the pages. Of sensitive mail nobody sees any of it."""

from sqlalchemy.orm import Session

from outbox.chunk import message_of
from outbox.errors import NotPossible
from outbox.message import File
from outbox.models import EmailBlob, EmailContent, QueuedEmail


def body(content: EmailContent) -> str:
    """What there is of its body, in words."""
    if content.sensitive:
        return "sensitive and wiped" if content.sealed is None else "sensitive and encrypted"
    bodies = [name for name, said in (("text", content.text), ("HTML", content.html)) if said]
    return " and ".join(bodies) or "purged"


def html(row: QueuedEmail) -> str:
    """Its HTML, as it was written. Raises NotPossible if there is none to be seen."""
    _refuse_sensitive(row)
    if not row.content.html:
        raise NotPossible(f"mail {row.id} has no HTML")
    return row.content.html


def source(session: Session, row: QueuedEmail) -> bytes:
    """The message as it goes to the relay, but for a DKIM signature. Raises NotPossible if nothing is left of it."""
    _refuse_sensitive(row)
    files = [
        File(file.filename, file.content_type, session.get_one(EmailBlob, file.sha256).data, file.inline_id)
        for file in row.content.attachments
    ]
    try:
        return message_of(row.content, files).as_bytes()
    except ValueError as error:
        raise NotPossible(str(error)) from error


def _refuse_sensitive(row: QueuedEmail) -> None:
    if row.content.sensitive:
        raise NotPossible(f"mail {row.id} is sensitive: what it says is shown to its recipients alone")
