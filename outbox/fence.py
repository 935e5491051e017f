"""The fence: keeps mail from people who are not meant to get any.

Three pickets, each for itself. `OUTBOX_REDIRECT_TO`: all mail goes to one address. `OUTBOX_ALLOW_RECIPIENTS`: mail goes
to no address but those. `OUTBOX_ENVIRONMENT`: the database remembers whose mail it holds, so that a copy of production,
started elsewhere, sends nothing until a person says otherwise.

The first two together: nobody but the one address is written to, so it is the one that has to be allowed.
"""

import sqlalchemy as sa

from outbox.addresses import encoded_words
from outbox.database import Statement, insert, utcnow
from outbox.errors import InvalidAddress
from outbox.models import EmailEnvironment
from outbox.settings import Settings

_ONLY_ROW = 1


def redirected(settings: Settings, recipient: str, data: bytes) -> tuple[str, bytes]:
    """The envelope's recipient and the message, as they are to go out.

    With a redirect, `X-Original-To` in front names who would have got it; the headers that were written stay as they
    are. Raises InvalidAddress for a recipient that would break the header.
    """
    if settings.outbox_redirect_to is None:
        return recipient, data
    if not recipient.isprintable():
        raise InvalidAddress("recipient", recipient, "the envelope takes a bare address in printable characters")
    if not recipient.isascii():  # encoded, or this header alone would ask for a relay with SMTPUTF8
        recipient = encoded_words(recipient, column=len("X-Original-To: ")).replace(" ", "\r\n ")
    return settings.outbox_redirect_to, b"X-Original-To: %s\r\n%s" % (recipient.encode("ascii"), data)


def held(settings: Settings, recipient: str) -> str | None:
    """Why this recipient may not get mail; None if nothing is in the way."""
    allowed = settings.outbox_allow_recipients
    if allowed is None:
        return None
    address = (settings.outbox_redirect_to or recipient).lower()
    if address in allowed or address.rpartition("@")[2] in allowed:
        return None
    if not allowed:
        return "OUTBOX_ALLOW_RECIPIENTS is empty: nobody may get mail"
    if settings.outbox_redirect_to is not None:
        return f"OUTBOX_REDIRECT_TO={address} is not among OUTBOX_ALLOW_RECIPIENTS"
    return f"{address} is not among OUTBOX_ALLOW_RECIPIENTS"


_OWNER = Statement(lambda _: f"SELECT name FROM email_environment WHERE id = {_ONLY_ROW}")
"""Plain SQL: each chunk asks, and SQLAlchemy's own takes longer to put it together than PostgreSQL to answer."""


def owner(connection: sa.Connection) -> str | None:
    """The environment whose mail this is; None before the first drain."""
    return _OWNER(connection).scalar()


def whose(connection: sa.Connection, settings: Settings) -> str | None:
    """None: the mail in this database is ours to send, or nobody's yet. Else the sentence why it is held."""
    name = owner(connection)
    if name in (None, settings.outbox_environment):
        return None
    return (
        f"this database holds the mail of {name!r}, and OUTBOX_ENVIRONMENT is {settings.outbox_environment!r}: "
        "nothing is sent from here; if it should be, run `outbox adopt`"
    )


def take_unowned(connection: sa.Connection, settings: Settings, who: str) -> None:
    """A database that is nobody's yet becomes ours; of several that come at once, one gets it."""
    connection.execute(insert(EmailEnvironment, connection).values(_row(settings, who)).on_conflict_do_nothing())


def adopt(connection: sa.Connection, settings: Settings, who: str) -> None:
    """A person says that the mail in this database is ours to send."""
    row = _row(settings, who)
    connection.execute(
        insert(EmailEnvironment, connection).values(row).on_conflict_do_update(index_elements=["id"], set_=row)
    )


def _row(settings: Settings, who: str) -> dict[str, object]:
    return {"id": _ONLY_ROW, "name": settings.outbox_environment, "changed_at": utcnow(), "changed_by": who}
