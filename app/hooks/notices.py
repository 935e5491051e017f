"""A provider's notice as it came, and why one is not believed. What every provider's file is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from werkzeug.datastructures import Headers

from app.settings import AppSettings
from outbox.feedback import Event

OLDEST = timedelta(hours=25)
"""Of a signature. SendGrid tries for 24 hours to hand over a notice, Mailgun for 8 and SNS for 1: what came while we
were away must still be believed. What is older comes from somebody who kept it."""

FURTHEST_AHEAD = timedelta(minutes=5)
"""Of a provider's clock."""


class Refused(Exception):
    """Not from the provider, or not for us, or not now. Says which, for the log."""


class Unconfigured(Exception):
    """The setting is empty without which no notice of that provider can be believed."""


class Unavailable(Exception):
    """What is needed to believe it does not answer: the provider shall try again."""


@dataclass(frozen=True, slots=True)
class Posted:
    """A request, read."""

    body: bytes
    headers: Headers
    settings: AppSettings
    remember: Callable[[str, str], bool]
    """`remember(token, what)`: False if the token came before, with something else. Forgets after `OLDEST`."""


Reader = Callable[[Posted], list[Event]]
"""A provider's file has one: who posted -> what happened. Raises the above, and pydantic's ValidationError."""


def check_age(signed_at: datetime) -> None:
    """Raises Refused."""
    age = datetime.now(UTC) - signed_at
    if age > OLDEST:
        raise Refused(f"signed {age} ago")
    if age < -FURTHEST_AHEAD:
        raise Refused(f"signed {-age} from now")
