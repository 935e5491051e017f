"""Claimed rows, a relay that does as it is told, and what stands in the tables afterwards; on both databases."""

import email
import email.policy
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from outbox.attachments import Attachment
from outbox.chunk import Composer, Mail
from outbox.database import create_engine
from outbox.delivery import Courier
from outbox.drain import drain
from outbox.errors import SettingsError
from outbox.models import EmailContent, QueuedEmail
from outbox.reaper import reap
from outbox.settings import Settings
from outbox.states import Outcome, Priority, Status
from tests import rows
from tests.delivering import ADA, BOB, DEE, at, claim, deliver, make_due, queue, seconds_until, settings_for
from tests.servers import free_port
from tests.smtp_script import Delay, Drop, Event, Reaction, Reply, by_recipient
from tests.smtp_server import EAI, USUAL, SmtpServer
from tests.tcp_proxy import proxy_to

# --- One mail, one conversation: the row and the line of the record

LATER, NEVER = Reply(451, "4.3.0 later"), Reply(550, "5.7.1 never")


@pytest.mark.parametrize(
    ("verb", "reaction", "outcome", "stage", "code", "reply"),
    [
        ("NOOP", LATER, Outcome.SENT, "dot", 250, "2.0.0 queued"),
        ("QUIT", Drop(), Outcome.SENT, "dot", 250, "2.0.0 queued"),
        ("MAIL", LATER, Outcome.DEFERRED, "mail", 451, "4.3.0 later"),
        ("RCPT", LATER, Outcome.DEFERRED, "rcpt", 451, "4.3.0 later"),
        ("DATA", LATER, Outcome.DEFERRED, "data", 451, "4.3.0 later"),
        ("DOT", LATER, Outcome.DEFERRED, "dot", 451, "4.3.0 later"),
        ("DATA", Drop(), Outcome.DEFERRED, "data", None, None),
        ("MAIL", NEVER, Outcome.REJECTED, "mail", 550, "5.7.1 never"),
        ("RCPT", NEVER, Outcome.REJECTED, "rcpt", 550, "5.7.1 never"),
        ("DATA", NEVER, Outcome.REJECTED, "data", 550, "5.7.1 never"),
        ("DOT", NEVER, Outcome.REJECTED, "dot", 550, "5.7.1 never"),
        ("DOT", Drop(), Outcome.UNCERTAIN, "dot", None, None),
        ("DOT", Drop(accept=True), Outcome.UNCERTAIN, "dot", None, None),
        ("CONNECT", Reply(421, "4.3.2 go away"), Outcome.RELAY_DOWN, "connect", 421, "4.3.2 go away"),
        ("CONNECT", Drop(), Outcome.RELAY_DOWN, "connect", None, None),
        ("MAIL", Reply(421, "4.3.2 go away"), Outcome.RELAY_DOWN, "mail", 421, "4.3.2 go away"),
    ],
)
def test_outcomes(  # noqa: PLR0917 - the columns of the table above
    engine: sa.Engine, verb: str, reaction: Reaction, outcome: Outcome, stage: str, code: int | None, reply: str | None
) -> None:
    with SmtpServer(at(verb, reaction)) as server:
        settings = settings_for(server)
        (id_,) = queue(engine, settings)
        deliver(engine, settings)

    row = rows.row(engine, id_)
    follows = {
        Outcome.SENT: ("sent", 1, None),
        Outcome.DEFERRED: ("pending", 1, None),
        Outcome.REJECTED: ("dead", 1, "rejected"),
        Outcome.UNCERTAIN: ("pending", 1, None),
        Outcome.RELAY_DOWN: ("pending", 0, None),
    }
    assert (row.status, row.attempts, row.dead_reason) == follows[outcome]
    assert (row.claims, row.claim_token, row.claimed_by, row.lease_expires_at) == (1, None, None, None)
    assert (row.sent_at is not None) == (outcome is Outcome.SENT)
    if row.status == "pending":
        assert 47 <= seconds_until(row.next_attempt_at) <= 73

    (line,) = rows.attempts(engine)
    assert (line.email_id, line.number, line.outcome, line.stage, line.code) == (id_, 1, outcome, stage, code)
    assert (line.worker, line.relay) == ("worker-1", settings.endpoints[0].name)
    assert line.started_at <= line.finished_at
    assert line.reply == reply or (reply is None and line.reply)
    assert row.last_code == code
    assert row.last_error == (None if outcome is Outcome.SENT else f"{stage}: {line.reply}")


def test_held_mail_waits_for_a_person(engine: sa.Engine) -> None:
    with SmtpServer(at("DOT", Drop(accept=True))) as server:
        settings = settings_for(server)
        (id_,) = queue(engine, settings, on_uncertain="hold")
        deliver(engine, settings)
        make_due(engine)
        deliver(engine, settings)
        assert len(server.mails) == 1
    row = rows.row(engine, id_)
    assert (row.status, row.attempts, row.finalized_at, row.dead_reason) == ("uncertain", 1, None, None)
    assert [line.outcome for line in rows.attempts(engine)] == ["uncertain"]


def test_a_mail_lost_after_the_dot_is_resent_twice_and_no_more(engine: sa.Engine) -> None:
    with SmtpServer(at("DOT", Drop(accept=True))) as server:
        settings = settings_for(server, outbox_max_attempts=100)
        (id_,) = queue(engine, settings)
        for _ in range(5):
            deliver(engine, settings)
            make_due(engine)
        assert len(server.mails) == 3
        assert len({mail.data for mail in server.mails}) == 1  # the same Message-ID: the reader's client can tell
    row = rows.row(engine, id_)
    assert (row.status, row.attempts, row.claims) == ("uncertain", 3, 3)
    assert [line.number for line in rows.attempts(engine)] == [1, 2, 3]


def test_deferred_until_it_is_exhausted(engine: sa.Engine) -> None:
    with SmtpServer(at("RCPT", LATER)) as server:
        settings = settings_for(server)
        (id_,) = queue(engine, settings, max_attempts=3)
        for attempts, status in ((1, "pending"), (2, "pending"), (3, "dead"), (3, "dead")):
            deliver(engine, settings)
            make_due(engine)
            row = rows.row(engine, id_)
            assert (row.attempts, row.status) == (attempts, status)
    assert row.dead_reason == "exhausted"
    assert (row.last_code, row.last_error) == (451, "rcpt: 4.3.0 later")


def test_a_mail_scheduled_in_the_past_is_retried_like_any_other(engine: sa.Engine) -> None:
    """Its age counts from when it could first be tried: a week ago nobody knew of it."""
    with SmtpServer(at("RCPT", LATER)) as server:
        settings = settings_for(server)
        (id_,) = queue(engine, settings, scheduled_at=rows.from_now(-7 * 86400))
        deliver(engine, settings)
    assert rows.row(engine, id_).status == "pending"


# --- Several recipients


def test_a_refused_recipient_does_not_disturb_the_others(engine: sa.Engine) -> None:
    with SmtpServer(by_recipient()) as server:
        settings = settings_for(server)
        recipients = [ADA, "reject-550@example.com", BOB, "defer-451@example.com", "drop-at-data@example.com", DEE]
        ids = queue(engine, settings, to=recipients[:2], cc=recipients[2:4], bcc=recipients[4:])
        statuses = deliver(engine, settings)
        assert statuses == {Status.SENT: 3, Status.DEAD: 1, Status.PENDING: 2}
        assert rows.statuses(engine, ids) == ["sent", "dead", "sent", "pending", "pending", "sent"]
        assert [mail.recipient for mail in server.mails] == [ADA, BOB, DEE]
        assert len({mail.data for mail in server.mails}) == 1
        make_due(engine)
        deliver(engine, settings)
        assert [mail.recipient for mail in server.mails] == [ADA, BOB, DEE]  # nobody a second time


def test_a_bcc_is_in_no_header(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        settings = settings_for(server)
        queue(engine, settings, cc=BOB, bcc=[f"Delia <{DEE}>", "ed@example.com"])
        deliver(engine, settings)
    assert [mail.recipient for mail in server.mails] == [ADA, BOB, DEE, "ed@example.com"]
    for mail in server.mails:
        assert b"delia" not in mail.data.lower()
        assert b"ed@example" not in mail.data
        assert b"\nbcc:" not in mail.data.lower()
        assert mail.sender == "shop@example.com"


def test_attachments_arrive_intact(engine: sa.Engine) -> None:
    noise = os.urandom(200_000)
    files = [
        Attachment("noise.bin", noise),
        Attachment("empty.txt", b""),
        Attachment("dots.txt", b".\r\n..\n.\r.\r\n"),
        Attachment("r\u00e9sum\u00e9 \u2603.pdf", b"%PDF-1.7"),
        Attachment("logo.png", b"\x89PNG\r\n", inline_id="logo"),
    ]
    with SmtpServer() as server:
        settings = settings_for(server)
        queue(engine, settings, html='<img src="cid:logo">', attachments=files)
        queue(engine, settings, attachments=files[:1])
        queue(engine, settings)
        deliver(engine, settings)
    first, second, third = (email.message_from_bytes(mail.data, policy=email.policy.default) for mail in server.mails)
    found = {part.get_filename(): part for part in first.walk() if part.get_filename()}
    assert {name: part.get_payload(decode=True) for name, part in found.items()} == {f.filename: f.data for f in files}
    assert found["logo.png"]["Content-ID"] == "<logo>"
    assert [part.get_content() for part in second.iter_attachments()] == [noise]
    assert list(third.iter_attachments()) == []


# --- Rows that need no conversation


def test_an_expired_mail_is_dead_without_a_word(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        (expired,) = rows.add(engine, expires_at=rows.from_now(-1))
        (good,) = rows.add(engine, expires_at=rows.from_now(60))
        assert deliver(engine, settings_for(server)) == {Status.DEAD: 1, Status.SENT: 1}
        assert len(server.mails) == 1
    row = rows.row(engine, expired)
    assert (row.dead_reason, row.attempts, row.last_error) == ("expired", 0, "expired before its turn came")
    assert [line.email_id for line in rows.attempts(engine)] == [good]


def test_a_mail_that_cannot_be_composed_does_not_stop_the_others(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        first, purged, unbreakable, last = (rows.add(engine)[0] for _ in range(4))
        (foreign,) = rows.add(engine, recipient="\u00e4da@example.com")
        with engine.begin() as connection:
            for id_, column, value in ((purged, "text", None), (unbreakable, "headers", {"X-A": 5})):
                connection.execute(
                    sa.update(EmailContent)
                    .where(
                        EmailContent.id
                        == sa.select(QueuedEmail.content_id).where(QueuedEmail.id == id_).scalar_subquery()
                    )
                    .values({column: value})
                )
        deliver(engine, settings_for(server))
        assert len(server.mails) == 2
    ids = [first, purged, unbreakable, last, foreign]
    assert rows.statuses(engine, ids) == ["sent", "dead", "dead", "sent", "dead"]
    for id_ in (purged, unbreakable, foreign):
        row = rows.row(engine, id_)
        assert (row.dead_reason, row.attempts) == ("invalid", int(id_ == foreign))
        assert row.last_error
    assert "neither text nor HTML" in rows.row(engine, purged).last_error
    assert "\u00e4da@example.com needs SMTPUTF8 (RFC 6531), which relay" in rows.row(engine, foreign).last_error


JORG = "j\u00f6rg@example.com"


@pytest.mark.parametrize("extensions", [EAI, USUAL], ids=["offered", "not offered"])
def test_one_address_that_is_not_ascii_is_in_the_headers_of_all(engine: sa.Engine, extensions: tuple[str, ...]) -> None:
    """The others die with it where SMTPUTF8 is not offered: their copies name it. As a bcc it concerns nobody else."""
    with SmtpServer(extensions=extensions) as server:
        settings = settings_for(server)
        named = queue(engine, settings, to=[ADA, f"J\u00f6rg <{JORG}>"])
        hidden = queue(engine, settings, to=[ADA], bcc=[JORG])
        deliver(engine, settings)
    dead = {id_ for id_ in (*named, *hidden) if rows.row(engine, id_).status == "dead"}
    assert dead == (set() if extensions is EAI else {*named, hidden[1]})
    for id_ in dead:
        row = rows.row(engine, id_)
        assert row.dead_reason == "invalid"
        assert row.last_error == (
            f"mail: {JORG} needs SMTPUTF8 (RFC 6531), which relay {server.host}:{server.port} does not offer"
        )
    with_jorg = [mail for mail in server.mails if mail.data.isascii() is False]
    assert len(with_jorg) == (2 if extensions is EAI else 0)
    assert all("SMTPUTF8" in mail.parameters for mail in with_jorg)
    assert len(server.mails) == 4 - len(dead)


def test_a_sender_that_is_not_ascii_shuts_the_relay_before_it_costs_the_queue(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        settings = settings_for(server, smtp_from_email=JORG)
        ids = [id_ for _ in range(5) for id_ in queue(engine, settings)]
        deliver(engine, settings)
    assert rows.statuses(engine, ids) == ["dead", "dead", "pending", "pending", "pending"]


def test_a_mail_that_cannot_be_composed_leaves_nothing_to_the_next(engine: sa.Engine) -> None:
    """The next is another row of the mail before, whose bytes would still be at hand."""
    with SmtpServer() as server:
        settings = settings_for(server)
        first, last = queue(engine, settings, to=[ADA, BOB])
        (broken,) = queue(engine, settings, to=DEE)
        spoilt = rows.row(engine, broken).content_id
        with engine.begin() as connection:
            connection.execute(sa.update(EmailContent).where(EmailContent.id == spoilt).values(text=None))
            order = {first: -3, broken: -2, last: -1}
            for id_, seconds in order.items():
                due = sa.update(QueuedEmail).where(QueuedEmail.id == id_).values(next_attempt_at=rows.from_now(seconds))
                connection.execute(due)
        assert deliver(engine, settings) == {Status.SENT: 2, Status.DEAD: 1}
        assert [mail.recipient for mail in server.mails] == [ADA, BOB]
        assert server.mails[0].data == server.mails[1].data


def test_an_attachment_that_is_gone(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        settings = settings_for(server)
        (id_,) = queue(engine, settings, attachments=[Attachment("a.txt", b"a")])
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("ROLLBACK")
                connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
                connection.exec_driver_sql("DELETE FROM email_blobs")
                connection.exec_driver_sql("PRAGMA foreign_keys=ON")
            else:
                connection.execute(sa.text("ALTER TABLE email_attachments DROP CONSTRAINT fk_email_attachments_sha256"))
                connection.execute(sa.text("DELETE FROM email_blobs"))
                connection.commit()
        deliver(engine, settings)
        assert server.mails == []
    assert rows.row(engine, id_).dead_reason == "invalid"


@pytest.mark.parametrize("claimed_before", [0, 1])
def test_a_database_that_fails_over_an_attachment_kills_no_mail(postgresql_url: str, claimed_before: int) -> None:
    """The mail can be composed, but not now: it goes back with the rest of its chunk.

    Also where a claim came to nothing before, so that its composing has been begun: no worker died of it.
    """
    engine = sa.create_engine(postgresql_url)
    killer = sa.create_engine(postgresql_url)

    def kill(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if "email_blobs" in statement:
            process = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
            with killer.begin() as other:
                other.execute(sa.text("SELECT pg_terminate_backend(:process)"), {"process": process})

    with SmtpServer() as server:
        settings = settings_for(server)
        ids = queue(engine, settings, to=[ADA, BOB], attachments=[Attachment("a.txt", b"a")])
        with engine.begin() as connection:
            connection.execute(sa.update(QueuedEmail).values(claims=claimed_before))
        sa.event.listen(engine, "before_cursor_execute", kill)
        with pytest.raises(sa.exc.OperationalError):
            deliver(engine, settings)
        for id_ in ids:
            row = rows.row(engine, id_)
            assert (row.status, row.claims, row.claim_token) == ("pending", claimed_before, None)
        sa.event.remove(engine, "before_cursor_execute", kill)
        make_due(engine)
        assert deliver(engine, settings) == {Status.SENT: 2}
        assert len(server.mails) == 2
    engine.dispose()
    killer.dispose()


def test_a_mail_that_expires_while_others_are_sent_is_not_sent(engine: sa.Engine) -> None:
    with SmtpServer(at("DOT", Delay(1.2))) as server:
        settings = settings_for(server)
        (slow,) = queue(engine, settings)
        (late,) = queue(engine, settings, expires_at=datetime.now(UTC) + timedelta(seconds=1))
        assert deliver(engine, settings) == {Status.SENT: 1, Status.DEAD: 1}
    assert [rows.row(engine, id_).dead_reason for id_ in (slow, late)] == [None, "expired"]


def test_a_relay_too_slow_for_the_lease_defers_its_mail_and_not_the_others(engine: sa.Engine) -> None:
    def script(event: Event) -> Reaction | None:
        return Delay(1.5) if event.verb == "DATA" and event.recipient == BOB else None

    with SmtpServer(script, pipelining=False) as server:
        settings = settings_for(server, smtp_dot_timeout=5, outbox_lease_seconds=6)
        (slow,) = queue(engine, settings, to=BOB)
        (other,) = queue(engine, settings, to=ADA)
        deliver(engine, settings)
        assert [mail.recipient for mail in server.mails] == [ADA]
    assert (rows.row(engine, slow).status, rows.row(engine, slow).attempts) == ("pending", 1)
    assert rows.row(engine, other).status == "sent"
    (line,) = (line for line in rows.attempts(engine) if line.email_id == slow)
    assert (line.outcome, line.stage) == (Outcome.DEFERRED, "data")


def test_a_database_that_is_back_in_time_costs_nothing(postgresql_url: str) -> None:
    url = sa.make_url(postgresql_url)
    with SmtpServer() as server, proxy_to(url.port or 0) as proxy:
        settings = settings_for(server)
        engine = create_engine(url.set(port=proxy.port).render_as_string(hide_password=False))
        queue(engine, settings)
        ids, token = claim(engine)
        proxy.refuse()
        back = threading.Timer(1, proxy.restore)
        back.start()
        with closing(Courier(engine, settings, "worker-1")) as courier:
            assert courier.deliver(ids, token) == {Status.SENT: 1}
        back.join()
        engine.dispose()


def test_a_database_that_is_back_too_late_finds_the_chunk_released(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.delivery.LOAD_PATIENCE", 0.2)
    url = sa.make_url(postgresql_url)
    with SmtpServer() as server, proxy_to(url.port or 0) as proxy:
        settings = settings_for(server)
        engine = create_engine(url.set(port=proxy.port).render_as_string(hide_password=False))
        ids = queue(engine, settings)
        _, token = claim(engine)
        proxy.refuse()
        back = threading.Timer(2, proxy.restore)
        back.start()
        with closing(Courier(engine, settings, "worker-1")) as courier, pytest.raises(sa.exc.OperationalError):
            courier.deliver(ids, token)
        back.join()
        assert rows.statuses(engine, ids) == ["pending"]
        assert not server.mails
        engine.dispose()


def test_what_is_not_the_mails_fault_sends_it_to_the_back(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def compose(self: Composer, mail: Mail) -> bytes:
        if mail.recipient == BOB:
            raise MemoryError
        return mail.message.as_bytes()

    monkeypatch.setattr(Composer, "compose", compose)
    with SmtpServer() as server:
        settings = settings_for(server)
        (heavy,) = queue(engine, settings, to=BOB)
        (mate,) = queue(engine, settings, to=ADA)
        with pytest.raises(MemoryError):
            deliver(engine, settings)
        assert rows.statuses(engine, [heavy, mate]) == ["pending", "pending"]
        assert rows.row(engine, heavy).attempts == rows.row(engine, heavy).claims == 0
        assert deliver(engine, settings) == {Status.SENT: 1}  # the mate, and not first the heavy one again
        assert [mail.recipient for mail in server.mails] == [ADA]


def test_settings_that_cannot_work_leave_every_row_as_it_was(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        ids = rows.add(engine, 2)
        with pytest.raises(SettingsError, match="SMTP_CA_FILE"):
            deliver(engine, settings_for(server, smtp_ca_file="/nowhere.pem"))
    assert [(rows.row(engine, id_).status, rows.row(engine, id_).claims) for id_ in ids] == [("pending", 0)] * 2


# --- The rest of a chunk


def test_a_relay_that_is_down_costs_one_try_for_the_whole_chunk(engine: sa.Engine) -> None:
    ids = rows.add(engine, 5)
    before = [rows.row(engine, id_).next_attempt_at for id_ in ids]
    with SmtpServer() as server:
        settings = settings_for(server, smtp_port=free_port())
        assert deliver(engine, settings) == {Status.PENDING: 1}
    found = [rows.row(engine, id_) for id_ in ids]
    assert [(row.status, row.attempts, row.claim_token) for row in found] == [("pending", 0, None)] * 5
    assert [row.claims for row in found] == [1, 0, 0, 0, 0]
    assert 55 <= seconds_until(found[0].next_attempt_at) <= 61
    assert [row.next_attempt_at for row in found[1:]] == before[1:]  # they keep their places
    (line,) = rows.attempts(engine)
    assert (line.email_id, line.outcome, line.stage) == (ids[0], "relay_down", "connect")


def test_a_relay_that_goes_down_in_the_middle(engine: sa.Engine) -> None:
    ids = rows.add(engine, 5)

    def script(event: Event) -> Reaction | None:
        return (
            Reply(421, "4.3.2 shutting down") if event.verb in {"MAIL", "CONNECT"} and len(server.mails) == 2 else None
        )

    with SmtpServer(script) as server:
        deliver(engine, settings_for(server))
        assert len(server.mails) == 2
    assert rows.statuses(engine, ids) == ["sent", "sent", "pending", "pending", "pending"]
    assert [rows.row(engine, id_).claims for id_ in ids] == [1, 1, 1, 0, 0]


def test_stop_finishes_the_mail_in_hand_and_hands_back_the_rest(engine: sa.Engine) -> None:
    ids = rows.add(engine, 5)
    before = [rows.row(engine, id_).next_attempt_at for id_ in ids]

    def script(event: Event) -> Reaction | None:
        if event.verb == "DOT" and len(server.mails) == 1:
            courier.stop()
        return None

    with SmtpServer(script) as server, closing(Courier(engine, settings_for(server), "worker-1")) as courier:
        assert courier.deliver(*claim(engine)) == {Status.SENT: 2}
        assert courier.deliver(*claim(engine)) == {}  # nor is another chunk begun
        assert len(server.mails) == 2
    found = [rows.row(engine, id_) for id_ in ids]
    assert [row.status for row in found] == ["sent", "sent", "pending", "pending", "pending"]
    assert [row.claims for row in found] == [1, 1, 0, 0, 0]
    assert [row.next_attempt_at for row in found[2:]] == before[2:]  # due at once, in the old place


def test_a_slow_relay_is_given_half_of_the_lease(engine: sa.Engine) -> None:
    ids = rows.add(engine, 12)
    with SmtpServer(at("DOT", Delay(0.3))) as server:
        settings = settings_for(server, outbox_lease_seconds=2, smtp_dot_timeout=1)
        with closing(Courier(engine, settings, "worker-1")) as courier:
            sent = courier.deliver(*claim(engine, lease=2))[Status.SENT]
        assert 1 <= sent <= 5
        assert len(server.mails) == sent
    assert rows.statuses(engine, ids) == ["sent"] * sent + ["pending"] * (12 - sent)
    assert [rows.row(engine, id_).claims for id_ in ids] == [1] * sent + [0] * (12 - sent)


# --- Others want the same rows


@pytest.fixture(params=["two processes", "two threads of one"])
def two_couriers(
    request: pytest.FixtureRequest, engine: sa.Engine
) -> Iterator[Callable[[Settings], tuple[Courier, Courier]]]:
    made: set[Courier] = set()

    def make(settings: Settings) -> tuple[Courier, Courier]:
        first = Courier(engine, settings, "worker-1")
        second = first if request.param == "two threads of one" else Courier(engine, settings, "worker-2")
        made.update({first, second})
        return first, second

    yield make
    for courier in made:
        courier.close()


def test_a_chunk_delivered_twice_is_sent_once(
    engine: sa.Engine, two_couriers: Callable[[Settings], tuple[Courier, Courier]]
) -> None:
    ids = rows.add(engine, 30)
    statuses: Counter[Status] = Counter()
    with SmtpServer(at("DOT", Delay(0.02))) as server:
        couriers = two_couriers(settings_for(server))
        chunk = claim(engine)
        together = threading.Barrier(2)

        def work(courier: Courier) -> None:
            together.wait()
            statuses.update(courier.deliver(*chunk))

        threads = [threading.Thread(target=work, args=(courier,)) for courier in couriers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(server.mails) == 30
    assert statuses == {Status.SENT: 30}
    assert rows.statuses(engine, ids) == ["sent"] * 30
    assert [(line.email_id, line.outcome) for line in rows.attempts(engine)] == [(id_, "sent") for id_ in ids]


def test_a_lease_that_was_taken_away(engine: sa.Engine) -> None:
    """Reaped, and claimed by another, while we were greeting the relay: not a word of the mail is said."""
    ids = rows.add(engine, 3)
    taken: list[str] = []

    def script(event: Event) -> Reaction | None:
        if event.verb == "EHLO":
            with engine.begin() as connection:
                connection.execute(sa.update(QueuedEmail).values(lease_expires_at=rows.from_now(-1)))
            assert reap(engine, settings) == 3
            taken.append(claim(engine)[1])
        return None

    with SmtpServer(script) as server:
        settings = settings_for(server)
        with closing(Courier(engine, settings, "worker-1")) as courier:
            assert courier.deliver(*claim(engine)) == {}
        assert server.mails == []
        assert "BODY" not in server.verbs()
    for id_ in ids:
        row = rows.row(engine, id_)
        assert (row.status, row.claim_token, row.claims) == ("claimed", taken[0], 2)
    assert rows.attempts(engine) == []


def test_a_chunk_of_which_nothing_is_ours(engine: sa.Engine) -> None:
    ids = rows.add(engine, 3)
    with SmtpServer() as server, closing(Courier(engine, settings_for(server), "worker-1")) as courier:
        _, token = claim(engine)
        assert courier.deliver(ids, "another token") == {}
        assert courier.deliver([10**9, -1], token) == {}
        assert courier.deliver([], token) == {}
        assert server.connections == 0
    assert rows.statuses(engine, ids) == ["claimed"] * 3


def test_a_password_reset_does_not_wait_for_ten_thousand_newsletters(engine: sa.Engine) -> None:
    (low,) = rows.add(engine, priority=Priority.LOW)
    table = QueuedEmail.__table__
    columns = [column.name for column in table.columns if column.name != "id"]
    with engine.begin() as connection:
        for _ in range(14):  # doubles
            copies = sa.select(*(table.c[name] for name in columns)).where(table.c.priority == Priority.LOW)
            connection.execute(sa.insert(QueuedEmail).from_select(columns, copies))
    (high,) = rows.add(engine, priority=Priority.HIGH, next_attempt_at=rows.from_now(-1))
    published: list[tuple[Priority, list[int]]] = []
    with SmtpServer() as server:
        settings = settings_for(server, outbox_in_flight=200, outbox_chunk=100)
        assert drain(engine, settings, "worker-1", lambda lane, ids, _: published.append((lane, ids))) == 201
    assert published[0] == (Priority.HIGH, [high])
    assert [(lane, len(ids)) for lane, ids in published[1:]] == [(Priority.LOW, 100)] * 2
    assert low in published[1][1]
