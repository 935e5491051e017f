"""The options that find mails: the same for the list and for every move on a filter."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from outbox.addresses import parse_mailbox
from outbox.cli.moments import time_or_ago
from outbox.searching import Filter
from outbox.states import DeadReason, Priority, Status


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a verb the options, and their `Filter` as `wanted`. Those that are given must all hold."""

    @wraps(command)
    def filtered(*arguments: Any, **options: Any) -> Any:
        return command(*arguments, wanted=_filter({name: options.pop(name) for name in _NAMES}), **options)

    for option in reversed(_OPTIONS):
        filtered = option(filtered)
    return filtered


def _filter(given: dict[str, Any]) -> Filter:
    status, reason, lane, recipient = (given.pop(name) for name in ("status", "dead_reason", "priority", "recipient"))
    return Filter(
        **given,
        status=status and Status(status),
        dead_reason=reason and DeadReason(reason),
        priority=None if lane is None else Priority[lane.upper()],
        recipient=recipient and parse_mailbox("recipient", recipient).address,
    )


_NAMES = (
    "status", "dead_reason", "recipient", "subject", "category", "priority", "message_id", "request_id", "since",
    "until",
)  # fmt: skip
_OPTIONS = (
    click.option("--status", type=click.Choice([str(status) for status in Status])),
    click.option("--dead-reason", type=click.Choice([str(reason) for reason in DeadReason])),
    click.option("--recipient", metavar="ADDRESS", help="Mail to this address, in whatever letter case."),
    click.option("--subject", metavar="TEXT", help="A part of the subject, in whatever letter case."),
    click.option("--category"),
    click.option("--priority", type=click.Choice([lane.label for lane in Priority])),
    click.option("--message-id", metavar="ID", help="With its angle brackets or without."),
    click.option("--request-id", metavar="ID", help="Of the HTTP request, or whatever queued it."),
    click.option(
        "--since",
        callback=time_or_ago,
        metavar="TIME",
        help="Queued then or later: 2h, 3d (ago), or 2026-12-24T18:00+01:00.",
    ),
    click.option("--until", callback=time_or_ago, metavar="TIME", help="Queued before."),
)
