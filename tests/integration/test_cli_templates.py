"""`outbox queue --template`: what an application's template says, from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from sqlalchemy.orm import Session

from outbox.cli import main
from outbox.models import EmailContent

Cli = Callable[..., Result]

TO = ["queue", "--to", "ada@x.example"]


@pytest.fixture
def cli(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("SMTP_FROM_EMAIL", "shop@x.example")
    welcome = Path("templates/email/welcome")
    welcome.mkdir(parents=True)
    (welcome / "subject.txt").write_text("Welcome, {{ name }}")
    (welcome / "body.html").write_text("<p>Hello, <b>{{ name }}</b></p>")
    (welcome / "subject.de.txt").write_text("Willkommen, {{ name }}")
    monkeypatch.setenv("OUTBOX_TEMPLATES", "templates/email")
    return lambda *arguments, **options: CliRunner().invoke(main, arguments, **options)


@pytest.mark.parametrize("where", ["ada.json", "-"])
def test_its_variables_come_from_json(cli: Cli, engine: sa.Engine, where: str) -> None:
    context = json.dumps({"name": "Ada"})
    Path("ada.json").write_text(context)
    queued = cli(*TO, "--template", "welcome", "--context", where, "--locale", "de", input=context)
    assert (queued.exit_code, queued.stderr) == (0, "")
    with Session(engine) as session:
        content = session.scalars(sa.select(EmailContent)).one()
        assert (content.subject, content.template, content.locale) == ("Willkommen, Ada", "welcome", "de")
        assert content.html == "<p>Hello, <b>Ada</b></p>"
        assert content.text == "Hello, **Ada**\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "say what: --subject with --text or --html-file, or --template with --context"),
        (
            ["--template", "welcome"],
            "Error: template='welcome': templates/email/welcome/subject.txt, line 1: 'name' is undefined",
        ),
        (["--template", "welcome", "--context", "none.json"], "'none.json': No such file"),
        (["--template", "welcome", "--context", "half.json"], "'half.json' is no JSON: "),
        (["--template", "welcome", "--context", "list.json"], "'list.json' is no JSON object, such as {\"name\": "),
        (["--template", "welcome", "--context", "ada.json", "--subject", "s"], "template='welcome' says it"),
        (["--context", "ada.json", "--subject", "s", "--text", "t"], "it is for a template: give template, too"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_refused(cli: Cli, engine: sa.Engine, arguments: list[str], sentence: str) -> None:
    Path("ada.json").write_text('{"name": "Ada"}')
    Path("half.json").write_text('{"name": ')
    Path("list.json").write_text("[1]")
    result = cli(*TO, *arguments)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(EmailContent)) == 0
