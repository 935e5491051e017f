"""What the command line prints and understands, without a database."""

import json
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from rich.text import Text

from outbox.cli import main
from outbox.cli.queueing import queue
from outbox.cli.terminal import facts, put, put_json, safe, safe_lines
from outbox.times import distance, duration

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [red]text[/red] :smile:", "plain [red]text[/red] :smile:"),
        ("Grüße, 山 🎉", "Grüße, 山 🎉"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\x7f\0", r"\x7f\x00"),
        ("abc\u202ecba", r"abc\u202ecba"),
        ("line\u2028separator", r"line\u2028separator"),
        ("10\u00a0000", "10 000"),
        ("\udc80", r"\udc80"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str, shown: str) -> None:
    assert safe(text) == shown


def test_a_text_keeps_its_lines_and_nothing_else() -> None:
    assert safe_lines("a\r\nb\tc\n\x1b[2Jd\re") == "a\nb       c\n\\x1b[2Jd\\re"


def test_names_are_as_unsafe_as_values(capsys: pytest.CaptureFixture[str]) -> None:
    put(facts([("\x1b[2J[bold]", "\x1b[2J[bold]"), ("absent", None)]))
    assert capsys.readouterr().out == "\\x1b[2J[bold]  \\x1b[2J[bold]\n"


def test_piped_output_is_not_cut_and_ends_its_lines_without_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    put(Text("x" * 500 + "   "), Text("", style="red"), Text("y"))
    assert capsys.readouterr().out == "x" * 500 + "\n\ny\n"


def test_json_holds_no_character_to_obey(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"subject": "\x1b[31m\x7f\x9b\u202e", "at": datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))}
    put_json(value)
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert printed.isascii()
    assert json.loads(printed) == value | {"at": "2026-01-01T00:00:00+00:00"}
    with pytest.raises(TypeError, match="no form in JSON"):
        put_json(Path())


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.9, "0 s"), (59.9, "59 s"), (60, "1 min"), (7199, "1 h"), (86400, "1 d"), (9e7, "1041 d")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
    assert distance(NOW + timedelta(seconds=seconds), NOW) == f"in {shown}"
    assert distance(NOW - timedelta(seconds=seconds), NOW) == f"{shown} ago"


@pytest.mark.parametrize("name", ["scheduled_at", "expires_at"])
def test_a_time_needs_a_zone(name: str) -> None:
    (option,) = (parameter for parameter in queue.params if parameter.name == name)
    context = click.Context(queue)
    for text in ("2026-12-24T18:00+01:00", "2026-12-24T17:00Z"):
        assert option.process_value(context, text) == datetime(2026, 12, 24, 17, tzinfo=UTC)
    assert option.process_value(context, None) is None
    with pytest.raises(click.BadParameter, match=r"no time zone: write 2026-12-24T18:00[+-]\d\d:\d\d if this machine"):
        option.process_value(context, "2026-12-24T18:00")
    with pytest.raises(click.BadParameter, match="'tomorrow' is not an ISO 8601 time"):
        option.process_value(context, "tomorrow")


@pytest.mark.parametrize("verb", [[], *([verb] for verb in main.list_commands(click.Context(main)))])
def test_help(verb: list[str]) -> None:
    result = CliRunner().invoke(main, [*verb, "-h"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize(
    ("environment", "code", "sentence"),
    [
        ({"DATABASE_URL": "nonsense"}, 2, "DATABASE_URL: not a database URL: use postgresql:// or sqlite:///"),
        (
            {"DATABASE_URL": "mysql://u:secret@x/y"},
            2,
            "DATABASE_URL=mysql://u:***@x/y: use postgresql:// or sqlite:///",
        ),
        ({"SMTP_PORT": "0"}, 2, "SMTP_PORT or MAIL_PORT='0': Input should be greater than 0"),
        ({"SMTP_USE_TLS": "1", "SMTP_USE_SSL": "1"}, 2, "SMTP_USE_TLS (STARTTLS, port 587) and SMTP_USE_SSL"),
        ({"DATABASE_URL": "sqlite:///no/such.db"}, 1, "there is no such file; run `python -m alembic upgrade heads`"),
    ],
)
@pytest.mark.parametrize(
    "verb",
    [["drain"], ["list"], ["show", "1"], ["stats"], ["why", "1"], ["requeue", "1"], ["relays"], ["suppress", "--list"]],
)
def test_settings_that_cannot_work(environment: dict[str, str], code: int, sentence: str, verb: list[str]) -> None:
    result = CliRunner(env=environment).invoke(main, verb)
    _ends_with_a_sentence(result, code, sentence)
    assert not list(Path().iterdir()), "SQLite has made a file"


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # how Python spells "not installed"
    result = CliRunner(env={"DATABASE_URL": "postgresql://x/y"}).invoke(main, ["stats"])
    _ends_with_a_sentence(result, 2, "pip install 'psycopg[binary]'")


def test_a_database_that_does_not_answer() -> None:
    result = CliRunner(env={"DATABASE_URL": "postgresql://127.0.0.1:1/x"}).invoke(main, ["stats"])
    _ends_with_a_sentence(result, 1, "the database failed: connection failed")


def _ends_with_a_sentence(result: Result, code: int, sentence: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert sentence in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
