"""The command line against real databases and a real SMTP server; where it matters, as a process of its own."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from sqlalchemy.orm import Session

from outbox import claims
from outbox.cli import main
from outbox.database import SQLITE_BUSY_SECONDS
from outbox.models import Base, EmailAttempt, EmailContent, QueuedEmail
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.states import Outcome, Priority, Stage, Status
from tests import rows
from tests.smtp_script import Delay, Event, Reaction, Reply, by_recipient
from tests.smtp_server import SmtpServer

ROW_KEYS = [
    "id", "content_id", "recipient", "kind", "subject", "category", "status", "priority", "scheduled_at",
    "next_attempt_at", "expires_at", "attempts", "max_attempts", "claims", "on_uncertain", "claimed_by",
    "lease_expires_at", "last_code", "last_error", "dead_reason", "request_id", "created_at", "sent_at", "finalized_at",
    "relay", "waiting_for", "supersedes", "collapse",
]  # fmt: skip

CONTENT_KEYS = [
    "id", "message_id", "date", "sender", "to_header", "cc_header", "reply_to", "subject", "text", "html", "headers",
    "template", "locale", "category", "idempotency_key", "payload_hash", "request_id", "sensitive", "size",
    "created_at", "purged_at", "sealed", "contexts",
]  # fmt: skip

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[bold red]x[/bold red]"
"""Sets the title, clears the screen, colours it, turns the reading direction round; and rich's own markup."""

Cli = Callable[..., Result]


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer(by_recipient()) as server:
        yield server


@pytest.fixture
def cli(database_url: str, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a verb in this process; the environment stands for processes, too."""
    _environment(monkeypatch, database_url, smtp)
    return lambda *arguments, **options: CliRunner().invoke(main, arguments, **options)


@pytest.mark.parametrize("verb", [["list"], ["stats"], ["show", "1"], ["drain", "--dry-run"]], ids=" ".join)
def test_what_only_looks_does_not_wait_for_a_writer(cli: Cli, engine: sa.Engine, verb: list[str]) -> None:
    assert rows.add(engine) == [1]
    with engine.begin() as connection:  # with SQLite, it has the write lock
        connection.execute(sa.update(QueuedEmail).values(category="held"))
        started = time.monotonic()
        result = cli(*verb)
        assert time.monotonic() - started < SQLITE_BUSY_SECONDS / 3
    assert (result.exit_code, result.stderr) == (0, "")


def test_queue_drain_and_show_as_processes(cli: Cli, smtp: SmtpServer, engine: sa.Engine) -> None:
    Path("page.html").write_text("<p>Hello <b>Ada</b></p>")
    Path("bill.pdf").write_bytes(bytes(range(256)))
    queued = _outbox(
        "queue", "--to", "Ada <ada@x.example>", "--cc", "defer-451@x.example", "--bcc", "reject-550@x.example",
        "--reply-to", "help@x.example", "--subject", "Grüße", "--text-file", "-", "--html-file", "page.html",
        "--attach", "bill.pdf", "--header", "X-Order: 7: new", "--priority", "high", "--category", "bill",
        "--max-attempts", "3", "--on-uncertain", "hold", "--json", stdin="\ufeffHello, Ada\n",
    )  # fmt: skip
    made = json.loads(queued.stdout)
    assert made["new"] is True
    assert [(mail["recipient"], mail["kind"], mail["status"]) for mail in made["mails"]] == [
        ("ada@x.example", "to", "pending"),
        ("defer-451@x.example", "cc", "pending"),
        ("reject-550@x.example", "bcc", "pending"),
    ]

    drained = _outbox("drain")
    assert drained.stdout == "1 sent, 1 to be tried again, 1 dead, 0 uncertain.\n"
    (mail,) = smtp.mails
    assert mail.recipient == "ada@x.example"

    ada, deferred, rejected = (row["id"] for row in made["mails"])
    assert drained.stderr == f"mail {rejected} is dead, rejected: rcpt: 5.0.0 as you wish\n"
    assert cli("show", str(ada), "--source").stdout_bytes == mail.data
    assert cli("show", str(ada), "--html").stdout == "<p>Hello <b>Ada</b></p>"
    shown = _outbox("show", str(ada)).stdout
    for words in (
        "sent", "Ada <ada@x.example>", "Grüße", "X-Order", "7: new", "bill.pdf (application/pdf)", "high", "of 3",
        "hold", "2.0.0 queued", made["message_id"], "help@x.example", "Hello, Ada", "Other recipients",
        "reject-550@x.example",
    ):  # fmt: skip
        assert words in shown
    assert "\ufeff" not in shown
    assert "dead (rejected)" in cli("show", str(rejected)).stdout
    assert re.search(r"deferred  rcpt   451   \S+ as you wish", cli("show", str(deferred)).stdout)
    with engine.begin() as connection:
        headers = {"X-Order": "7: new", "Auto-Submitted": "auto-generated"}
        assert connection.scalar(sa.select(EmailContent.headers)) == headers


def test_drain_ends_where_everything_is_deferred(cli: Cli, smtp: SmtpServer, engine: sa.Engine) -> None:
    _queue(engine, *(f"defer-450+{number}@x.example" for number in range(25)))
    result = cli("drain", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "sent": 0, "pending": 25, "dead": 0, "uncertain": 0, "taken_back": 0, "problem": None, "signal": None,
    }  # fmt: skip
    assert cli("drain").stdout == "Nothing is due.\n"


def test_a_relay_that_is_down(cli: Cli, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_PORT", "1")
    _queue(engine, *(f"{number}@x.example" for number in range(15)))
    _queue(engine, "low@x.example", priority="low")
    result = cli("drain")
    assert result.exit_code == 1
    assert "Error: no relay takes mail: 127.0.0.1:1 is down (connect: " in result.stderr
    assert "Connection refused" in result.stderr
    rows = _rows(engine)
    assert {(row.status, row.attempts) for row in rows} == {("pending", 0)}
    assert sum(row.claims for row in rows) == 1, "it tried one mail, and handed the others back untried"

    again = cli("drain", "--json")
    assert again.exit_code == 1
    assert json.loads(again.stdout)["problem"].startswith("no relay takes mail: 127.0.0.1:1 is down")


def test_a_relay_that_closes_half_way(database_url: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(event: Event) -> Reaction | None:
        return Reply(421, "4.3.2 tired") if event.verb == "MAIL" and len(server.mails) >= 12 else None

    _queue(engine, *(f"{number}@x.example" for number in range(30)))
    with SmtpServer(script) as server:
        _environment(monkeypatch, database_url, server)
        result = CliRunner().invoke(main, ["drain"])
    assert result.exit_code == 1
    assert "is down (mail: 421 4.3.2 tired)" in result.stderr
    assert Counter(row.status for row in _rows(engine)) == {"sent": 12, "pending": 18}


def test_certificates_that_cannot_be_read_cost_no_mail_its_place(
    cli: Cli, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_CA_FILE", "missing.pem")
    _queue(engine, "a@x.example", "b@x.example")
    result = cli("drain")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: SMTP_CA_FILE='missing.pem': no certificates could be read")
    assert {(row.status, row.claims) for row in _rows(engine)} == {("pending", 0)}


def test_a_relay_too_slow_for_the_lease_defers_the_mail(
    database_url: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _queue(engine, "a@x.example", "b@x.example")
    with SmtpServer(lambda event: Delay(0.5) if event.verb == "RCPT" else None) as server:
        _environment(monkeypatch, database_url, server)
        monkeypatch.setenv("OUTBOX_LEASE_SECONDS", "2")
        monkeypatch.setenv("SMTP_DOT_TIMEOUT", "1.9")
        result = CliRunner().invoke(main, ["drain"])
        assert not server.mails
    assert (result.exit_code, result.stdout) == (0, "0 sent, 2 to be tried again, 0 dead, 0 uncertain.\n")
    assert [(row.status, row.attempts) for row in _rows(engine)] == [("pending", 1)] * 2


def test_a_drain_outlasts_its_claims(database_url: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred mails and a relay that takes two seconds for each: more than the claim's lease."""
    monkeypatch.setattr("outbox.drain.CLAIM_LEASE", 1.0)
    monkeypatch.setattr("outbox.cli.draining._SLICE", 2)
    _queue(engine, *(f"{number}@x.example" for number in range(8)))
    _queue(engine, "low@x.example", priority="low")
    with SmtpServer(lambda event: Delay(0.3) if event.verb == "DOT" else None) as server:
        _environment(monkeypatch, database_url, server)
        result = CliRunner().invoke(main, ["drain"])
    assert (result.exit_code, result.stdout) == (0, "9 sent, 0 to be tried again, 0 dead, 0 uncertain.\n")


def test_a_drain_that_can_begin_nothing_ends(
    database_url: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is begun, no attempt counted: the same mail would be first in the queue again and again."""

    def begin(*_: object) -> set[int]:
        raise sa.exc.OperationalError("UPDATE email_queue", None, Exception("the disk is full"))

    _queue(engine, "a@x.example", "b@x.example")
    monkeypatch.setattr("outbox.claims.begin", begin)
    monkeypatch.setattr("outbox.turn.take", begin)
    with SmtpServer() as server:
        _environment(monkeypatch, database_url, server)
        result = CliRunner().invoke(main, ["drain"])
        assert not server.mails
    assert result.exit_code == 1
    assert "Error: none of the mails at the head of the queue could be begun: the rest stays queued." in result.stderr
    assert "chunk given up" in result.stderr
    assert [(row.status, row.attempts) for row in _rows(engine)] == [("pending", 0)] * 2


def test_a_dry_run_touches_nothing(cli: Cli, smtp: SmtpServer, engine: sa.Engine) -> None:
    _queue(engine, "later@x.example", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    _queue(engine, *(f"{number}@x.example" for number in range(60)))
    _queue(engine, "high@x.example", priority="high")
    before = _dump(engine)
    result = cli("drain", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "61 mails due: 1 high, 60 normal, 0 low; the first 50 are listed."
    assert "later@x.example" not in result.stdout
    found = json.loads(cli("drain", "--dry-run", "--json").stdout)
    assert found["due"] == {"high": 1, "normal": 60, "low": 0}
    assert [row["recipient"] for row in found["first"]] == ["high@x.example", *(f"{n}@x.example" for n in range(49))]
    assert list(found["first"][0]) == ROW_KEYS
    assert _dump(engine) == before
    assert not smtp.events


def test_a_dry_run_says_why_nothing_would_go(cli: Cli, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    _queue(engine, "a@x.example")
    cli("pause", "--reason", "moving house")
    result = cli("drain", "--dry-run")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "1 mail due: 0 high, 1 normal, 0 low.")
    assert result.stderr.startswith("But nothing would go: no relay takes mail: ")
    assert "(moving house)" in result.stderr
    assert "(moving house)" in json.loads(cli("drain", "--dry-run", "--json").stdout)["problem"]
    cli("resume")
    assert cli("drain", "--dry-run").stderr == ""
    monkeypatch.setenv("OUTBOX_ENVIRONMENT", "another")
    cli("adopt", "--yes")
    monkeypatch.setenv("OUTBOX_ENVIRONMENT", "staging")
    assert "run `outbox adopt`" in cli("drain", "--dry-run").stderr


def test_a_dry_run_with_nothing_due(cli: Cli) -> None:
    assert cli("drain", "--dry-run").stdout == "Nothing is due.\n"


def test_drain_first_takes_back_what_a_dead_worker_had(cli: Cli, smtp: SmtpServer, engine: sa.Engine) -> None:
    _queue(engine, "a@x.example", "b@x.example")
    with engine.begin() as connection:
        claims.claim(connection, dict.fromkeys(Priority, 10), "gone", -1)
    result = cli("drain")
    assert (
        result.stdout
        == "2 mails came back from workers that are gone.\n2 sent, 0 to be tried again, 0 dead, 0 uncertain.\n"
    )
    assert len(smtp.mails) == 2


@pytest.mark.parametrize(("number", "options"), [(signal.SIGTERM, ["--json"]), (signal.SIGINT, [])])
def test_a_signal_finishes_the_mail_in_hand_and_hands_back_the_rest(
    database_url: str,
    engine: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    options: list[str],
) -> None:
    _queue(engine, *(f"{number}@x.example" for number in range(40)))
    with SmtpServer(lambda event: Delay(0.3) if event.verb == "DOT" else None) as server:
        _environment(monkeypatch, database_url, server)
        command = [sys.executable, "-m", "outbox", "drain", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        server.wait_for(lambda server: len(server.mails) == 2, 30)
        server.wait_for(lambda server: server.verbs().count("DOT") == 3)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
        assert process.returncode == 128 + number
        if options:
            report = json.loads(stdout)
            assert (report["sent"], report["signal"], report["problem"], stderr) == (3, number.name, None, "")
        else:
            assert stdout == "3 sent, 0 to be tried again, 0 dead, 0 uncertain.\n"
            assert stderr == f"Ended by {number.name}: the rest stays queued.\n"
        assert len(server.mails) == 3
        assert Counter(row.status for row in _rows(engine)) == {"sent": 3, "pending": 37}
        assert {row.claims for row in _rows(engine)} == {0, 1}

        server.script = lambda event: None
        assert _outbox("drain").stdout.startswith("37 sent")
        assert len({mail.recipient for mail in server.mails}) == len(server.mails) == 40


def test_the_second_signal_leaves_at_once_and_the_mail_is_not_lost(
    database_url: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _queue(engine, "a@x.example")
    with SmtpServer(lambda event: Delay(60) if event.verb == "DOT" else None) as server:
        _environment(monkeypatch, database_url, server)
        process = subprocess.Popen([sys.executable, "-m", "outbox", "drain"], stderr=subprocess.PIPE)
        server.wait_for(lambda server: "DOT" in server.verbs(), 30)
        deadline = time.monotonic() + 30
        while process.poll() is None:
            assert time.monotonic() < deadline
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        process.communicate()
    assert process.returncode == -signal.SIGINT
    assert [row.status for row in _rows(engine)] == ["sending"], "the reaper takes it from here"


def test_two_drains_at_once_send_every_mail_once(cli: Cli, smtp: SmtpServer, engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        mails = [{"to": f"{number}@x.example", "subject": "s", "text": "t"} for number in range(120)]
        EmailService(session, Settings.load()).queue_emails(mails)
    command = [sys.executable, "-m", "outbox", "drain", "--json"]
    drains = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    said = [drain.communicate(timeout=90) for drain in drains]
    assert [drain.returncode for drain in drains] == [0, 0], said
    assert sum(json.loads(stdout)["sent"] for stdout, _ in said) == 120
    assert len({mail.recipient for mail in smtp.mails}) == len(smtp.mails) == 120
    assert {row.status for row in _rows(engine)} == {"sent"}


def test_list_filters_and_starts_with_the_newest(cli: Cli, engine: sa.Engine) -> None:
    _queue(engine, "Ada@x.example", "bob@x.example", category="bill")
    _queue(engine, "bob@x.example", "reject-550@x.example", priority="high")
    cli("drain")
    _queue(engine, "bob@x.example", priority="low", category="news")

    def listed(*filters: str) -> list[int]:
        rows = json.loads(cli("list", "--json", *filters).stdout)
        assert all(list(row) == ROW_KEYS for row in rows)
        return [row["id"] for row in rows]

    assert listed() == [5, 4, 3, 2, 1]
    assert listed("--limit", "2") == [5, 4]
    assert listed("--status", "sent") == [3, 2, 1]
    assert listed("--status", "dead") == [4]
    assert listed("--status", "pending") == [5]
    for status in ("claimed", "sending", "uncertain", "cancelled"):
        assert listed("--status", status) == []
    assert listed("--recipient", "aDA@X.example") == [1]
    assert listed("--recipient", "bob@x.example", "--status", "sent") == [3, 2]
    assert listed("--category", "bill") == [2, 1]
    assert listed("--priority", "high") == [4, 3]
    assert listed("--dead-reason", "rejected", "--since", "2h") == [4]
    assert listed("--until", "2h") == listed("--subject", "no such") == []

    assert cli("list", "--limit", "2").stderr == "The newest 2 mails; --limit shows more, --before 4 goes on.\n"
    assert listed("--before", "4", "--limit", "2") == [3, 2]
    empty = cli("list", "--status", "cancelled")
    assert (empty.exit_code, empty.stdout, empty.stderr) == (0, "", "No mail.\n")
    bad = cli("list", "--recipient", "nobody")
    assert (bad.exit_code, bad.stderr.count("\n")) == (2, 1)
    assert "recipient='nobody'" in bad.stderr


def test_the_list_shows_each_status(cli: Cli, engine: sa.Engine) -> None:
    _queue(engine, "sent@x.example")
    cli("drain")
    _queue(engine, "later@x.example", scheduled_at=datetime.now(UTC) + timedelta(minutes=90))
    _queue(engine, "due@x.example", "claimed@x.example", "uncertain@x.example", "dead@x.example")
    now = datetime.now(UTC)
    _update(engine, "claimed@x.example", status=Status.CLAIMED, claim_token="t", claimed_by="w", lease_expires_at=now)
    _update(engine, "uncertain@x.example", status=Status.UNCERTAIN)
    _update(
        engine, "dead@x.example", status=Status.DEAD, dead_reason="rejected", finalized_at=now, last_error="rcpt: no"
    )
    lines = [line.split() for line in cli("list").stdout.splitlines()[1:]]
    assert {line[1]: line[6:] for line in lines} == {
        "dead": ["0", "s", "ago", "rcpt:", "no"],
        "uncertain": ["-"],
        "claimed": ["now"],
        "pending": ["in", "1", "h"],
        "sent": lines[-1][6:],
    }
    assert lines[3][6:] == ["due"]
    assert lines[-1][-1] == "ago"


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_fits_the_terminal(cli: Cli, engine: sa.Engine, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recipient, error = "a-rather-long-local-part@some-long-domain.example", "rcpt: 5.1.1 no such user here, sorry; " * 5
    _queue(engine, recipient, subject="A subject that says at some length what the mail is about " * 2)
    _queue(engine, "b@x.example")
    _update(engine, recipient, last_error=error)
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = cli("list").stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert [line.split()[0] for line in lines] == ["Id", "2", "1", "rcpt:"][: 4 if columns < 110 else 3]
    assert "a-rather-lo" in lines[2]
    assert "pending" in lines[2]
    assert ("Remark" in lines[0]) == (columns >= 110)
    for verb in (["show", "1"], ["stats"]):
        assert max(map(len, cli(*verb).stdout.splitlines())) <= columns


def test_the_list_says_what_a_mail_waits_for(cli: Cli, engine: sa.Engine) -> None:
    _queue(engine, "a@x.example")
    _update(engine, "a@x.example", last_error="rcpt: greylisted", waiting_for="a@x.example is not on the list")
    assert cli("list").stdout.endswith("  a@x.example is not on the list\n")


def test_no_mail_steers_the_terminal(cli: Cli, engine: sa.Engine) -> None:
    _queue(engine, "a@x.example", "b@x.example", subject=f"S {ESCAPES}", text=f"T {ESCAPES}", html=f"H {ESCAPES}")
    _update(engine, "a@x.example", last_error=f"E {ESCAPES}")
    with Session(engine) as session, session.begin():
        session.add(
            EmailAttempt(
                email_id=1, number=1, started_at=datetime.now(UTC), outcome=Outcome.DEFERRED, stage=Stage.RCPT,
                reply=f"R {ESCAPES}", relay="r", worker="w",
            )
        )  # fmt: skip
    screen = _on_a_terminal("list", "drain --dry-run", "show 1", "show 1 --html", "show 1 --source", "show 1 --json")
    assert "\x1b[1m" in screen, "it is a terminal, and in colour"
    assert not {"\x07", "\x9b", "\u202e"} & set(screen)
    assert "\x1b]" not in screen
    assert "\x1b[2J" not in screen
    spelled = r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[bold red]x"
    found = Counter(part for part in "STERH" for _ in range(screen.count(f"{part} {spelled}")))
    # Subjects: two in each list, and the mail's own.
    assert found == {"S": 5, "E": 3, "T": 1, "R": 1, "H": 1}


def test_files_get_the_bytes_as_they_are(cli: Cli, engine: sa.Engine) -> None:
    _queue(engine, "a@x.example", html=f"<p>{ESCAPES}</p>")
    assert cli("show", "1", "--html").stdout == f"<p>{ESCAPES}</p>"


def test_a_bar_shows_the_progress_on_a_terminal(cli: Cli, smtp: SmtpServer, engine: sa.Engine) -> None:
    _queue(engine, *(f"{number}@x.example" for number in range(20)))
    screen = _on_a_terminal("drain")
    assert "Sending" in screen
    assert "20/20" in screen
    assert "20 sent" in screen


def test_keys_of_show_and_stats(cli: Cli, engine: sa.Engine) -> None:
    Path("a.txt").write_text("a")
    queue = [
        "queue",
        "--to",
        "a@x.example",
        "--cc",
        "b@x.example",
        "--subject",
        "s",
        "--text",
        "t",
        "--attach",
        "a.txt",
    ]
    assert list(json.loads(cli(*queue, "--json").stdout)) == ["new", "message_id", "mails"]
    cli("drain")
    shown = json.loads(cli("show", "1", "--json").stdout)
    assert list(shown) == ["why", "mail", "content", "attachments", "attempts", "others", "feedback", "audit"]
    assert list(shown["mail"]) == list(shown["others"][0]) == ROW_KEYS
    assert list(shown["content"]) == CONTENT_KEYS
    assert list(shown["attachments"][0]) == [
        "content_id", "position", "sha256", "filename", "content_type", "inline_id",
    ]  # fmt: skip
    assert list(shown["attempts"][0]) == [
        "email_id", "number", "started_at", "finished_at", "outcome", "stage", "code", "reply", "relay", "worker",
    ]  # fmt: skip
    assert datetime.fromisoformat(shown["mail"]["sent_at"]).utcoffset() == timedelta(0)

    stats = json.loads(cli("stats", "--json").stdout)
    assert list(stats) == ["high", "normal", "low", "total"]
    assert set(stats["total"]) == set(stats["high"]) == {
        "due", "scheduled", "oldest_due_seconds", "claimed", "sending", "uncertain", "dead", "sent_hour", "sent_day",
        "cancelled_day",
    }  # fmt: skip
    assert stats["total"]["sent_day"] == stats["normal"]["sent_day"] == 2


def test_stats_add_up(cli: Cli, engine: sa.Engine) -> None:
    _queue(engine, "a@x.example", "reject-550@x.example", priority="high")
    _queue(engine, "b@x.example", "reject-551@x.example", priority="low")
    cli("drain")
    _queue(engine, "c@x.example", "d@x.example")
    stats = json.loads(cli("stats", "--json").stdout)
    assert [stats[lane]["sent_hour"] for lane in ("high", "normal", "low", "total")] == [1, 0, 1, 2]
    assert [stats[lane]["dead"]["rejected"] for lane in ("high", "normal", "low", "total")] == [1, 0, 1, 2]
    assert stats["total"]["due"] == 2
    assert stats["total"]["oldest_due_seconds"] == stats["normal"]["oldest_due_seconds"] >= 0
    lines = {line[:22].strip(): line[22:].split() for line in cli("stats").stdout.splitlines()}
    assert lines["Due"] == ["0", "2", "0", "2"]
    assert lines["Dead: rejected"] == ["1", "0", "1", "2"]
    assert lines["Oldest due for"][0] == "-"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--to", "nobody"], "Error: to='nobody': "),
        (["--to", "a@x.example, b@x.example"], "Give several addresses as a list"),
        (["--header", "X-A"], "'X-A' is not of the form 'Name: value'"),
        (["--header", "X-A: 1", "--header", "X-A: 2"], "'X-A' is given twice"),
        (["--header", "Subject: x"], "this header cannot be set here; use the argument subject"),
        (["--text-file", "other.txt"], "--text and --text-file exclude each other"),
        (["--html-file", "missing.html"], "'missing.html': No such file"),
        (["--html-file", "latin1.html"], "'latin1.html' is not UTF-8: invalid continuation byte at byte 3"),
        (["--attach", "."], "File '.' is a directory"),
        (["--attach", "/proc/self/mem"], "Input/output error"),
        (["--at", "2026-12-01T08:00"], "has no time zone"),
        (["--expires", "2020-01-01T00:00Z"], "a mail must expire after it is due"),
        (["--max-attempts", "0"], "max_attempts=0: give a whole number from 1"),
        (["--priority", "urgent"], "'urgent' is not one of"),
        (["--key", ""], "idempotency_key='': give 1 to 255"),
        (["--from", "x"], "from_email='x': "),
    ],
)
def test_what_cannot_be_a_mail_is_refused(cli: Cli, engine: sa.Engine, arguments: list[str], sentence: str) -> None:
    Path("latin1.html").write_bytes("<p>\xe4</p>".encode("latin-1"))
    Path("other.txt").write_text("x")
    result = cli("queue", "--to", "a@x.example", "--subject", "s", "--text", "t", *arguments)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert _rows(engine) == []


def test_times_and_keys(cli: Cli, engine: sa.Engine) -> None:
    queue = ["queue", "--to", "a@x.example", "--subject", "s", "--text", "t", "--key", "k"]
    times = ["--at", "2126-12-24T18:00+01:00", "--expires", "2126-12-25T00:00Z"]
    assert cli(*queue, *times).exit_code == 0
    again = cli(*queue, *times)
    assert again.exit_code == 0
    assert again.stderr == "This key has been used for this mail before: nothing was added.\n"
    assert json.loads(cli(*queue, "--json").stdout)["new"] is False
    (row,) = _rows(engine)
    assert row.next_attempt_at == row.scheduled_at == datetime(2126, 12, 24, 17, tzinfo=UTC)
    assert row.expires_at == datetime(2126, 12, 25, tzinfo=UTC)

    conflict = cli(*queue, "--subject", "other")
    assert conflict.exit_code == 1
    assert conflict.stderr.startswith("Error: idempotency_key='k': it was used on ")


def test_what_is_not_there(cli: Cli, engine: sa.Engine) -> None:
    _queue(engine, "a@x.example")
    for arguments, code, sentence in (
        (["show", "7"], 1, "there is no mail 7"),
        (["show", "1", "--html"], 1, "mail 1 has no HTML"),
        (["show", "1", "--html", "--json"], 2, "exclude each other"),
        (["show", "x"], 2, "'x' is not a valid integer"),
    ):
        result = cli(*arguments)
        assert (result.exit_code, result.stdout) == (code, "")
        assert sentence in result.stderr
    with Session(engine) as session, session.begin():
        content = session.get_one(EmailContent, 1)
        content.text, content.purged_at = None, datetime.now(UTC)
    assert "purged" in cli("show", "1").stdout
    source = cli("show", "1", "--source")
    assert (source.exit_code, source.stdout) == (1, "")
    assert "there is nothing to send" in source.stderr


def test_a_mail_that_cannot_be_composed_costs_no_traceback(cli: Cli, engine: sa.Engine) -> None:
    _queue(engine, "a@x.example")
    with Session(engine) as session, session.begin():
        session.get_one(EmailContent, 1).text = None
    result = cli("drain")
    assert result.stdout == "0 sent, 0 to be tried again, 1 dead, 0 uncertain.\n"
    cannot, dead = result.stderr.splitlines()
    assert cannot == "delivery: mail 1 cannot be composed"
    assert dead.startswith("mail 1 is dead, invalid: cannot be composed: ValueError('<")
    assert dead.endswith("> has neither text nor HTML: there is nothing to send')")


@pytest.mark.parametrize(
    "verb", [["list"], ["stats"], ["drain"], ["queue", "--to", "a@x.example", "--subject", "s", "--text", "t"]]
)
def test_a_database_without_tables(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: list[str], kind: str
) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path}/empty.db"
        (tmp_path / "empty.db").touch()
    else:
        url = request.getfixturevalue("empty_postgresql")()
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("SMTP_FROM_EMAIL", "shop@x.example")
    result = CliRunner().invoke(main, verb)
    assert result.exit_code == 1
    assert "run `python -m alembic upgrade heads`" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def _environment(monkeypatch: pytest.MonkeyPatch, database_url: str, smtp: SmtpServer) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    for name, value in {
        "DATABASE_URL": database_url,
        "SMTP_HOST": smtp.host,
        "SMTP_PORT": str(smtp.port),
        "SMTP_FROM_EMAIL": "Shop <shop@x.example>",
    }.items():
        monkeypatch.setenv(name, value)


def _outbox(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The verb as a process, which must succeed."""
    command = [sys.executable, "-m", "outbox", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, encoding="utf-8", check=True, timeout=60)


def _on_a_terminal(*verbs: str) -> str:
    """What a terminal of 200 columns is sent by these commands, one after the other in one process."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50"}
    program = f"from outbox.cli import main\nfor verb in {verbs}: main(verb.split(), standalone_mode=False)"
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    sent = b""
    try:
        while data := os.read(ours, 65536):
            sent += data
    except OSError:  # Linux: the other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(30) == 0, sent
    return sent.decode()


def _queue(engine: sa.Engine, *recipients: str, **mail: Any) -> None:
    settings = Settings.load(smtp_from_email="shop@x.example")
    with Session(engine) as session, session.begin():
        for recipient in recipients:
            EmailService(session, settings).queue_email(recipient, **({"subject": "s", "text": "t"} | mail))
            session.flush()


def _update(engine: sa.Engine, recipient: str, **columns: Any) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(QueuedEmail).where(QueuedEmail.recipient == recipient).values(columns))


def _rows(engine: sa.Engine) -> Sequence[QueuedEmail]:
    with Session(engine) as session:
        return session.scalars(sa.select(QueuedEmail).order_by(QueuedEmail.id)).all()


def _dump(engine: sa.Engine) -> dict[str, list[Any]]:
    with engine.begin() as connection:
        return {name: list(connection.execute(sa.select(table))) for name, table in Base.metadata.tables.items()}
