"""The command line: `python -m outbox VERB`, or `outbox VERB` when installed.

It reads the settings that everything else reads, and needs neither Celery nor Redis. Exit 0: done. 1: it was tried and
failed (no database, relay down, no such mail). 2: misuse (options, settings, a mail that cannot be one). Either way one
sentence on stderr says why; `drain` interrupted by a signal ends as the shell expects, with 128 and its number.
"""

import logging
import sys
from importlib import import_module
from typing import Any

import click
import sqlalchemy as sa

from outbox.cli.surroundings import explain
from outbox.errors import InvalidEmail, OutboxError, SettingsError
from outbox.printable import safe

_FAILED = 1
_MISUSE = 2

_VERBS = {
    "queue": "queueing:queue",
    "preview": "previewing:preview",
    "drain": "draining:drain",
    "list": "listing:list_",
    "show": "showing:show",
    "why": "showing:why",
    "requeue": "moving:requeue",
    "cancel": "moving:cancel",
    "resolve": "moving:resolve",
    "relays": "relaying:relays",
    "pause": "relaying:pause",
    "resume": "relaying:resume",
    "suppress": "suppressing:suppress",
    "stats": "gauges:stats",
    "audit": "auditing:audit",
    "events": "telling:events",
    "adopt": "adopting:adopt",
    "rotate-keys": "rotating:rotate_keys",
    "purge": "purging:purge",
    "doctor": "examining:doctor",
    "bounces": "bouncing:bounces",
    "erase": "erasing:erase",
    "completion": "completing:completion",
}
"""Where each is, in this package. It is imported when it is called: `list` need not wait for all that `drain` sends
with, nor a worker, which shows its tables as these do, for any of them."""


class _Sentence(click.ClickException):
    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(safe(message))
        self.exit_code = exit_code  # type: ignore[misc]  # click's is of the class; its main() reads the instance's


class _Outbox(click.Group):
    """Knows its verbs by name, and turns what Outbox and the database raise into a sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_VERBS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module, _, name = _VERBS.get(cmd_name, "").partition(":")
        if not module:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(f"outbox.cli.{module}"), name)
        return command

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
