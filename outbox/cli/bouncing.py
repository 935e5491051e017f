"""`outbox bounces`: what came back as mail."""

import stat
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import sqlalchemy as sa

from outbox import dsn, feedback
from outbox.cli.progress import progress
from outbox.cli.surroundings import open_database
from outbox.cli.terminal import count, json_option, put_json
from outbox.dsn import NotAReport
from outbox.errors import OutboxError
from outbox.printable import safe

OUTCOMES = ("recorded", "known", "unknown", "other", "unreadable")
"""What a message of the mailbox came to, the first that fits; `other` is no report."""

_SHOWN = 20
"""Unreadable messages that are named."""


@click.command(short_help="Read bounces and complaints from a Maildir.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@json_option
def bounces(directory: Path, *, as_json: bool) -> None:
    """Read delivery status notifications (RFC 3464), and complaints (RFC 5965), from the Maildir DIR.

    Each is kept with the mail that it speaks of, if it quotes that mail's Message-ID and names its recipient. An
    address that does not exist, or that complained, is suppressed.

    A report that was read is marked as seen, and not read again. Other mail is left as it is. Run it from cron, every
    few minutes, with a mailbox that the sender's address leads to.
    """
    if not all((directory / folder).is_dir() for folder in ("new", "cur")):
        raise click.UsageError(f"{directory} is no Maildir: name the folder that has new, cur and tmp in it")
    found: Counter[str] = Counter()
    unreadable: list[Path] = []
    with open_database() as (_, engine):
        paths = list(_unseen(directory))
        with progress("Reading:", len(paths)) as advance:
            for path in paths:
                came_to = _take(engine, path)
                found[came_to] += 1
                if came_to == "unreadable":
                    unreadable.append(path)
                advance(1)
    for path in unreadable[:_SHOWN]:
        click.echo(f"Skipped, for it cannot be read as a message: {safe(str(path.name))}", err=True)
    if as_json:
        put_json({name: found[name] for name in OUTCOMES})
    else:
        click.echo(
            f"{count(found['recorded'], 'report')} recorded, {found['known']:,} known already, {found['unknown']:,} of "
            f"no mail of ours; {found['other']:,} other and {found['unreadable']:,} unreadable messages."
        )


def _unseen(directory: Path) -> Iterator[Path]:
    """Of what nobody has read; the oldest first, as far as names tell."""
    for folder in ("new", "cur"):
        for path in sorted((directory / folder).iterdir()):
            if not path.name.startswith(".") and "S" not in path.name.partition(":2,")[2]:
                yield path


def _take(engine: sa.Engine, path: Path) -> str:
    """One message, in a transaction of its own; it is marked when that is committed."""
    try:
        events = dsn.events(_start_of(path), datetime.now(UTC))
    except (NotAReport, FileNotFoundError):  # another run, or a mail reader, was faster
        return "other"
    except OSError as error:
        raise _unowned(path, error) from error
    except Exception:  # noqa: BLE001 - strangers write here, and the parser raises what it likes, RecursionError too
        _mark(path)
        return "unreadable"
    with engine.begin() as connection:
        taken = feedback.take(connection, events)
    _mark(path)
    return next((outcome for outcome in feedback.Taken if taken[outcome]), feedback.Taken.UNKNOWN)


def _start_of(path: Path) -> bytes:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise NotAReport("no file")  # a pipe would be waited for, a link lead anywhere
    with path.open("rb") as file:
        return file.read(dsn.LARGEST)


def _mark(path: Path) -> None:
    """As a mail reader marks what it has shown: in `cur`, with the flag S among the others, in their order."""
    unique, _, flags = path.name.partition(":2,")
    try:
        path.rename(path.parent.parent / "cur" / f"{unique}:2,{''.join(sorted({*flags, 'S'}))}")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unowned(path, error) from error


def _unowned(path: Path, error: OSError) -> OutboxError:
    return OutboxError(f"{path}: {error.strerror}; run this as the user who owns the mailbox")
