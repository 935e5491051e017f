"""`outbox preview`: what a template makes of its sample, before anybody is sent it."""

import tempfile
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text
from sqlalchemy.orm import Session

from outbox.cli.listing import MailTable, fields
from outbox.cli.preview_page import page
from outbox.cli.surroundings import open_database
from outbox.cli.terminal import cell, facts, json_option, put, put_exactly, put_json, table
from outbox.errors import InvalidTemplate
from outbox.preview import Preview
from outbox.preview import facts as facts_of
from outbox.preview import preview as render
from outbox.printable import safe, safe_lines
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.templates import Templates

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.command(short_help="Show what a template makes of its sample.")
@click.argument("name", required=False)
@click.option("--locale", help="Such as de or de-AT.")
@click.option("--html", is_flag=True, help="Print the HTML, and nothing else.")
@click.option("--text", is_flag=True, help="Print the text, and nothing else.")
@click.option("--open", "open_", is_flag=True, help="Show it in the browser: light and dark, at two widths.")
@click.option("--send-to", metavar="ADDRESS", help="Queue it, as a test, to this address.")
@json_option
def preview(
    name: str | None, locale: str | None, *, html: bool, text: bool, open_: bool, send_to: str | None, as_json: bool
) -> None:
    """Show what a template makes of its sample: subject, sizes and text. Without NAME: which templates there are.

    The sample is sample.json (or sample.de.json) beside the template: its variables, and an unsubscribe_url if its
    recipients can unsubscribe.
    """
    if html + text + open_ + bool(send_to or as_json) > 1:
        raise click.UsageError("--html, --text, --open and --send-to exclude each other, and --json the first three")
    settings = Settings.load()
    templates = Templates(settings.outbox_templates)
    if name is None:
        if html or text or open_ or send_to or locale:
            raise click.UsageError("which template? Give its name; without one, `outbox preview` lists them all")
        _put_all(templates, as_json=as_json)
        return
    shown = render(templates, name, locale, settings)
    if html or text:
        put_exactly(_part(shown, "html" if html else "text"))
    elif open_:
        _open(shown)
    elif send_to:
        _send(shown, send_to, as_json=as_json)
    elif as_json:
        put_json(_everything(shown))
    else:
        _put(shown)


def _put_all(templates: Templates, *, as_json: bool) -> None:
    rows = [(name, templates.locales(name), _has_sample(templates, name)) for name in templates.names()]
    if as_json:
        put_json([{"name": name, "locales": locales, "sample": sample} for name, locales, sample in rows])
    elif not rows:
        click.echo("No templates: OUTBOX_TEMPLATES names the folders that hold them.", err=True)
    else:
        made = table("Template", "Locales", "Sample")
        for name, locales, sample in rows:
            made.add_row(cell(name), cell(", ".join(locales) or "-"), cell("yes" if sample else "no"))
        put(made)


def _has_sample(templates: Templates, name: str) -> bool:
    try:
        templates.sample(name)
    except InvalidTemplate:
        return False
    return True


def _put(shown: Preview) -> None:
    parts: list[RenderableType] = [facts(facts_of(shown))]
    if shown.warning:
        parts += ["", Text(shown.warning, style="yellow")]
    if shown.text:
        parts += ["", Text(safe_lines(shown.text.rstrip("\n")))]
    put(*parts)


def _everything(shown: Preview) -> dict[str, Any]:
    return asdict(shown) | {
        "text_bytes": shown.text_bytes,
        "html_bytes": shown.html_bytes,
        "warning": shown.warning,
    }


def _part(shown: Preview, name: str) -> bytes:
    value: str | None = getattr(shown, name)
    if value is None:
        raise InvalidTemplate("template", shown.name, f"it has no body.{'txt' if name == 'text' else 'html'}")
    return value.encode()


def _open(shown: Preview) -> None:
    # Only its owner may read it: a sample may be taken from life. It is left there, for the browser to reload.
    with tempfile.NamedTemporaryFile("w", prefix="outbox-", suffix=".html", delete=False, encoding="utf-8") as file:
        file.write(page(shown))
    url = Path(file.name).as_uri()
    if not webbrowser.open(url):
        click.echo("No browser was found: open this yourself.", err=True)
    click.echo(safe(url))


def _send(shown: Preview, address: str, *, as_json: bool) -> None:
    with open_database() as (settings, engine), Session(engine) as session:
        first = EmailService(session, settings).queue_email(address, **shown.test_mail)
        session.commit()
        if as_json:
            put_json(fields(first))
        else:
            put(MailTable([first]))
