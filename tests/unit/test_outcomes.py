"""The table of outcomes: every row at every stage it is for, spoken by a relay over a socket."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from outbox import outcomes
from outbox.outcomes import STAGES, TABLE, Broken, Row
from outbox.states import DeadReason, Outcome, Stage
from tests.certificates import certificate, self_signed
from tests.relaying import ADA, Marker, connected, send
from tests.smtp_script import Drop, Reaction, Reply, on
from tests.smtp_server import SmtpServer

DOWN, MISCONFIGURED, THROTTLED = Outcome.RELAY_DOWN, Outcome.RELAY_MISCONFIGURED, Outcome.THROTTLED
REJECTED, DEFERRED = Outcome.REJECTED, Outcome.DEFERRED
VERBS = {Stage.CONNECT: "CONNECT", Stage.TLS: "STARTTLS", Stage.AUTH: "AUTH"}


@dataclass(frozen=True)
class Case:
    """What the relay does (Broken: what it is), and what must come of it."""

    relay: Reaction | Broken
    outcome: Outcome
    dead_reason: DeadReason = DeadReason.REJECTED
    suppress: bool = False
    sender_refused: bool = False


CASES = {
    "sent": Case(Reply(250, "2.0.0 Ok: queued as 9F3C2"), Outcome.SENT),
    "certificate untrusted": Case(Broken.UNTRUSTED, MISCONFIGURED),
    "STARTTLS not offered": Case(Broken.NOT_OFFERED, MISCONFIGURED),
    "STARTTLS refused": Case(Reply(502, "5.5.1 not here"), MISCONFIGURED),
    "login not offered": Case(Broken.NOT_OFFERED, MISCONFIGURED),
    "login refused": Case(Reply(535, "5.7.8 authentication failed"), MISCONFIGURED),
    "login required": Case(Reply(530, "5.7.0 authentication required"), MISCONFIGURED),
    "greylisted by name": Case(Reply(450, "4.2.0 Greylisted, too many new senders"), DEFERRED),
    "too many recipients": Case(Reply(452, "4.5.3 Error: too many recipients"), THROTTLED),
    "quota used up": Case(Reply(550, "5.4.5 Daily user sending limit exceeded"), THROTTLED),
    "too much": Case(Reply(421, "Too many concurrent SMTP connections"), THROTTLED),
    "login or TLS not now": Case(Reply(454, "later"), THROTTLED),
    "greylisted by code": Case(Reply(451, "4.7.1 please try again later"), DEFERRED),
    "policy": Case(Reply(421, "4.7.0 try again later, closing connection"), THROTTLED),
    "full or not accepting": Case(Reply(452, "4.3.1 insufficient system storage"), THROTTLED),
    "closing": Case(Reply(421, "4.3.2 shutting down"), DOWN),
    "too large": Case(Reply(554, "5.3.4 message size exceeds fixed limit"), REJECTED, DeadReason.INVALID),
    "too large, without a code": Case(Reply(552, "Message is too long"), REJECTED, DeadReason.INVALID),
    "SMTPUTF8 not offered": Case(Broken.NOT_OFFERED, REJECTED, DeadReason.INVALID),
    "sender refused": Case(Reply(553, "5.1.8 who are you?"), REJECTED, sender_refused=True),
    "sender refused later": Case(
        Reply(553, "5.7.1 <shop@example.com>: Sender address rejected: not owned by user"),
        REJECTED,
        sender_refused=True,
    ),
    "no such recipient": Case(Reply(550, "5.1.1\n5.1.1 no such user"), REJECTED, suppress=True),
    "rejected": Case(Reply(554, "5.6.0 we do not like it"), REJECTED),
    "deferred": Case(Reply(451, "4.3.0 mailbox busy"), DEFERRED),
    "unwilling": Case(Reply(451, "4.3.0 not today"), DOWN),
    "unreachable": Case(Drop(), DOWN),
    "lost before the dot": Case(Drop(), DEFERRED),
    "lost after the dot": Case(Drop(accept=True), Outcome.UNCERTAIN),
}


def test_every_row_has_a_case_and_every_case_a_row() -> None:
    names = [row.name for row in TABLE]
    assert list(CASES) == names
    assert len(set(names)) == len(names)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the rows that are read off the table."""
    names: list[str] = []

    def noting(look: Callable[..., Row]) -> Callable[..., Row]:
        def look_and_note(*arguments: Any) -> Row:
            row = look(*arguments)
            names.append(row.name)
            return row

        return look_and_note

    for look in (outcomes.of_reply, outcomes.of_break):
        monkeypatch.setattr(outcomes, look.__name__, noting(look))
    return names


@pytest.mark.parametrize(
    ("row", "stage"),
    [pytest.param(row, stage, id=f"{row.name} at {stage}") for row in TABLE for stage in Stage if stage in row.at],
)
def test_what_a_relay_does_means_what_the_table_says(
    row: Row, stage: Stage, authority: trustme.CA, trusted: str, found: list[str]
) -> None:
    case = CASES[row.name]
    offers: dict[str, Any] = {}
    wants: dict[str, Any] = {"smtp_ca_file": trusted}
    if stage is Stage.TLS:
        wants |= {"starttls": True}
        offers |= {"starttls": self_signed() if case.relay is Broken.UNTRUSTED else certificate(authority)}
    if stage is Stage.AUTH:
        wants |= {"user": "shop", "password": SecretStr("secret")}
        offers |= {"login": ("shop", "secret")}
    if case.relay is Broken.NOT_OFFERED:
        offers = {}
    script = on(VERBS.get(stage, stage.upper()), case.relay) if not isinstance(case.relay, Broken) else None
    marker = Marker()
    with SmtpServer(script or on("NOOP", Drop()), **offers) as server, connected(server, **wants) as subject:
        recipient = "j\xf6rg@example.com" if stage is Stage.MAIL and case.relay is Broken.NOT_OFFERED else ADA
        report = send(subject, recipient, marker=marker)
    assert (found[-1], report.stage) == (row.name, stage)
    assert report.reply
    assert (report.outcome, report.dead_reason) == (case.outcome, case.dead_reason)
    assert (report.suppress, report.sender_refused) == (case.suppress, case.sender_refused)
    assert (marker.started > 0) == (stage in {Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT})
    assert len(server.mails) == (case.outcome in {Outcome.SENT, Outcome.UNCERTAIN})


# --- the table as a whole ---------------------------------------------------------------------------------------------

stages = st.sampled_from(sorted(STAGES))
TELLING = ("4.7.1", "5.1.1", "5.1.8", "4.3.2", "5.5.3", "5.2.3", "\n", "too many", "recipients", "rate", "greylisted")
TELLING_TOO = ("daily", "limit", "sender rejected", "ada@example.com")
texts = st.text() | st.lists(st.sampled_from(TELLING + TELLING_TOO)).map(" ".join)


@given(stages, st.integers(-1, 999), texts)
def test_every_reply_has_a_meaning_that_makes_sense(stage: Stage, code: int, text: str) -> None:
    row = outcomes.of_reply(stage, code, text)
    assert stage in row.at
    taken = stage is Stage.DOT and code // 100 == 2
    assert (row.outcome is Outcome.SENT) == taken
    assert (row.outcome is Outcome.UNCERTAIN) == (stage is Stage.DOT and code // 100 not in (2, 4, 5))
    if row.outcome is REJECTED:
        assert code // 100 == 5
    if row.outcome in {REJECTED, DEFERRED}:
        assert stage in {Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT}
    if stage is Stage.DOT:
        assert row.outcome not in {DOWN, MISCONFIGURED}
    if row.suppress or row.sender_refused or row.dead_reason is DeadReason.INVALID:
        assert row.outcome is REJECTED


@pytest.mark.parametrize(("stage", "broken"), [*product(sorted(STAGES), Broken)])
def test_every_break_has_a_meaning_and_only_the_dot_is_uncertain(stage: Stage, broken: Broken) -> None:
    row = outcomes.of_break(stage, broken)
    assert stage in row.at
    assert (row.outcome is Outcome.UNCERTAIN) == (stage is Stage.DOT)


# --- how relays speak -------------------------------------------------------------------------------------------------

SPOKEN = [
    # Postfix, smtpd
    (Stage.CONNECT, 421, "4.7.0 mx.example Error: too many connections from 192.0.2.1", THROTTLED),
    (Stage.MAIL, 450, "4.7.1 Error: too much mail from 192.0.2.1", THROTTLED),
    (Stage.RCPT, 450, "4.7.1 Error: too many recipients from 192.0.2.1", THROTTLED),
    (Stage.RCPT, 452, "4.5.3 Error: too many recipients", THROTTLED),
    (Stage.MAIL, 452, "4.3.1 Insufficient system storage", THROTTLED),
    (Stage.AUTH, 454, "4.7.0 Temporary authentication failure: Connection lost to authentication server", THROTTLED),
    (Stage.RCPT, 450, "4.1.2 <ada@nowhere.example>: Recipient address rejected: Domain not found", DEFERRED),
    (Stage.RCPT, 450, "4.2.0 <ada@example.com>: Recipient address rejected: Greylisted, see https://...", DEFERRED),
    (Stage.RCPT, 450, "4.2.0 <rate@example.com>: Recipient address rejected: mailbox busy", DEFERRED),
    (Stage.DOT, 451, "4.3.0 Error: queue file write error", DEFERRED),
    (Stage.MAIL, 552, "5.3.4 Message size exceeds fixed limit", REJECTED),
    (Stage.RCPT, 554, "5.7.1 <ada@example.com>: Relay access denied", REJECTED),
    (Stage.MAIL, 530, "5.7.0 Must issue a STARTTLS command first", MISCONFIGURED),
    # A milter behind it: rspamd, Plesk
    (Stage.DOT, 451, "4.7.1 Try again later", DEFERRED),
    (Stage.DATA, 451, "4.7.1 Service unavailable - try again later", DEFERRED),
    (Stage.DOT, 421, "4.7.0 milter failed", DEFERRED),
    # Exim: no enhanced codes
    (Stage.CONNECT, 421, "Too many concurrent SMTP connections; please try again later.", THROTTLED),
    (Stage.MAIL, 421, "too many messages in this connection", THROTTLED),
    (Stage.RCPT, 451, "Temporary local problem - please try later", DEFERRED),
    (Stage.RCPT, 550, "Unrouteable address", REJECTED),
    (Stage.TLS, 454, "TLS currently unavailable", THROTTLED),
    (Stage.AUTH, 535, "Incorrect authentication data", MISCONFIGURED),
    # Gmail
    (
        Stage.DOT,
        421,
        "4.7.28 [192.0.2.1] Our system has detected an unusual rate of\n4.7.28 unsolicited mail originating from",
        THROTTLED,
    ),
    (
        Stage.RCPT,
        450,
        "4.2.1 The user you are trying to contact is receiving mail at a rate that\n4.2.1 prevents additional messages",
        THROTTLED,
    ),
    (Stage.RCPT, 450, "4.2.1 The user you are trying to contact is receiving mail too\n4.2.1 quickly.", THROTTLED),
    (Stage.RCPT, 452, "4.2.2 The email account that you tried to reach is over quota.", DEFERRED),
    (Stage.RCPT, 552, "5.2.2 The email account that you tried to reach is over quota.", REJECTED),
    (Stage.MAIL, 550, "5.4.5 Daily SMTP relay sending limit exceeded for user.", THROTTLED),
    (
        Stage.DOT,
        552,
        "5.7.0 This message was blocked because its content presents a potential security issue.",
        REJECTED,
    ),
    (Stage.AUTH, 534, "5.7.9 Application-specific password required.", MISCONFIGURED),
    # Amazon SES
    (Stage.DOT, 454, "Throttling failure: Maximum sending rate exceeded.", THROTTLED),
    (Stage.DOT, 454, "Throttling failure: Daily message quota exceeded.", THROTTLED),
    (Stage.DOT, 554, "Message rejected: Email address is not verified.", REJECTED),
    # Exchange Online
    (Stage.RCPT, 451, "4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77714)", THROTTLED),
    (Stage.DOT, 432, "4.3.2 Concurrent connections limit exceeded", THROTTLED),
    (Stage.DOT, 550, "5.1.90 Your message can't be sent because you've reached your daily limit", THROTTLED),
    # SendGrid, sendmail
    (Stage.RCPT, 452, "Too many recipients received this hour", THROTTLED),
    (Stage.CONNECT, 421, "4.3.2 Connection rate limit exceeded.", THROTTLED),
    (Stage.CONNECT, 421, "4.3.2 Service shutting down", DOWN),
]


@pytest.mark.parametrize(("stage", "code", "text", "outcome"), SPOKEN)
def test_how_relays_speak(stage: Stage, code: int, text: str, outcome: Outcome) -> None:
    assert outcomes.of_reply(stage, code, text).outcome is outcome


@pytest.mark.parametrize(
    ("text", "suppress"),
    [
        ("5.1.1 <ada@example.com>: Recipient address rejected: User unknown in local recipient table", True),
        ("#5.1.0 Address rejected.", True),
        ("5.1.10 Recipient not found by SMTP address lookup", True),
        ("5.1.1\n5.1.1 The email account that you tried to reach does not exist.", True),
        ("5.1.0 <shop@example.com>: Sender address rejected: User unknown", False),
        ("5.1.8 <shop@example.com>: Sender address rejected: Domain not found", False),
        ("5.7.1 5.1.1 is not what this says first", False),
        ("5.1.1.1 is an address", False),
        ("User unknown", False),
    ],
)
def test_who_is_suppressed(text: str, suppress: bool) -> None:
    assert outcomes.of_reply(Stage.RCPT, 550, text).suppress is suppress
    assert not outcomes.of_reply(Stage.MAIL, 550, text).suppress
    assert not outcomes.of_reply(Stage.RCPT, 450, text).suppress
