"""The statements by which a recipient's mails forget whom they went to and what they said. Read `erasing`.

Each keeps within the CHECK constraints: a row stays what it was, dead, sent or cancelled, with its times and counts.
"""

import secrets
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from outbox import purging
from outbox.database import utcnow
from outbox.models import (
    EmailAttachment,
    EmailAttempt,
    EmailAudit,
    EmailContent,
    EmailEvent,
    EmailRelay,
    EmailSuppression,
    EmailTrouble,
    QueuedEmail,
)

ERASED = "(erased)"
"""What stands where something was."""

_C, _Q, _A = EmailContent, QueuedEmail, EmailAudit


def erase_rows(connection: sa.Connection, ids: Sequence[int]) -> None:
    """His rows, and what hangs on them."""
    if not ids:
        return
    nobody = sa.update(_Q).where(_Q.id == sa.bindparam("row")).values(recipient=sa.bindparam("nobody"))
    connection.execute(
        nobody, [{"row": id_, "nobody": f"erased-{secrets.token_hex(16)}@erased.invalid"} for id_ in ids]
    )
    said = sa.case((_Q.last_error.is_not(None), ERASED))
    rest = dict.fromkeys(("supersedes", "collapse", "waiting_for"), sa.null())
    connection.execute(sa.update(_Q).where(_Q.id.in_(ids)).values(last_error=said, **rest))
    connection.execute(sa.update(EmailAttempt).where(EmailAttempt.email_id.in_(ids)).values(reply=ERASED))
    event = EmailEvent
    connection.execute(
        sa.update(event)
        .where(event.email_id.in_(ids))
        .values(said=ERASED, provider_event_id="erased-" + sa.cast(event.id, sa.Text))
    )
    lines = connection.execute(sa.select(_A.id, _A.target, _A.detail).where(_A.email_id.in_(ids))).all()
    erase_details(connection, lines)


def erase_contents(connection: sa.Connection, ids: Sequence[int]) -> int:
    """What the mails said, for all of their recipients. Returns the number of files that went."""
    mails = _C.id.in_(ids)
    gone = dict.fromkeys(
        (
            "cc_header",
            "reply_to",
            "text",
            "html",
            "sealed",
            "contexts",
            "idempotency_key",
            "payload_hash",
            "request_id",
        ),
        sa.null(),
    )
    connection.execute(
        sa.update(_C)
        .where(mails)
        .values(
            to_header=ERASED, subject=ERASED, headers={}, purged_at=sa.func.coalesce(_C.purged_at, utcnow()), **gone
        )
    )
    connection.execute(sa.update(_Q).where(_Q.content_id.in_(ids)).values(subject=ERASED, request_id=None))
    attached = EmailAttachment.content_id.in_(ids)
    files = connection.scalars(sa.select(EmailAttachment.sha256).where(attached).distinct()).all()
    connection.execute(sa.delete(EmailAttachment).where(attached))
    return len(purging.delete_files(connection, files))


def forget_message_ids(connection: sa.Connection, ids: Sequence[int]) -> None:
    """Of mails that were his alone: a bounce of another recipient must still find its mail."""
    other = sa.update(_C).where(_C.id == sa.bindparam("mail")).values(message_id=sa.bindparam("other"))
    if ids:
        connection.execute(
            other, [{"mail": id_, "other": f"<erased-{secrets.token_hex(16)}@erased.invalid>"} for id_ in ids]
        )


def erase_details(connection: sa.Connection, lines: Sequence[sa.Row[*tuple[Any, ...]]]) -> None:
    """Who did what, and when, stays; of what else was said only what came of it: a reason names people as it likes."""
    anew = [
        {"line": line.id, "left": {name: line.detail[name] for name in ("resolution",) if name in line.detail}}
        for line in lines
    ]
    if anew:
        connection.execute(
            sa.update(_A).where(_A.id == sa.bindparam("line")).values(detail=sa.bindparam("left", type_=sa.JSON)), anew
        )


def erase_quotations(connection: sa.Connection, address: str) -> None:
    """A relay's last words, and a trouble's, may be about a mail of his; why a domain has no mail, about him."""
    for column in (EmailRelay.reason, EmailTrouble.sentence, EmailSuppression.reason):
        quotes = sa.func.lower(column).contains(address.lower(), autoescape=True)
        connection.execute(sa.update(column.class_).where(quotes).values({column: ERASED}))
