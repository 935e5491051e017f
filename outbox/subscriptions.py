"""Mail that its recipient can unsubscribe from: the signed link in it, and who wants what.

The categories of `OUTBOX_SUBSCRIPTIONS` are such mail; all other is transactional, and nobody can unsubscribe from a
receipt. Who does not want a category has a line in `email_suppressions`, which the enqueue and every send ask: there is
no second record of it that could say otherwise.

    /unsubscribe/<token>    token = signed (address, category); a page that an application answers with `read`,
                            `unsubscribe` and `resubscribe`, or with `preferences` and `prefer` for all categories
"""

from collections.abc import Collection
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from itsdangerous import BadData, URLSafeSerializer
from pydantic import SecretStr

from outbox import suppressions
from outbox.database import insert, utcnow
from outbox.errors import InvalidEmail, InvalidLink
from outbox.models import EmailSuppression
from outbox.settings import Settings

_SALT = "outbox.unsubscribe"
"""Part of every signature, so that a token which the same keys signed for another purpose opens nothing here."""


class Subscription(NamedTuple):
    """A recipient, and a category of mail to it."""

    address: str
    category: str


def declared(settings: Settings, category: str | None) -> str | None:
    """The category, if its recipients can unsubscribe from it; None for transactional mail."""
    return category if category in settings.outbox_subscriptions else None


def headers(settings: Settings, address: str, category: str, sender_domain: str) -> dict[str, str]:
    """What a mail program's own unsubscribe button needs (RFC 2919, RFC 2369, RFC 8058); {} for transactional mail."""
    if declared(settings, category) is None:
        return {}
    return {
        "List-Id": f"<{category}.{sender_domain}>",
        "List-Unsubscribe": f"<{url(settings, address, category)}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }


def url(settings: Settings, address: str, category: str) -> str:
    """The link for that recipient. It does not end: RFC 8058 mail is opened, and unsubscribed from, years later."""
    assert settings.outbox_unsubscribe_url  # the settings agree that a subscription has it
    token = _serializer(settings.outbox_signing_keys).dumps([address, category])
    return f"{settings.outbox_unsubscribe_url}/{token!s}"


def read(settings: Settings, token: str) -> Subscription:
    """Whom a link is about. Raises InvalidLink for what none of the keys has signed.

    The category may have left the settings since. Somebody asked all the same, and is heard.
    """
    if not settings.outbox_signing_keys:
        raise InvalidLink("there are no OUTBOX_SIGNING_KEYS, so no link can be read: set those that signed it")
    try:
        address, category = _serializer(settings.outbox_signing_keys).loads(token)
    except (BadData, ValueError) as error:
        raise InvalidLink(
            "this link was not signed with any of OUTBOX_SIGNING_KEYS: a part of it is missing, or its key was removed"
        ) from error
    return Subscription(address, category)


@lru_cache(maxsize=8)
def _serializer(keys: tuple[SecretStr, ...]) -> URLSafeSerializer:
    # It signs with the last and tries them all; we say the newest first, as one adds it.
    return URLSafeSerializer([key.get_secret_value() for key in reversed(keys)], salt=_SALT)


def reason(category: str) -> str:
    """What stands in the record, and on every mail that dies of it."""
    return f"unsubscribed from '{category}'"


def unsubscribe(connection: sa.Connection, subscription: Subscription, source: str) -> None:
    """No mail of the category to that address any more. Asked again, it keeps the first time and source."""
    s = EmailSuppression
    values = {"reason": reason(subscription.category), "source": source}
    connection.execute(
        insert(s, connection)
        .values(target=subscription.address.lower(), category=subscription.category, **values)
        .on_conflict_do_update(
            index_elements=["target", "category"],
            set_=values | {"until": None, "created_at": utcnow()},
            where=s.until.is_not(None),  # a person had suppressed the category for a while: from now on it is for good
        )
    )


def resubscribe(connection: sa.Connection, subscription: Subscription) -> None:
    """Let the category's mail go to that address again; what suppresses the address for all mail stays."""
    s = EmailSuppression
    assert subscription.category  # '' is the line of all mail, which is not its recipient's to remove
    connection.execute(
        sa.delete(s).where(s.target == subscription.address.lower(), s.category == subscription.category)
    )


def wants(connection: sa.Connection, subscription: Subscription) -> bool:
    """Whether the address wants that category."""
    return subscription.category not in _unwanted(connection, subscription.address)


def preferences(connection: sa.Connection, settings: Settings, address: str) -> dict[str, bool]:
    """Category -> whether the address wants it, in the order of the settings."""
    unwanted = _unwanted(connection, address)
    return {category: category not in unwanted for category in settings.outbox_subscriptions}


def hindered(connection: sa.Connection, settings: Settings, address: str) -> set[str]:
    """The categories that the address does not get, wanted or not: it bounced, or somebody suppressed it."""
    questions = [(address, category) for category in settings.outbox_subscriptions]
    found = suppressions.covering(connection, questions)
    own = address.lower()
    return {str(category) for (_, category), line in found.items() if (line.target, line.category) != (own, category)}


def prefer(connection: sa.Connection, settings: Settings, address: str, wanted: Collection[str], source: str) -> None:
    """Want exactly these of the categories. What suppresses the address for all mail stays.

    Raises InvalidEmail for a category that is no subscription.
    """
    for category in wanted:
        if declared(settings, category) is None:
            raise InvalidEmail("wanted", category, f"choose from {', '.join(settings.outbox_subscriptions) or 'none'}")
    for category in settings.outbox_subscriptions:
        subscription = Subscription(address, category)
        if category in wanted:
            resubscribe(connection, subscription)
        else:
            unsubscribe(connection, subscription, source)


def wanted_by(address: sa.SQLColumnExpression[Any], category: str) -> sa.ColumnElement[bool]:
    """SQL, for whoever mails a table of people: that the address in this column wants the category, and may get mail.

    A hint that spares work: an address whose whole domain is suppressed passes here, and is found at the enqueue.
    """
    s = EmailSuppression
    line = sa.exists().where(
        s.target == sa.func.lower(address),
        s.category.in_(("", category)),
        sa.or_(s.until.is_(None), s.until > utcnow()),
    )
    return ~line


def _unwanted(connection: sa.Connection, address: str) -> set[str]:
    s = EmailSuppression
    query = sa.select(s.category).where(s.target == address.lower(), sa.or_(s.until.is_(None), s.until > utcnow()))
    return set(connection.scalars(query))
