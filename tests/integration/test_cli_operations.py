"""The verbs by which a person explains, moves and stops mail."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from outbox import breaker, suppressions
from outbox.cli import main
from outbox.cli.surroundings import who
from outbox.database import UtcDateTime
from outbox.endpoints import Endpoint
from outbox.states import DeadReason, Outcome, RelayState, Status
from tests import rows
from tests.rows import from_now
from tests.smtp_script import Reply
from tests.smtp_server import SmtpServer
from tests.subscribing import SUBSCRIBED

Cli = Callable[..., Result]

RELAY = "mx1.example:25"
DEAD: dict[str, Any] = {
    "status": Status.DEAD, "dead_reason": DeadReason.EXHAUSTED, "finalized_at": from_now(-9), "last_error": "busy",
}  # fmt: skip
EVIL = "\x1b]0;owned\x07\u202e"


@pytest.fixture
def cli(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("SMTP_HOST", "mx1.example")
    return lambda *arguments: CliRunner().invoke(main, arguments)


@pytest.fixture
def two_relays(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMTP_HOST")
    monkeypatch.setenv("OUTBOX_RELAYS", "smtp://mx1.example smtp://mx2.example")


def done(result: Result) -> str:
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def refused(result: Result, code: int, sentence: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def state(engine: sa.Engine) -> breaker.Standing:
    with engine.begin() as connection:
        return breaker.standings(connection, [Endpoint("mx1.example", 25)])[RELAY]


# --- why


def test_why_is_a_sentence(cli: Cli, engine: sa.Engine) -> None:
    rows.add(engine, **DEAD | {"last_error": f"rcpt: {EVIL}"})
    said = done(cli("why", "1"))
    assert re.fullmatch(r"Mail 1 has been dead since .*: rcpt: \\x1b.*; `outbox requeue 1` tries again\.\n", said)
    assert not set(EVIL) & {"\x1b", "\x07", "\u202e"} & set(said)
    found = json.loads(done(cli("why", "1", "--json")))
    assert list(found) == ["id", "why"]
    assert EVIL in found["why"]
    shown = done(cli("show", "1"))
    assert shown.startswith("Mail 1 has been dead since ")
    assert json.loads(done(cli("show", "1", "--json")))["why"].startswith("Mail 1 has been dead since ")
    refused(cli("why", "9"), 1, "there is no mail 9: `outbox list` shows the newest")


def test_why_does_not_wait_for_a_writer(cli: Cli, engine: sa.Engine) -> None:
    rows.add(engine)
    with engine.begin() as connection:  # with SQLite, it has the write lock
        connection.execute(sa.text("UPDATE email_queue SET category = 'held'"))
        for verb in (["why", "1"], ["relays"], ["suppress", "--list"]):
            assert cli(*verb).exit_code == 0


# --- requeue, cancel, resolve


def test_requeue_and_cancel_move_what_they_can(cli: Cli, engine: sa.Engine) -> None:
    pending, dead, other = rows.add(engine) + rows.add(engine, 2, **DEAD)
    assert done(cli("requeue", str(dead), str(other))) == "2 mails requeued.\n"
    assert done(cli("cancel", str(dead), str(dead))) == "1 mail cancelled.\n"
    assert rows.statuses(engine, [pending, dead, other]) == ["pending", "cancelled", "pending"]

    partly = cli("requeue", str(dead), str(pending), "99")
    assert (partly.exit_code, partly.stdout) == (1, "1 mail requeued.\n")
    assert partly.stderr == (
        f"Error: mail {pending} is pending and cannot be requeued: it can be cancelled\n"
        "Error: there is no mail 99: `outbox list` shows the newest\n"
    )
    again = cli("cancel", str(dead), "99", "--json")
    assert again.exit_code == 1
    assert json.loads(again.stdout) == {
        "cancelled": [dead],
        "refused": {"99": "there is no mail 99: `outbox list` shows the newest"},
    }


@pytest.mark.parametrize("verb", ["requeue", "cancel", "why", "resolve"])
@pytest.mark.parametrize("id_", ["x", "0", str(2**63)])
def test_what_is_no_id(cli: Cli, verb: str, id_: str) -> None:
    rest = ["sent"] if verb == "resolve" else []
    refused(cli(verb, id_, *rest), 2, f"{id_}")


@pytest.mark.parametrize(
    ("resolution", "status", "sentence"),
    [
        ("sent", "sent", "Mail 1 has counted as sent since "),
        ("requeue", "pending", "Mail 1 has been due since "),
        ("dead", "dead", f"given up while uncertain, by {who()}; `outbox requeue 1` tries again"),
    ],
)
def test_resolve(cli: Cli, engine: sa.Engine, resolution: str, status: str, sentence: str) -> None:
    rows.add(engine, status=Status.UNCERTAIN)
    assert sentence in done(cli("resolve", "1", resolution))
    assert rows.statuses(engine, [1]) == [status]
    refused(cli("resolve", "1", resolution), 1, f"mail 1 is {status} and cannot be resolved: ")


def test_resolve_as_json_and_misuse(cli: Cli, engine: sa.Engine) -> None:
    rows.add(engine, status=Status.UNCERTAIN)
    refused(cli("resolve", "1", "delivered"), 2, "'delivered' is not one of 'sent', 'requeue', 'dead'")
    assert rows.statuses(engine, [1]) == ["uncertain"]
    assert json.loads(done(cli("resolve", "1", "dead", "--json"))) == {"resolved": [1], "refused": {}}


# --- relays, pause, resume


def test_pause_and_resume_the_only_relay(cli: Cli, engine: sa.Engine) -> None:
    assert done(cli("pause", "--reason", "moving house")) == (
        f"No mail goes to {RELAY} until `outbox resume {RELAY}`.\n"
    )
    paused = state(engine)
    assert (paused.state, paused.reason, paused.changed_by) == (RelayState.PAUSED, "moving house", who())
    rows.add(engine)
    assert f"relay {RELAY} has been paused since " in done(cli("why", "1"))
    (line,) = done(cli("relays")).splitlines()[1:]
    assert re.match(rf"{RELAY}  paused  \d s ago  - +0  moving house \({who()}\)$", line)

    assert done(cli("resume")) == f"Mail goes to {RELAY} again.\n"
    assert state(engine).available
    assert done(cli("resume", RELAY)) == f"Nothing had stopped mail to {RELAY}.\n"
    assert json.loads(done(cli("resume", "--json"))) == {"relay": RELAY, "resumed": False}
    assert json.loads(done(cli("pause", RELAY.upper(), "--reason", "x", "--json"))) == {"relay": RELAY, "paused": True}


def test_of_several_relays_one_is_named(cli: Cli, engine: sa.Engine, two_relays: None) -> None:
    known = f"{RELAY}, mx2.example:25"
    refused(cli("pause", "--reason", "x"), 2, f"say which: {known}")
    refused(cli("resume"), 2, f"say which: {known}")
    refused(cli("pause", "mx3:25", "--reason", "x"), 2, f"'mx3:25' is not among the relays of the settings: {known}")
    refused(cli("resume", "mx3:25"), 2, f"'mx3:25' is not among the relays of the settings: {known}")
    refused(cli("pause", RELAY), 2, "Missing option '--reason'")
    refused(cli("pause", RELAY, "--reason", "\n"), 2, "say why, in printable characters")
    assert state(engine).available
    done(cli("pause", "mx2.example:25", "--reason", "x"))
    assert state(engine).available
    assert [line["state"] for line in json.loads(done(cli("relays", "--json")))] == ["closed", "paused"]


def test_relays_show_what_the_workers_met(cli: Cli, engine: sa.Engine, two_relays: None) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO email_relays (name, state, reason, latched, failures, paused_until, changed_by) VALUES"
                " (:first, 'open', :evil, :yes, 3, :until, 'w1'),"
                " ('mx2.example:25', 'closed', 'slowly', :no, 1, :until,"
                " 'w2')"
            ).bindparams(sa.bindparam("until", type_=UtcDateTime)),
            {"first": RELAY, "evil": EVIL, "yes": True, "no": False, "until": from_now(90)},
        )
    shown = done(cli("relays"))
    assert "open (latched)" in shown
    assert "closed (resting)" in shown
    assert "  in 1 min  " in shown
    assert "\x1b" not in shown
    first, second = json.loads(done(cli("relays", "--json")))
    assert list(first) == ["name", "state", "latched", "reason", "since", "until", "failures", "by"]
    assert (first["state"], first["latched"], first["failures"], first["by"]) == ("open", True, 3, "w1")
    assert (second["state"], second["reason"]) == ("closed", "slowly")


# --- suppress


def test_suppress_list_and_remove(cli: Cli, engine: sa.Engine) -> None:
    assert cli("suppress", "--list").stderr == "Nobody is suppressed.\n"
    assert done(cli("suppress", "Ann@X.example", "--reason", "bounced")) == (
        "No mail goes to ann@x.example until `outbox suppress --remove ann@x.example`.\n"
    )
    until = (from_now(3600) + timedelta(seconds=30)).isoformat()
    said = done(cli("suppress", "Y.example", "--reason", f"moved {until}", "--until", until))
    assert re.fullmatch(r"No mail goes to y\.example until .* \(in 1 h\)\.\n", said)
    lines = done(cli("suppress", "--list")).splitlines()
    assert [line.split()[0] for line in lines] == ["Target", "ann@x.example", "y.example"]
    assert "for good" in lines[1]
    assert who() in lines[1]
    found = json.loads(done(cli("suppress", "--list", "--json")))
    assert list(found[0]) == ["target", "reason", "source", "until", "created_at", "category"]
    assert (found[0]["source"], found[0]["until"]) == (who(), None)

    assert done(cli("suppress", "--remove", "ANN@x.example")) == (
        "ann@x.example gets mail again; what died of it can be requeued.\n"
    )
    refused(
        cli("suppress", "--remove", "ann@x.example"),
        1,
        "ann@x.example is not suppressed for all mail: `outbox suppress --list`",
    )
    assert json.loads(done(cli("suppress", "--remove", "y.example", "--json"))) == {
        "removed": "y.example",
        "category": "",
    }
    with engine.begin() as connection:
        assert suppressions.listed(connection) == []


def test_suppress_a_category(cli: Cli, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SUBSCRIBED.items():
        monkeypatch.setenv(name.upper(), value)
    assert done(cli("suppress", "Ann@X.example", "--reason", "too much", "--category", "news")) == (
        "No mail of 'news' goes to ann@x.example until `outbox suppress --remove ann@x.example --category news`.\n"
    )
    done(cli("suppress", "ann@x.example", "--reason", "bounced"))
    assert [line.split()[1] for line in done(cli("suppress", "--list")).splitlines()] == ["Mail", "all", "news"]
    assert [line["category"] for line in json.loads(done(cli("suppress", "--list", "--json")))] == ["", "news"]
    done(cli("suppress", "--remove", "ann@x.example"))

    rows.add(engine, recipient="ann@x.example", category="news")
    rows.add(engine, recipient="ann@x.example", category="receipt")
    said = done(cli("why", "1"))
    assert "will not be sent, for ann@x.example has been suppressed for 'news' since" in said
    assert 'because "too much"' in said
    assert "waits for a worker" in done(cli("why", "2"))

    assert done(cli("suppress", "--remove", "ann@x.example", "--category", "news")) == (
        "ann@x.example gets mail of 'news' again; what died of it can be requeued.\n"
    )
    refused(
        cli("suppress", "--remove", "ann@x.example", "--category", "news"),
        1,
        "ann@x.example is not suppressed for mail of 'news': ",
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give an address or a domain, or --list"),
        (["--remove"], "give an address or a domain, or --list"),
        (["ann@x.example"], "say why: --reason"),
        (["ann@x.example", "--reason", ""], "say why, in printable characters"),
        (["@", "--reason", "x"], "target='@': "),
        (["no one", "--reason", "x"], "target='no one': give an address, or a domain such as example.com"),
        (["--remove", "no one"], "target='no one': "),
        (["ann@x.example", "--list"], "--list takes nothing beside it"),
        (["--list", "--category", "news"], "--list takes nothing beside it"),
        (["ann@x.example", "--category", "receipt", "--reason", "x"], "'receipt' is not in OUTBOX_SUBSCRIPTIONS, so"),
        (["ann@x.example", "--remove", "--reason", "x"], "--remove takes neither --reason nor --until"),
        (["ann@x.example", "--reason", "x", "--until", "2020-01-01T00:00Z"], "give a time to come"),
        (["ann@x.example", "--reason", "x", "--until", "tomorrow"], "'tomorrow' is not an ISO 8601 time"),
    ],
)
def test_what_cannot_be_suppressed(cli: Cli, engine: sa.Engine, arguments: list[str], sentence: str) -> None:
    refused(cli("suppress", *arguments), 2, sentence)
    with engine.begin() as connection:
        assert suppressions.listed(connection) == []


def test_a_reason_steers_no_terminal(cli: Cli, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO email_suppressions (target, reason, source) VALUES ('a@x.example', :evil, 'mx1')"),
            {"evil": EVIL},
        )
    assert r"\x1b]0;owned\x07\u202e" in done(cli("suppress", "--list"))


@pytest.mark.parametrize("columns", [80, 140])
def test_no_reason_is_cut_off(
    cli: Cli, engine: sa.Engine, two_relays: None, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    reason = (
        "the new data centre is not ready yet, and the old one has no power: ask Grace before you resume this, please"
    )
    done(cli("pause", "mx2.example:25", "--reason", reason))
    done(cli("suppress", "a.recipient.with.a.long.name@subsidiary.example", "--reason", reason))
    monkeypatch.setenv("COLUMNS", str(columns))
    for verb, line in ((["relays"], "mx2.example:25  paused"), (["suppress", "--list"], "subsidiary.example  ")):
        shown = done(cli(*verb))
        assert max(map(len, shown.splitlines())) <= columns
        assert line in shown
        assert set(reason.split()) <= set(shown.split())
        assert "…" not in shown


def test_from_dead_to_sent(cli: Cli, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole life: refused, suppressed by the relay's word, forgiven, requeued, and delivered."""
    monkeypatch.setenv("SMTP_FROM_EMAIL", "shop@x.example")
    queue = ["queue", "--to", "ann@x.example", "--subject", "s", "--text", "t"]
    gone = Reply(550, "5.1.1 no such user")
    with SmtpServer(lambda event: gone if event.verb == "RCPT" else None) as server:
        monkeypatch.setenv("SMTP_HOST", server.host)
        monkeypatch.setenv("SMTP_PORT", str(server.port))
        done(cli(*queue))
        assert "1 dead" in cli("drain").stdout
        relay = f"{server.host}:{server.port}"
        assert f'relay {relay} refused it for good with "550 5.1.1 no such user"' in done(cli("why", "1"))
        done(cli(*queue))
        assert "ann@x.example has been suppressed since " in done(cli("why", "2"))
        done(cli("requeue", "2"))
        assert "but will not be sent, for ann@x.example has been suppressed" in done(cli("why", "2"))
        assert "1 dead" in cli("drain").stdout

        server.script = lambda event: None
        done(cli("suppress", "--remove", "ann@x.example"))
        assert done(cli("requeue", "1", "2")) == "2 mails requeued.\n"
        assert done(cli("drain")).startswith("2 sent")
        assert len(server.mails) == 2
        assert re.match(rf"Mail 1 was sent at .* by relay {relay}, which said \"250 ", done(cli("why", "1")))


def test_show_knows_every_outcome(cli: Cli, engine: sa.Engine) -> None:
    rows.add(engine)
    with engine.begin() as connection:
        for number, outcome in enumerate(Outcome, 1):
            rows.add_attempt(connection, 1, number, outcome)
    shown = done(cli("show", "1"))
    assert all(f"  {outcome} " in shown for outcome in Outcome)
