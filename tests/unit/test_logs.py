"""A line of the log, as JSON and for people; and the list of all events in docs/operations.md."""

import ast
import json
import logging
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.logs import _Handler, _tell_uncaught, formatter
from app.logs import log as uncaught
from app.settings import AppSettings
from outbox.logs import on_behalf_of, tell

ROOT = Path(__file__).parents[2]
log = logging.getLogger("tests.logs")

FORGED = "no\n2026-11-30T00:00:00.000Z error    mail.dead    mail 1 is dead\x1b[2J"

Lines = Callable[..., Callable[[], str]]


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Lines]:
    """Writes to a log of these settings; what it returns reads it."""
    handlers: list[logging.Handler] = []
    descriptors: list[int] = []

    def start(*, people: bool = False, **settings: Any) -> Callable[[], str]:
        path = tmp_path / f"log-{len(descriptors)}"
        descriptors.append(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY))
        handler = _Handler(descriptors[-1])
        handler.setFormatter(formatter(AppSettings.load(**settings), people=people))
        handlers.append(handler)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        return path.read_text

    yield start
    for handler in handlers:
        log.removeHandler(handler)
    for descriptor in descriptors:
        os.close(descriptor)


def say(why: str = "550 <ada@example.com>") -> None:
    with on_behalf_of("req-1"):
        tell(log, logging.WARNING, "mail.dead", "mail %(mail_id)d is dead: %(why)s", mail_id=17, why=why, relay="mx:25")


def test_a_line_of_json_has_the_event_its_fields_and_the_request(written: Lines) -> None:
    read = written(log_format="json")
    say()
    line = json.loads(read())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "warning",
        "event": "mail.dead",
        "message": "mail 17 is dead: 550 <a***@example.com>",
        "logger": "tests.logs",
        "request_id": "req-1",
        "mail_id": 17,
        "why": "550 <a***@example.com>",
        "relay": "mx:25",
    }


def test_a_line_for_people_says_nothing_twice(written: Lines) -> None:
    read = written(log_format="pretty")
    say()
    time, rest = read().split(" ", 1)
    assert len(time) == len("2026-11-30T00:00:00.000Z")
    assert rest == ("warning  mail.dead        mail 17 is dead: 550 <a***@example.com> request_id=req-1 relay=mx:25\n")


def test_a_terminal_gets_colours_and_a_file_none(written: Lines) -> None:
    terminal, file = written(people=True), written()
    say()
    assert "\x1b[33mwarning" in terminal()
    assert json.loads(file())["event"] == "mail.dead"


def test_lines_of_others_are_as_ours(written: Lines) -> None:
    read = written(log_format="json", smtp_user="ada", smtp_password="hunter2x")
    log.info("login as %s with %s failed", "ada@example.com", "hunter2x")
    line = json.loads(read())
    assert line["message"] == "login as a***@example.com with *** failed"
    assert "event" not in line


def test_addresses_may_be_allowed_and_secrets_may_not(written: Lines) -> None:
    read = written(log_format="json", log_addresses=True, smtp_user="ada", smtp_password="hunter2x")
    log.info("ada@example.com hunter2x")
    assert json.loads(read())["message"] == "ada@example.com ***"


@pytest.mark.parametrize("shape", ["json", "pretty"])
def test_nobody_forges_a_line(written: Lines, shape: str) -> None:
    read = written(log_format=shape)
    say(FORGED)
    log.warning("%s", FORGED)
    tell(log, logging.ERROR, "x", "broken", exc_info=ValueError(FORGED))
    text = read()
    assert "\x1b" not in text
    began = [line for line in text.splitlines() if not line.startswith("  | ")]
    assert len(began) == 3
    assert not any(re.match(r".{24} error +mail\.dead", line) for line in text.splitlines())


def test_an_exception_is_one_field_without_the_locals(written: Lines) -> None:
    read = written(log_format="json")
    secret = "in a local"
    try:
        try:
            dict[str, str]()["ada@example.com"]
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError:
        log.exception("broken")
    (line,) = read().splitlines()
    outer, inner = json.loads(line)["exception"]
    assert (outer["exc_type"], outer["exc_value"]) == ("ValueError", "outer")
    assert (inner["exc_type"], inner["exc_value"]) == ("KeyError", "'a***@example.com'")
    assert outer["frames"][0]["name"] == "test_an_exception_is_one_field_without_the_locals"
    assert secret not in line


def test_a_record_that_makes_no_sense_is_told_of_without_its_words(written: Lines) -> None:
    read = written(log_format="json")
    log.propagate = False  # pytest has a handler that raises
    log.warning("%d", "ada@example.com")
    log.propagate = True
    line = json.loads(read())
    assert line["event"] == "log.broken"
    assert "test_logs.py" in line["message"]
    assert "ada" not in read()


def test_what_nobody_caught_is_a_line(written: Lines) -> None:
    read = written(log_format="json")
    uncaught.addHandler(log.handlers[-1])
    _tell_uncaught(ValueError, ValueError("ada@example.com"), None)
    uncaught.removeHandler(log.handlers[-1])
    line = json.loads(read())
    assert (line["event"], line["thread"], line["why"]) == (
        "thread.ended",
        "MainThread",
        "ValueError('a***@example.com')",
    )
    assert line["exception"][0]["exc_type"] == "ValueError"


def test_without_our_formatter_a_line_is_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    say()
    (record,) = caplog.records
    assert record.getMessage() == "mail 17 is dead: 550 <ada@example.com>"
    assert vars(record)["event"] == "mail.dead"
    assert vars(record)["fields"]["relay"] == "mx:25"
    assert record.filename == "test_logs.py"


def _told() -> dict[str, tuple[set[str], set[str]]]:
    """Event -> its levels, its fields: of every call of `tell` in the code."""
    found: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for folder in ("outbox", "app", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in {"tell", "logs.tell"}:
                    if not (len(node.args) == 4 and isinstance(node.args[2], ast.Constant)):
                        continue  # another function of that name
                    levels, fields = found[str(node.args[2].value)]
                    levels.update(re.findall(r"logging\.([A-Z]+)", ast.unparse(node.args[1])))
                    named = {str(word.arg) for word in node.keywords if word.arg not in {None, "exc_info"}}
                    fields.update(named | set(re.findall(r"%\((\w+)\)", ast.unparse(node.args[3]))))
    return found


def test_the_table_of_events_and_the_code_agree() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    logs = text[text.index("\n## Logs") :]
    logs = logs[: logs.index("\n## ", 4)]
    listed = {
        event: set(re.findall(r"`(\w+)`", fields)) - {"request_id"}
        for event, fields in re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|[^|]*\|([^|]*)\|", logs, re.MULTILINE)
    }
    told = {event: fields - {"request_id"} for event, (_, fields) in _told().items()}
    assert listed == told


def test_every_line_of_ours_is_an_event() -> None:
    """`log.info(...)` has no name to be searched for by."""
    bare = re.compile(r"\b(?:log|logger)\.(?:debug|info|warning|error|exception|critical)\(")
    for folder in ("outbox", "app", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.parts[-2:] != ("outbox", "signals.py"):  # an example in its docstring
                assert not bare.search(path.read_text()), f"{path}: say it with outbox.logs.tell"


if __name__ == "__main__":  # the table's lines as the code has them, to be pasted
    for name, (of_levels, of_fields) in sorted(_told().items()):
        sys.stdout.write(f"| `{name}` | {', '.join(sorted(of_levels))} | {', '.join(sorted(of_fields))} |\n")
