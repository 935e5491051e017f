"""Moves on a filter, the record of who did what, JSON from every verb, and the live view."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from rich.console import Console

from outbox import auditing, pulse
from outbox.cli import live, main
from outbox.cli import progress as progressing
from outbox.cli.surroundings import who
from outbox.database import reading
from outbox.models import EmailEvent
from outbox.settings import Settings
from outbox.states import DeadReason, Outcome, Status
from tests import rows, scenes
from tests.tcp_proxy import Proxy

Cli = Callable[..., Result]

DEAD: dict[str, Any] = {"status": Status.DEAD, "dead_reason": DeadReason.REJECTED, "finalized_at": rows.from_now(-5)}


@pytest.fixture
def cli(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("SMTP_HOST", "mx1.example")
    monkeypatch.setenv("SMTP_FROM_EMAIL", "shop@example.com")
    return lambda *arguments, **options: CliRunner().invoke(main, arguments, **options)


def done(result: Result) -> str:
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


# --- Moves on a filter, on record


def test_a_move_on_a_filter_counts_asks_and_is_on_record(
    cli: Cli, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "BATCH", 2)
    news = rows.add(engine, 5, category="news", **DEAD)
    (other,) = rows.add(engine, category="receipts", **DEAD)
    refused = cli("requeue", "--category", "news", "--since", "2h", input="n\n")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Requeue 5 mails (category news, since ")
    assert set(rows.statuses(engine, news)) == {"dead"}

    agreed = cli("requeue", "--category", "news", "--dead-reason", "rejected", input="y\n")
    assert (agreed.exit_code, agreed.stdout) == (0, "5 mails requeued.\n")
    assert rows.statuses(engine, [*news, other]) == ["pending"] * 5 + ["dead"]
    assert json.loads(done(cli("cancel", "--category", "news", "--yes", "--json"))) == {
        "count": 5, "found": 5, "filter": {"category": "news"},
    }  # fmt: skip
    assert done(cli("cancel", "--category", "news")) == "0 mails cancelled.\n"

    told = json.loads(done(cli("audit", "--json", "--mail", str(news[0]))))
    assert [(line["who"], line["action"]) for line in told] == [(who(), "cancel"), (who(), "requeue")]
    assert told[1]["detail"] == {"filter": {"category": "news", "dead reason": "rejected"}}
    shown = done(cli("audit", "--action", "requeue", "--who", who().upper(), "--limit", "9", "--since", "1h"))
    assert len(shown.splitlines()) == 6
    assert "dead reason rejected, category news" in shown
    assert cli("audit", "--target", "relay").stderr == "Nothing is on record.\n"
    assert cli("audit", "--limit", "2").stderr == f"--before {told[0]['id'] + 3} shows what was before.\n"


def test_resolve_on_a_filter(cli: Cli, engine: sa.Engine) -> None:
    ids = rows.add(engine, 3, status=Status.UNCERTAIN, category="news")
    assert done(cli("resolve", "dead", "--category", "news", "--yes")) == "3 mails resolved.\n"
    assert rows.statuses(engine, ids) == ["dead"] * 3
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE email_contents SET text = NULL, purged_at = created_at"))
    left = cli("requeue", "--status", "dead", "--yes")
    assert (left.exit_code, left.stdout) == (0, "0 mails requeued.\n")
    assert left.stderr == "3 could not be: `outbox requeue ID` says why.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["requeue"], "which mails? Give their IDs, or options that find them"),
        (["requeue", "1", "--status", "dead"], "give IDs or options that find mails, not both"),
        (["cancel", "--status", "sent"], "no sent mail can be cancelled: pending can"),
        (["list", "--since", "9999999w"], "'9999999w' is not an ISO 8601 time"),
        (["list", "--since", "999999w"], "'999999w' is before all time"),
        (["stats", "--watch", "--json"], "--watch is for eyes, --json for programs: keep one"),
        (["stats", "--watch", "0"], "'0': give seconds, from 0.5 to 3600"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_misuse(cli: Cli, arguments: list[str], sentence: str) -> None:
    result = cli(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_every_deed_of_the_command_line_is_on_record(cli: Cli) -> None:
    for verb in (
        ["pause", "--reason", "moving"], ["resume"], ["suppress", "a@b.example", "--reason", "x"],
        ["suppress", "--remove", "a@b.example"], ["adopt", "--yes"], ["purge"], ["erase", "a@b.example", "--yes"],
    ):  # fmt: skip
        done(cli(*verb))
    actions = [line["action"] for line in json.loads(done(cli("audit", "--json")))]
    assert actions == ["erase", "purge", "adopt", "unsuppress", "suppress", "resume", "pause"]


def test_show_knows_what_came_afterwards(cli: Cli, engine: sa.Engine) -> None:
    (id_,) = rows.add(engine, **DEAD)
    with engine.begin() as connection:
        told = {"kind": "bounced", "provider": "ses", "provider_event_id": "7", "said": "550 \x1b[2J who?"}
        connection.execute(sa.insert(EmailEvent).values(email_id=id_, occurred_at=rows.from_now(-3), **told))
        auditing.requeue(connection, [id_], "ada", reason="asked")
    shown = done(cli("show", str(id_)))
    assert "bounced  ses  550 \\x1b[2J who?" in shown
    assert "ada  requeue  mail 1  reason asked" in shown
    found = json.loads(done(cli("show", str(id_), "--json")))
    assert (found["feedback"][0]["kind"], found["audit"][0]["who"]) == ("bounced", "ada")


# --- JSON


EMPTY = (
    ["list"], ["stats"], ["relays"], ["suppress", "--list"], ["audit"], ["events"], ["drain", "--dry-run"],
    ["purge", "--dry-run"], ["purge"], ["adopt", "--yes"], ["erase", "a@b.example", "--yes"],
    ["erase", "a@b.example", "--dry-run"], ["requeue", "--status", "dead"], ["cancel", "--since", "2d"],
    ["resolve", "sent", "--status", "uncertain"], ["pause", "--reason", "x"], ["resume"],
    ["suppress", "a@b.example", "--reason", "x"], ["completion", "bash"], ["drain"],
)  # fmt: skip
FAILED = (["requeue", "9"], ["cancel", "9"], ["resolve", "9", "sent"])
OF_A_MAIL = (["show", "1"], ["why", "1"])
ELSEWHERE = {"queue", "preview", "rotate-keys", "doctor", "bounces"}
"""Verbs whose own tests read their JSON."""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_json_of_every_verb(cli: Cli, engine: sa.Engine) -> None:
    for verb in EMPTY:
        json.loads(done(cli(*verb, "--json")))
    for verb in FAILED:
        failed = cli(*verb, "--json")
        assert (failed.exit_code, list(json.loads(failed.stdout)["refused"])) == (1, ["9"])
    rows.add(engine)
    for verb in OF_A_MAIL:
        json.loads(done(cli(*verb, "--json")))
    assert (
        set(main.list_commands(click.Context(main))) <= {verb[0] for verb in (*EMPTY, *FAILED, *OF_A_MAIL)} | ELSEWHERE
    )


# --- Progress and completion


def test_long_work_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progressing, "LINE_SECONDS", 0.0)
    with progressing.progress("Deleting:", 2000) as advance:
        advance(500)
        advance(500)
    with progressing.progress("Counting:", None) as advance:
        advance(7)
    assert capsys.readouterr().err == "Deleting: 500 of 2,000\nDeleting: 1,000 of 2,000\nCounting: 7\n"


def test_bash_completes_verbs_and_options() -> None:
    assert "_OUTBOX_COMPLETE=bash_complete" in CliRunner().invoke(main, ["completion", "bash"]).stdout
    asked = {"_OUTBOX_COMPLETE": "bash_complete", "COMP_WORDS": "outbox requeue --dead", "COMP_CWORD": "2"}
    completed = CliRunner(env=asked).invoke(main, prog_name="outbox")
    assert completed.stdout == "plain,--dead-reason\n"


# --- The live view


def seen(engine: sa.Engine, width: int, **away: str) -> str:
    settings = Settings.load(smtp_host="mx1.example", smtp_port=587)
    console = Console(width=width, height=40, record=True, color_system=None)
    with reading(engine) as connection, console.capture() as captured:
        console.print(live.view(live.look(connection, settings), settings, 2.0, **away))
    shown = captured.get()
    assert max(map(len, shown.splitlines())) <= width
    return shown


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_live_view_tells_health_from_fire(engine: sa.Engine) -> None:
    scenes.empty(engine)
    assert "● All is well." in seen(engine, 80)
    scenes.burning(engine)
    for width in (80, 120):
        shown = seen(engine, width)
        for words in ("✖ the oldest due mail has waited for", "1 silent", "mx1.example:587 open", "✖ beat"):
            assert words in shown
    assert "✖ the database failed: gone: trying again" in seen(engine, 80, away="the database failed: gone")


def test_the_pulse(engine: sa.Engine) -> None:
    rows.add(engine, 8, status=Status.SENT, sent_at=rows.from_now(-1), finalized_at=rows.from_now(-1))
    rows.add(engine, 4, status=Status.SENT, sent_at=rows.from_now(-60), finalized_at=rows.from_now(-60))
    (dead,) = rows.add(engine, **DEAD | {"finalized_at": rows.from_now(-5)})  # not since the tests were collected
    with engine.begin() as connection:
        rows.add_attempt(connection, dead, 1, Outcome.REJECTED)
        found = pulse.take(connection)
    assert (found.sent[-1], sum(found.sent), len(found.sent)) == (8, 12, pulse.STEPS)
    assert (found.ended, found.unsent) == ({"sent": 12, "dead": 1}, {"rejected": 1})
    assert found.rate == pytest.approx(8 / 12)


def test_watching_survives_the_database_and_ends_with_ctrl_c(direct: sa.Engine, proxy: Proxy) -> None:
    """As a process on a terminal: the database goes, it says so; it is back, it goes on; Ctrl-C, and it is over."""
    url = direct.url.set(port=proxy.port).render_as_string(hide_password=False)
    terminal, other = pty.openpty()
    environment = os.environ | {"DATABASE_URL": url, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    command = [sys.executable, "-m", "outbox", "stats", "--watch", "0.5"]
    with subprocess.Popen(command, stdin=other, stdout=other, stderr=other, env=environment) as process:
        try:
            read_until(terminal, "All is well")
            proxy.refuse()
            proxy.cut()
            read_until(terminal, "trying again")
            proxy.restore()
            read_until(terminal, "All is well")
            process.send_signal(signal.SIGINT)
            rest = read_until(terminal, "\x1b[?1049l")
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert "Traceback" not in rest
    os.close(terminal)
    os.close(other)


def read_until(terminal: int, words: str) -> str:
    read, until = "", time.monotonic() + 60
    while words not in read:
        assert time.monotonic() < until, read
        if select.select([terminal], [], [], 0.2)[0]:
            read += os.read(terminal, 65536).decode(errors="replace")
    return read
