"""What the library says of what happens: a sentence for people; the event's name and fields for programs.

    tell(log, logging.WARNING, "mail.dead", "mail %(mail_id)d is dead: %(why)s", mail_id=17, why="dot: 550 unknown")

It goes through the standard library's `logging`, so that an application's own set-up has it: with any formatter it
reads "mail 17 is dead: dot: 550 unknown", and a formatter that makes more of it finds `record.event` and
`record.fields`. Every event has its line in docs/operations.md.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

request_id: ContextVar[str | None] = ContextVar("outbox_request_id", default=None)
"""On whose behalf the code that runs is running. An application sets it for each request that it serves, and mail that
is queued meanwhile bears it; a courier sets it for each mail to the one that the mail bears. A thread has its own."""


@contextmanager
def on_behalf_of(request: str | None) -> Iterator[None]:
    """Set it for a block."""
    before = request_id.set(request)
    try:
        yield
    finally:
        request_id.reset(before)


def tell(log: logging.Logger, level: int, event: str, sentence: str, exc_info: Any = None, **fields: Any) -> None:
    """Log what happened, once. `event` is its name; `sentence` says it, with any of the fields as `%(name)s`.

    A field named `request_id` says on whose behalf, where that is not the `request_id` of the moment.
    """
    if not log.isEnabledFor(level):
        return
    arguments = (fields,) if fields else ()  # `logging` takes one mapping, if it is not empty, for names
    extra = {"event": event, "fields": fields}
    if exc_info is None:
        # As `log.log` does it, which goes through frame after frame for the one that called it: a fifth of a line.
        code, line = (caller := sys._getframe(1)).f_code, caller.f_lineno  # noqa: SLF001 - as `logging` itself
        log.handle(
            log.makeRecord(log.name, level, code.co_filename, line, sentence, arguments, None, code.co_name, extra)
        )
    else:
        log.log(level, sentence, *arguments, exc_info=exc_info, extra=extra, stacklevel=2)
