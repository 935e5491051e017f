"""The command line: `python -m outbox VERB`, or `outbox VERB` when installed.

It reads the settings that everything else reads, and needs neither Celery nor Redis. Exit 0: done. 1: it was tried and
failed (no database, relay down, no such mail). 2: misuse (options, settings, a mail that cannot be one). Either way one
sentence on stderr says why; `drain` interrupted by a signal ends as the shell expects, with 128 and its number.
"""

import logging
import sys
from typing import Any

import click
import sqlalchemy as sa

from outbox.cli.adopting import adopt
from outbox.cli.auditing import audit
from outbox.cli.completing import completion
from outbox.cli.draining import drain
from outbox.cli.erasing import erase
from outbox.cli.gauges import stats
from outbox.cli.listing import list_
from outbox.cli.moving import cancel, requeue, resolve
from outbox.cli.previewing import preview
from outbox.cli.purging import purge
from outbox.cli.queueing import queue
from outbox.cli.relaying import pause, relays, resume
from outbox.cli.rotating import rotate_keys
from outbox.cli.showing import show, why
from outbox.cli.suppressing import suppress
from outbox.cli.surroundings import explain
from outbox.cli.telling import events
from outbox.cli.terminal import safe
from outbox.errors import InvalidEmail, OutboxError, SettingsError

_FAILED = 1
_MISUSE = 2


class _Sentence(click.ClickException):
    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(safe(message))
        self.exit_code = exit_code  # type: ignore[misc]  # click's is of the class; its main() reads the instance's


class _Outbox(click.Group):
    """Turns what Outbox and the database raise into a sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InvalidEmail, SettingsError) as error:
            raise _Sentence(str(error), _MISUSE) from error
        except OutboxError as error:
            raise _Sentence(str(error), _FAILED) from error
        except sa.exc.SQLAlchemyError as error:
            raise _Sentence(explain(error), _FAILED) from error


class _Stderr(logging.Handler):
    """What the library logs, a line each and without tracebacks: a command's reader is rarely its programmer."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(safe(record.getMessage()), err=True)


@click.group(cls=_Outbox, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Queue mail, send it, and see what became of it.

    Settings come from the environment and from .env: DATABASE_URL, SMTP_HOST and so on.
    Exit status: 0 done; 1 failed; 2 wrong usage, settings or mail.
    """
    logging.getLogger("outbox").handlers[:] = [_Stderr(logging.WARNING)]
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that has no Cyrillic still gets its table


_VERBS = (
    queue, preview, drain, list_, show, why, requeue, cancel, resolve, relays, pause, resume, suppress, stats, audit,
    events, adopt, rotate_keys, purge, erase, completion,
)  # fmt: skip
for _verb in _VERBS:
    main.add_command(_verb)
