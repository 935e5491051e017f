"""A mail and the relay: what every conversation comes to, and that no dot is early and none comes twice."""

import time
from collections.abc import Callable, Iterator
from email.mime.text import MIMEText
from email.policy import SMTP
from smtplib import SMTPServerDisconnected

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from outbox import conversation, relay
from outbox.errors import InvalidAddress, LeaseLost
from outbox.relay import Report
from outbox.states import DeadReason, Outcome, Stage
from tests.relaying import ADA, BOB, MAIL, Marker, connected, lease_lost, send
from tests.smtp_script import Delay, Dribble, Drop, Event, Hang, Raw, Reaction, Reply, on
from tests.smtp_server import EAI, SmtpServer

LARGE = b"Subject: Large\r\n\r\n" + (b"y" * 76 + b"\r\n") * 250_000
"""Twenty megabytes: more than the buffers between client and server hold."""


@pytest.fixture(params=[True, False], ids=["pipelining", "one-by-one"])
def pipelining(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# --- what an answer means ---------------------------------------------------------------------------------------------


def test_250_is_sent_and_every_byte_arrives(pipelining: bool) -> None:
    marker = Marker()
    with SmtpServer(on("DOT", Reply(250, "2.0.0 queued as 4Xy")), pipelining=pipelining) as server:
        with connected(server) as subject:
            report = send(subject, marker=marker)
        (mail,) = server.mails
    assert report == Report(Outcome.SENT, Stage.DOT, 250, "2.0.0 queued as 4Xy")
    assert (mail.sender, mail.recipient, mail.data) == ("shop@example.com", ADA, MAIL)
    assert (marker.started, marker.awaited) == (1, 1)


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT])
@pytest.mark.parametrize(("code", "outcome"), [(451, Outcome.DEFERRED), (550, Outcome.REJECTED)])
def test_a_refusal_is_reported_and_the_connection_kept(
    stage: Stage, code: int, outcome: Outcome, pipelining: bool
) -> None:
    marker = Marker()
    script = on(stage.upper(), Reply(code, "5.0.0 no"), times=1)
    refused = stage is Stage.MAIL and outcome is Outcome.REJECTED
    with SmtpServer(script, pipelining=pipelining) as server, connected(server) as subject:
        assert send(subject, marker=marker) == Report(outcome, stage, code, "5.0.0 no", sender_refused=refused)
        assert (marker.started, marker.awaited) == (1, 1)
        assert not server.mails
        assert send(subject, BOB).outcome is Outcome.SENT
        assert [mail.recipient for mail in server.mails] == [BOB]
        assert server.connections == 1
        assert server.verbs().count("RSET") == 1


def test_251_at_rcpt_is_a_yes() -> None:
    with SmtpServer(on("RCPT", Reply(251, "will forward"))) as server, connected(server) as subject:
        assert send(subject).outcome is Outcome.SENT


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT, Stage.DATA])
def test_421_before_the_dot_is_the_relays_trouble(stage: Stage, pipelining: bool) -> None:
    marker = Marker()
    script = on(stage.upper(), Reply(421, "4.3.2 shutting down"), times=1)
    with SmtpServer(script, pipelining=pipelining) as server, connected(server) as subject:
        assert send(subject, marker=marker) == Report(Outcome.RELAY_DOWN, stage, 421, "4.3.2 shutting down")
        assert (marker.started, marker.awaited) == (1, 1)
        assert send(subject).outcome is Outcome.SENT
        assert server.connections == 2


def test_421_after_the_dot_defers_the_mail_and_ends_the_connection() -> None:
    with SmtpServer(on("DOT", Reply(421, "4.3.2 no more"), times=1)) as server, connected(server) as subject:
        assert send(subject) == Report(Outcome.DEFERRED, Stage.DOT, 421, "4.3.2 no more")
        assert send(subject).outcome is Outcome.SENT
        assert server.connections == 2
        assert "RSET" not in server.verbs()


def test_530_is_about_our_settings_and_kills_no_mail() -> None:
    with SmtpServer(login=("shop", "secret")) as server, connected(server) as subject:
        report = send(subject)
    assert (report.outcome, report.stage, report.code) == (Outcome.RELAY_MISCONFIGURED, Stage.MAIL, 530)


def test_530_at_rcpt_is_about_the_recipient() -> None:
    with SmtpServer(on("RCPT", Reply(530))) as server, connected(server) as subject:
        assert send(subject).outcome is Outcome.REJECTED


def test_a_reply_becomes_one_clean_line() -> None:
    words = "5.1.1 first\x00\x1b[31m\n5.1.1 second \N{SNOWMAN}\n" + "long " * 200
    with SmtpServer(on("RCPT", Reply(550, words))) as server, connected(server) as subject:
        reply = send(subject).reply
    assert reply.startswith("5.1.1 first [31m 5.1.1 second \N{SNOWMAN} long long")
    assert reply.isprintable()
    assert len(reply) == 500


# --- lost connections -------------------------------------------------------------------------------------------------

LOSSES = [Drop(), Hang(), Raw(b"what?\r\n"), Raw(b"\r\n"), Raw(b"099 hm\r\n"), Raw(b"2" * 10_000), Reply(334)]


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT, Stage.DATA])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_lost_before_the_dot_is_deferred(stage: Stage, loss: Reaction, pipelining: bool) -> None:
    if stage is Stage.DATA and isinstance(loss, Reply):
        loss = Reply(250, "no 354")
    marker = Marker()
    with (
        SmtpServer(on(stage.upper(), loss, times=1), pipelining=pipelining) as server,
        connected(server, smtp_timeout=0.2) as subject,
    ):
        report = send(subject, marker=marker)
        assert (report.outcome, report.stage, report.code) == (Outcome.DEFERRED, stage, None)
        assert report.reply
        assert (marker.started, marker.awaited) == (1, 1)
        assert not {"BODY", "DOT"} & set(server.verbs())
        assert send(subject).outcome is Outcome.SENT
        assert server.connections == 2


@pytest.mark.parametrize("loss", [Drop(), Hang()], ids=repr)
def test_lost_in_a_large_body_is_deferred(loss: Reaction) -> None:
    with SmtpServer(on("BODY", loss)) as server, connected(server, smtp_timeout=0.3) as subject:
        report = send(subject, message=LARGE)
    assert (report.outcome, report.stage) == (Outcome.DEFERRED, Stage.DATA)
    assert report.reply.startswith("could not write: ")
    assert "DOT" not in server.verbs()


@pytest.mark.parametrize(
    "loss", [Drop(accept=True), Hang(accept=True), Raw(b"thanks!\r\n"), Raw(b"2" * 10_000), Reply(354)], ids=repr
)
def test_lost_after_the_dot_is_uncertain_and_nothing_is_sent_again(loss: Reaction) -> None:
    with SmtpServer(on("DOT", loss)) as server, connected(server, smtp_dot_timeout=0.3) as subject:
        report = send(subject)
        time.sleep(0.1)  # long enough for a second copy to show
    assert (report.outcome, report.stage, report.code) == (Outcome.UNCERTAIN, Stage.DOT, None)
    assert server.verbs() == ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "BODY", "DOT"]
    assert server.connections == 1
    assert len(server.mails) == (1 if loss in (Drop(accept=True), Hang(accept=True), Reply(354)) else 0)


def test_the_librarys_own_way_to_send_does_not_send_again_either() -> None:
    with SmtpServer(on("DOT", Drop(accept=True))) as server, connected(server) as subject:
        with pytest.raises(SMTPServerDisconnected):
            subject.sendmail("shop@example.com", ADA, MIMEText("Hello.", policy=SMTP))
        assert len(server.mails) == server.connections == 1


def test_lost_inside_the_write_that_holds_the_dot_is_uncertain() -> None:
    with SmtpServer(on("BODY", Drop())) as server, connected(server) as subject:
        report = send(subject)
    assert (report.outcome, report.stage) == (Outcome.UNCERTAIN, Stage.DOT)


def test_a_write_that_holds_the_dot_and_fails_is_uncertain() -> None:
    def reply() -> str:
        with SmtpServer() as server, connected(server) as subject:
            report = send(subject, message=LARGE[: conversation._BLOCK + 100], marker=Marker(server.hang_up))
        assert (report.outcome, report.stage) == (Outcome.UNCERTAIN, Stage.DOT)
        return report.reply

    # The first write meets a closed connection, which answers with a reset; the second, with the dot, meets the reset,
    # unless it was quicker.
    assert any(reply().startswith("could not write: ") for _ in range(20))


def test_a_250_may_take_longer_than_other_replies() -> None:
    with (
        SmtpServer(on("DOT", Delay(0.8))) as server,
        connected(server, smtp_connect_timeout=0.4, smtp_timeout=0.4) as subject,
    ):
        assert send(subject).outcome is Outcome.SENT
        assert send(subject).outcome is Outcome.SENT
        assert server.connections == 1


@pytest.mark.parametrize(
    ("stage", "outcome"),
    [(Stage.RCPT, Outcome.DEFERRED), (Stage.DATA, Outcome.DEFERRED), (Stage.DOT, Outcome.UNCERTAIN)],
)
def test_a_reply_that_dribbles_is_waited_for_no_longer_than_any_other(
    stage: Stage, outcome: Outcome, pipelining: bool
) -> None:
    with (
        SmtpServer(on(stage.upper(), Dribble(0.1), times=1), pipelining=pipelining) as server,
        connected(server, smtp_timeout=0.35, smtp_dot_timeout=0.35) as subject,
    ):
        started = time.monotonic()
        report = send(subject)
        assert 0.3 < time.monotonic() - started < 0.8
        assert (report.outcome, report.stage, report.code) == (outcome, stage, None)
        assert send(subject).outcome is Outcome.SENT
        assert server.connections == 2


def test_a_reply_that_dribbles_in_time_is_a_reply_and_spends_no_time_of_the_next() -> None:
    def script(event: Event) -> Reaction | None:
        if event.verb in {"MAIL", "DOT"}:
            return Dribble(0.02)
        return Delay(0.4) if event.verb == "RCPT" else None

    with SmtpServer(script, pipelining=False) as server, connected(server, smtp_timeout=0.7) as subject:
        assert send(subject).outcome is Outcome.SENT
        assert send(subject).outcome is Outcome.SENT
        assert server.connections == 1


def test_a_reply_without_end_is_not_kept_in_memory() -> None:
    endless = b"250-and another thing\r\n" * 5000
    with SmtpServer(on("DOT", Raw(endless))) as server, connected(server) as subject:
        report = send(subject)
    assert (report.outcome, report.code) == (Outcome.UNCERTAIN, None)
    assert "a reply without end" in report.reply


# --- begin and deadline -----------------------------------------------------------------------------------------------


def test_begin_starts_before_mail_and_is_durable_before_the_body(pipelining: bool) -> None:
    marker = Marker()

    def script(event: Event) -> None:
        assert marker.started == (event.verb not in {"CONNECT", "EHLO"}), event.verb
        assert (event.verb in {"BODY", "DOT", "QUIT"}) <= marker.awaited, event.verb

    with SmtpServer(script, pipelining=pipelining) as server:

        def slow_commit() -> None:
            server.wait_for(lambda server: server.verbs()[-1] == "DATA")
            time.sleep(0.1)  # with 354 in hand, nothing moves until this is done
            assert server.verbs()[-1] == "DATA"

        marker.on_wait = slow_commit
        with connected(server) as subject:
            assert send(subject, marker=marker).outcome is Outcome.SENT
    assert (marker.started, marker.awaited) == (1, 1)


def test_a_lost_lease_drops_the_connection_without_the_dot(pipelining: bool) -> None:
    with SmtpServer(pipelining=pipelining) as server, connected(server) as subject:
        with pytest.raises(LeaseLost):
            send(subject, marker=Marker(lease_lost))
        server.wait_for(lambda server: not server.open)
        assert server.verbs() == ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"]
        assert not server.mails
        assert send(subject, BOB).outcome is Outcome.SENT
        assert [mail.recipient for mail in server.mails] == [BOB]


@pytest.mark.parametrize("reaction", [Reply(550), Drop()], ids=repr)
def test_a_lost_lease_counts_for_more_than_a_refusal(reaction: Reaction) -> None:
    with SmtpServer(on("RCPT", reaction)) as server, connected(server) as subject, pytest.raises(LeaseLost):
        send(subject, marker=Marker(lease_lost))


def test_a_begin_that_cannot_start_says_nothing_to_the_relay() -> None:
    def closed() -> Callable[[], None]:
        raise LeaseLost("the ledger is closed")

    with SmtpServer() as server, connected(server) as subject:
        with pytest.raises(LeaseLost):
            subject.send("shop@example.com", ADA, MAIL, closed, time.monotonic() + 60)
        assert send(subject).outcome is Outcome.SENT
        assert server.verbs() == ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "BODY", "DOT"]


@pytest.mark.parametrize("message", [MAIL, LARGE], ids=["small", "large"])
def test_past_the_deadline_nothing_is_sent(message: bytes) -> None:
    with SmtpServer() as server, connected(server) as subject:
        marker = Marker(lambda: time.sleep(0.2))
        report = subject.send("shop@example.com", ADA, message, marker, time.monotonic() + 0.1)
        assert (report.outcome, report.stage) == (Outcome.DEFERRED, Stage.DATA)
        assert "lease is nearly over" in report.reply
        server.wait_for(lambda server: not server.open)
    assert not {"BODY", "DOT"} & set(server.verbs())


def test_a_deadline_that_passes_during_a_long_upload_stops_it() -> None:
    with SmtpServer(on("BODY", Delay(0.6))) as server, connected(server) as subject:
        report = subject.send("shop@example.com", ADA, LARGE, Marker(), time.monotonic() + 0.3)
        assert (report.outcome, report.stage) == (Outcome.DEFERRED, Stage.DATA)
        server.wait_for(lambda server: not server.open)
    assert "BODY" in server.verbs()
    assert "DOT" not in server.verbs()


# --- pipelining -------------------------------------------------------------------------------------------------------


def test_pipelining_sends_the_envelope_in_one_write() -> None:
    with SmtpServer() as server, connected(server) as subject:
        send(subject)
        mail, rcpt, data, body, dot = server.events[2:]
    assert mail.segment == rcpt.segment == data.segment < body.segment == dot.segment


def test_without_pipelining_each_command_waits_for_its_reply() -> None:
    with SmtpServer(pipelining=False) as server, connected(server) as subject:
        send(subject)
        mail, rcpt, data, body, _ = server.events[2:]
    assert mail.segment < rcpt.segment < data.segment < body.segment


def test_data_accepted_behind_a_refused_recipient_ends_the_connection() -> None:
    def script(event: Event) -> Reaction | None:
        if event.connection > 1:
            return None
        return {"RCPT": Reply(550, "5.1.1 unknown"), "DATA": Reply(354)}.get(event.verb)

    with SmtpServer(script) as server, connected(server) as subject:
        assert send(subject) == Report(Outcome.REJECTED, Stage.RCPT, 550, "5.1.1 unknown", suppress=True)
        assert send(subject, BOB).outcome is Outcome.SENT
        assert server.verbs(1) == ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"]
        assert [mail.recipient for mail in server.mails] == [BOB]


@pytest.mark.parametrize("loss", [Drop(), Hang(), Raw(b"what?\r\n")], ids=repr)
def test_a_refusal_stands_when_the_connection_is_lost_behind_it(loss: Reaction) -> None:
    def script(event: Event) -> Reaction | None:
        return {"MAIL": Reply(552, "5.3.4 too large"), "RCPT": loss}.get(event.verb) if event.connection == 1 else None

    with SmtpServer(script) as server, connected(server, smtp_timeout=0.3) as subject:
        assert send(subject) == Report(Outcome.REJECTED, Stage.MAIL, 552, "5.3.4 too large", DeadReason.INVALID)
        assert send(subject).outcome is Outcome.SENT
        assert server.connections == 2


# --- one connection for many mails ------------------------------------------------------------------------------------


def test_mails_share_a_connection_and_nothing_is_asked_between_them() -> None:
    with SmtpServer() as server, connected(server) as subject:
        for recipient in (ADA, BOB, ADA):
            assert send(subject, recipient).outcome is Outcome.SENT
        assert server.connections == 1
        assert server.verbs() == ["CONNECT", "EHLO", *(["MAIL", "RCPT", "DATA", "BODY", "DOT"] * 3)]


def test_after_a_hundred_mails_comes_a_new_connection() -> None:
    with SmtpServer() as server, connected(server) as subject:
        for _ in range(101):
            assert send(subject).outcome is Outcome.SENT
        assert [mail.connection for mail in server.mails] == [1] * 100 + [2]
        assert server.verbs(1)[-1] == "QUIT"


def test_an_idle_connection_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_IDLE_SECONDS", 0.0)
    with SmtpServer() as server, connected(server) as subject:
        send(subject)
        assert send(subject).outcome is Outcome.SENT
        assert server.verbs()[7:9] == ["RSET", "MAIL"]
        assert server.connections == 1


@pytest.mark.parametrize("reaction", [Hang(), Drop(), Reply(421), Reply(500)], ids=repr)
def test_an_idle_connection_that_does_not_answer_well_is_replaced(
    reaction: Reaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(conversation, "_GOODBYE_SECONDS", 0.2)
    marker = Marker()
    with SmtpServer(on("RSET", reaction)) as server, connected(server, smtp_connect_timeout=0.3) as subject:
        send(subject)
        started = time.monotonic()
        assert send(subject, marker=marker).outcome is Outcome.SENT
        assert time.monotonic() - started < 2  # as long as connecting may take, not as a reply may
        assert [mail.connection for mail in server.mails] == [1, 2]
    assert (marker.started, marker.awaited) == (1, 1)


def test_a_kept_connection_that_was_closed_costs_no_attempt(pipelining: bool) -> None:
    marker = Marker()
    with SmtpServer(pipelining=pipelining) as server, connected(server) as subject:
        send(subject)
        server.hang_up()
        assert send(subject, BOB, marker=marker).outcome is Outcome.SENT
        assert [(mail.recipient, mail.connection) for mail in server.mails] == [(ADA, 1), (BOB, 2)]
    assert (marker.started, marker.awaited) == (1, 1)


@pytest.mark.parametrize("reaction", [Reply(421), Drop(), Hang()], ids=repr)
def test_a_kept_connection_that_fails_at_mail_costs_no_attempt(reaction: Reaction, pipelining: bool) -> None:
    marker = Marker()

    def script(event: Event) -> Reaction | None:
        tired = event.verb == "MAIL" and event.connection == 1 and server.mails
        return reaction if tired else None

    with (
        SmtpServer(script, pipelining=pipelining) as server,
        connected(server, smtp_timeout=0.3) as subject,
    ):
        send(subject)
        assert send(subject, BOB, marker=marker).outcome is Outcome.SENT
        assert [(mail.recipient, mail.connection) for mail in server.mails] == [(ADA, 1), (BOB, 2)]
    assert (marker.started, marker.awaited) == (1, 1)


def test_the_second_connection_is_the_last_that_is_tried() -> None:
    def script(event: Event) -> Reaction | None:
        return Reply(421, "4.7.0 too many") if event.verb == "MAIL" and server.mails else None

    with SmtpServer(script) as server, connected(server) as subject:
        send(subject)
        assert send(subject) == Report(Outcome.THROTTLED, Stage.MAIL, 421, "4.7.0 too many")
        assert server.connections == 2


@pytest.mark.parametrize("loss", [Drop(), Hang()], ids=repr)
def test_a_kept_connection_lost_later_than_mail_is_an_attempt(loss: Reaction) -> None:
    def script(event: Event) -> Reaction | None:
        return loss if event.verb == "RCPT" and server.mails else None

    with SmtpServer(script, pipelining=False) as server, connected(server, smtp_timeout=0.3) as subject:
        send(subject)
        started = time.monotonic()
        report = send(subject)
        assert time.monotonic() - started < 2  # the patience for the first mail's dot is over
        assert (report.outcome, report.stage) == (Outcome.DEFERRED, Stage.RCPT)
        assert server.connections == 1


def test_a_relay_that_went_away_is_down_and_begin_is_waited_for() -> None:
    marker = Marker()
    with SmtpServer() as server, connected(server) as subject:
        send(subject)
        server.go_away()
        report = send(subject, marker=marker)
    assert (report.outcome, report.stage) == (Outcome.RELAY_DOWN, Stage.CONNECT)
    assert (marker.started, marker.awaited) == (1, 1)


def test_closing_says_quit_once_and_sending_opens_again() -> None:
    with SmtpServer() as server, connected(server) as subject:
        send(subject)
        subject.close()
        subject.close()
        assert server.verbs(1)[-1] == "QUIT"
        assert send(subject).outcome is Outcome.SENT
        assert server.connections == 2


@pytest.mark.parametrize("reaction", [Hang(), Drop(), Raw(b"what?\r\n"), Reply(500)], ids=repr)
def test_closing_never_fails_nor_waits_for_long(reaction: Reaction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "_GOODBYE_SECONDS", 0.2)
    with SmtpServer(on("QUIT", reaction)) as server, connected(server) as subject:
        send(subject)
        started = time.monotonic()
        subject.close()
        assert time.monotonic() - started < 1
        server.wait_for(lambda server: not server.open)


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def accepting() -> Iterator[SmtpServer]:
    with SmtpServer(extensions=EAI) as server:
        yield server


@hypothesis_settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from([b"", b".", b"..", b".\xff", b"text", b" .", b"x."])), st.sampled_from([b"", b"\r\n"]))
def test_every_body_arrives_as_it_was(accepting: SmtpServer, lines: list[bytes], end: bytes) -> None:
    message = b"\r\n".join(lines) + end
    with connected(accepting) as subject:
        assert send(subject, message=message).outcome is Outcome.SENT
    assert accepting.mails[-1].data == (message if message.endswith(b"\r\n") else message + b"\r\n")


@pytest.mark.parametrize("beyond", range(-4, 5))
def test_a_body_about_as_long_as_a_write_arrives_whole(beyond: int, accepting: SmtpServer) -> None:
    line = b"." + b"z" * 60 + b"\r\n"  # 64 bytes on the wire, its dot doubled: a write is a whole number of lines
    message = line * (conversation._BLOCK // 64 - 1) + b"z" * (62 + beyond) + b"\r\n"
    with connected(accepting) as subject:
        assert send(subject, message=message).outcome is Outcome.SENT
    assert accepting.mails[-1].data == message


@pytest.mark.parametrize(
    "address", ["a@x.example>\r\nRCPT TO:<eve@x.example", "a@x\0.example", "a@x\u2028.example", "\ud800@x.example"]
)
@pytest.mark.parametrize("field", ["sender", "recipient"])
def test_an_address_that_breaks_the_envelope_is_refused_before_anything_else(field: str, address: str) -> None:
    marker = Marker()
    addresses = {"sender": ADA, "recipient": BOB} | {field: address}
    with SmtpServer() as server, connected(server) as subject:
        with pytest.raises(InvalidAddress, match=field):
            subject.send(addresses["sender"], addresses["recipient"], MAIL, marker, time.monotonic() + 60)
        assert server.connections == marker.started == 0


# --- addresses that are not ASCII -------------------------------------------------------------------------------------

JORG = "j\xf6rg@xn--bcher-kva.example"
FROM_JORG = f"From: {JORG}\r\nTo: Ada <ada@example.com>\r\n\r\nHello.\r\n".encode()
NEEDY = [
    pytest.param("shop@example.com", JORG, MAIL, id="recipient"),
    pytest.param(JORG, ADA, MAIL, id="sender"),
    pytest.param("shop@example.com", ADA, FROM_JORG, id="header"),
]


@pytest.mark.parametrize(("sender", "recipient", "message"), NEEDY)
def test_what_is_not_ascii_goes_out_as_it_is_where_smtputf8_is_offered(
    sender: str, recipient: str, message: bytes, pipelining: bool
) -> None:
    with SmtpServer(extensions=EAI, pipelining=pipelining) as server, connected(server) as subject:
        report = subject.send(sender, recipient, message, Marker(), time.monotonic() + 60)
        assert report.outcome is Outcome.SENT
        assert send(subject).outcome is Outcome.SENT  # and a mail in ASCII over the same connection
        mail, ascii_mail = server.mails
        assert (mail.sender, mail.recipient, mail.data) == (sender, recipient, message)
        assert (mail.parameters, ascii_mail.parameters) == (
            (f"SIZE={len(message)}", "BODY=8BITMIME", "SMTPUTF8"),
            (f"SIZE={len(MAIL)}",),
        )
        assert server.connections == 1


@pytest.mark.parametrize(("sender", "recipient", "message"), NEEDY)
def test_where_smtputf8_is_not_offered_it_is_said_so_and_the_connection_takes_the_next(
    sender: str, recipient: str, message: bytes, pipelining: bool
) -> None:
    marker = Marker()
    with SmtpServer(pipelining=pipelining) as server, connected(server) as subject:
        for kept in (False, True):
            report = subject.send(sender, recipient, message, marker, time.monotonic() + 60)
            said = f"{JORG} needs SMTPUTF8 (RFC 6531), which relay {server.host}:{server.port} does not offer"
            assert report == Report(
                Outcome.REJECTED, Stage.MAIL, None, said, DeadReason.INVALID, sender_refused=sender == JORG
            ), kept
            assert send(subject).outcome is Outcome.SENT
        assert server.connections == 1
        assert server.verbs().count("MAIL") == 2
    assert (marker.started, marker.awaited) == (2, 2)
