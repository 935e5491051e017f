"""What a person can do with mails, and which it can be done with. All of it goes through `outbox.auditing`."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from outbox import auditing
from outbox.operations import Resolution
from outbox.states import Status


class Move(NamedTuple):
    """`act(connection, ids, who, **detail)` moves mails and returns the ids of those that it moved."""

    name: str
    label: str
    done: str
    """What a mail is then, in the words of the library's refusals."""
    statuses: Sequence[Status]
    act: Callable[..., set[int]]
    warning: str = ""
    """What to know before it is done to many."""


def _resolving(resolution: Resolution) -> Callable[..., set[int]]:
    def act(connection: sa.Connection, ids: Iterable[int], who: str, **detail: object) -> set[int]:
        return auditing.resolve(connection, ids, resolution, who, **detail)

    return act


_ALL = (
    Move(
        "requeue", "Requeue", "requeued", auditing.REQUEUEABLE, auditing.requeue,
        "They are sent as if they were queued now. What is uncertain may arrive twice.",
    ),
    Move(
        "cancel", "Cancel", "cancelled", auditing.CANCELLABLE, auditing.cancel,
        "They are not sent, unless they are requeued. What a worker has already goes all the same.",
    ),
    Move(
        "sent", "Resolve: it was sent", "resolved", auditing.RESOLVABLE, _resolving(Resolution.SENT),
        "They count as sent, on your word, and nothing can be done with them any more.",
    ),
    Move(
        "again", "Resolve: send again", "resolved", auditing.RESOLVABLE, _resolving(Resolution.REQUEUE),
        "They are sent again. Those that had arrived arrive twice.",
    ),
    Move(
        "dead", "Resolve: give up", "resolved", auditing.RESOLVABLE, _resolving(Resolution.DEAD),
        "They are not sent again, unless they are requeued.",
    ),
)  # fmt: skip

MOVES = {move.name: move for move in _ALL}


def possible(statuses: set[Status]) -> list[Move]:
    """Those that can be made from at least one of the statuses. What is uncertain is resolved, in one of three ways."""
    others = statuses - {Status.UNCERTAIN}
    return [move for move in _ALL if (others if move.name == "requeue" else statuses) & set(move.statuses)]
