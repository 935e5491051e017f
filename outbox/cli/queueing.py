"""`outbox queue`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from sqlalchemy.orm import Session

from outbox.attachments import Attachment
from outbox.cli.listing import MailTable, fields
from outbox.cli.moments import moment
from outbox.cli.surroundings import open_database
from outbox.cli.terminal import json_option, put, put_json
from outbox.service import EmailService
from outbox.states import OnUncertain, Priority


class _TextFile(click.File):
    """UTF-8 text from a file, or from stdin as `-`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # type: ignore[override]
        with super().convert(value, param, ctx) as file:
            data: bytes = file.read()
        try:
            return data.decode("utf-8-sig")  # an editor's byte order mark is not part of the text
        except UnicodeDecodeError as error:
            self.fail(f"{value!r} is not UTF-8: {error.reason} at byte {error.start}", param, ctx)


class _ContextFile(_TextFile):
    """A JSON object from a file, or from stdin as `-`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:  # type: ignore[override]
        try:
            context = json.loads(super().convert(value, param, ctx))
        except (ValueError, RecursionError) as error:
            self.fail(f"{value!r} is no JSON: {error}", param, ctx)
        if not isinstance(context, dict):
            self.fail(f'{value!r} is no JSON object, such as {{"name": "Ada"}}', param, ctx)
        return context


def _headers(_: click.Context, parameter: click.Parameter, lines: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise click.BadParameter(f"{line!r} is not of the form 'Name: value'", param=parameter)
        if name in headers:
            raise click.BadParameter(f"{name!r} is given twice", param=parameter)
        headers[name] = value.strip()
    return headers


def _read_attachments(_: click.Context, parameter: click.Parameter, paths: Sequence[Path]) -> list[Attachment]:
    try:
        return [_read(path) for path in paths]
    except OSError as error:
        raise click.BadParameter(str(error), param=parameter) from error


def _read(path: Path) -> Attachment:
    with path.open("rb") as file:  # a stream has a bound; `/dev/zero` has none
        return Attachment(path.name, file)


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_ADDRESS = "ADDRESS"
_TIME = "TIME"


@click.command()
@click.option(
    "--to", multiple=True, required=True, metavar=_ADDRESS, help="ada@example.com or 'Ada <ada@example.com>'."
)
@click.option("--cc", multiple=True, metavar=_ADDRESS)
@click.option("--bcc", multiple=True, metavar=_ADDRESS, help="Named in no header.")
@click.option("--from", "from_email", metavar=_ADDRESS, help="[default: SMTP_FROM_EMAIL]")
@click.option("--reply-to", multiple=True, metavar=_ADDRESS)
@click.option("--subject", help="Needed without --template, which has its own.")
@click.option("--text", help="The text itself.")
@click.option("--text-file", type=_TextFile("rb"), metavar="FILE", help="The text from a file; from stdin with -.")
@click.option("--html-file", "html", type=_TextFile("rb"), metavar="FILE")
@click.option("--template", metavar="NAME", help="Subject, text and HTML: `outbox preview` lists them.")
@click.option(
    "--context", type=_ContextFile("rb"), metavar="FILE", help="The template's variables, JSON; from stdin with -."
)
@click.option("--locale", help="Of the template, such as de or de-AT.")
@click.option("--attach", "attachments", multiple=True, type=_FILE, callback=_read_attachments, metavar="FILE")
@click.option("--header", "headers", multiple=True, callback=_headers, metavar="'NAME: VALUE'")
@click.option("--priority", type=click.Choice([lane.label for lane in Priority]), default="normal", show_default=True)
@click.option(
    "--at",
    "scheduled_at",
    callback=moment,
    metavar=_TIME,
    help="Not before: ISO 8601 with a zone, 2026-12-24T18:00+01:00.",
)
@click.option("--expires", "expires_at", callback=moment, metavar=_TIME, help="Not after.")
@click.option("--category", help="A label of your own, to find it by.")
@click.option("--key", "idempotency_key", help="Queue this once, however often the command is repeated.")
@click.option(
    "--sensitive",
    is_flag=True,
    help="Encrypt what it says, and wipe it when it is sent. Others see the command line: use - as the FILE.",
)
@click.option("--max-attempts", type=int, help="[default: OUTBOX_MAX_ATTEMPTS]")
@click.option(
    "--on-uncertain",
    type=click.Choice([str(choice) for choice in OnUncertain]),
    help="If the relay may have had it already: send again, or wait for a person. [default: OUTBOX_ON_UNCERTAIN]",
)
@json_option
def queue(text: str | None, text_file: str | None, *, as_json: bool, **mail: Any) -> None:
    """Queue a mail, to each of its recipients.

    It goes with the workers' next drain, or with `outbox drain`. These options can be repeated: --to, --cc, --bcc,
    --reply-to, --attach, --header.
    """
    if text is not None and text_file is not None:
        raise click.UsageError("--text and --text-file exclude each other: keep one")
    if mail["subject"] is None and mail["template"] is None:
        raise click.UsageError("say what: --subject with --text or --html-file, or --template with --context")
    with open_database() as (settings, engine), Session(engine) as session:
        service, key = EmailService(session, settings), mail["idempotency_key"]
        is_new = key is None or not service.taken([key])
        first = service.queue_email(text=text if text_file is None else text_file, **mail)
        session.commit()
        content = first.content
        rows = list(content.recipients)
        if as_json:
            put_json({"new": is_new, "message_id": content.message_id, "mails": [fields(row) for row in rows]})
            return
        put(MailTable(rows))
    if not is_new:
        click.echo("This key has been used for this mail before: nothing was added.", err=True)
