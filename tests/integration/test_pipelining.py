"""The next mail's commands behind the dot of the one before: a round trip a mail, and nothing too much is sent."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from outbox.delivery import Courier
from outbox.states import Status
from tests import rows
from tests.delivering import claim, deliver, make_due, queue, settings_for
from tests.smtp_script import Delay, Drop, Event, Hang, Raw, Reaction, Reply
from tests.smtp_server import SmtpServer

GOES_AHEAD = ["MAIL", "RCPT", "DATA", "BODY", "DOT"]


def of_first(verb: str, reaction: Reaction) -> Callable[[Event], Reaction | None]:
    """Only for mail to 0@example.com."""
    return lambda event: reaction if event.verb == verb and event.recipient == "0@example.com" else None


def queue_several(engine: sa.Engine, server: SmtpServer, count: int = 3) -> list[int]:
    return [queue(engine, settings_for(server), to=f"{number}@example.com")[0] for number in range(count)]


def test_a_mail_takes_one_write(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        queue_several(engine, server, 20)
        assert deliver(engine, settings_for(server)) == {Status.SENT: 20}
        assert server.verbs(1) == ["CONNECT", "EHLO", *(20 * GOES_AHEAD), "QUIT"]
        at_the_end = [event.segment for event in server.events if event.verb == "DOT"]
    # The greeting, the first mail's commands, and from then on each mail with the commands of the next.
    assert at_the_end == list(range(3, 23))


def test_without_pipelining_each_command_waits(engine: sa.Engine) -> None:
    with SmtpServer(pipelining=False) as server:
        queue_several(engine, server)
        assert deliver(engine, settings_for(server)) == {Status.SENT: 3}


@pytest.mark.parametrize(
    ("reaction", "first"),
    [
        (Reply(451, "4.3.0 later"), "pending"),
        (Reply(550, "5.7.1 never"), "dead"),
        (Reply(421, "4.3.2 closing"), "pending"),
        (Drop(accept=True), "pending"),
        (Drop(), "pending"),
    ],
)
def test_what_becomes_of_a_mail_is_nothing_to_the_one_behind_it(
    engine: sa.Engine, reaction: Reaction, first: str
) -> None:
    with SmtpServer(of_first("DOT", reaction)) as server:
        ids = queue_several(engine, server)
        deliver(engine, settings_for(server))
        assert rows.statuses(engine, ids) == [first, "sent", "sent"]
        assert [mail.recipient for mail in server.mails][-2:] == ["1@example.com", "2@example.com"]
    assert [line.number for line in rows.attempts(engine)] == [1, 1, 1]


def test_a_relay_that_hangs_after_the_dot_has_not_got_the_one_behind_it(engine: sa.Engine) -> None:
    with SmtpServer(of_first("DOT", Hang(accept=True))) as server:
        ids = queue_several(engine, server)
        deliver(engine, settings_for(server, smtp_dot_timeout=0.5))
        assert rows.statuses(engine, ids) == ["pending", "sent", "sent"]
        assert [mail.recipient for mail in server.mails] == [f"{number}@example.com" for number in range(3)]


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
def test_a_mail_that_was_offered_and_is_refused(engine: sa.Engine, verb: str) -> None:
    def refuse(event: Event) -> Reaction | None:
        second = [said.verb for said in server.events].count(verb) == 2  # this one included
        return Reply(451, "4.3.0 later") if event.verb == verb and second else None

    with SmtpServer(refuse) as server:
        ids = queue_several(engine, server)
        deliver(engine, settings_for(server))
        assert rows.statuses(engine, ids) == ["sent", "pending", "sent"]


def test_a_mail_that_was_offered_and_is_taken_away(engine: sa.Engine) -> None:
    """Its row is another's before its dot: the relay has said 354 by then, and must not get a byte."""
    with SmtpServer() as server:
        settings = settings_for(server)
        first, second, third = queue_several(engine, server)
        ids, token = claim(engine)

        def steal(event: Event) -> Reaction | None:
            if event.verb == "DOT":
                with engine.begin() as connection:
                    connection.execute(
                        sa.text("UPDATE email_queue SET claim_token = 'other' WHERE id = :id"), {"id": second}
                    )
            return None

        server.script = steal
        courier = Courier(engine, settings, "worker-1")
        courier.deliver(ids, token)
        courier.close()
        assert [mail.recipient for mail in server.mails] == ["0@example.com"]
        assert server.verbs()[-4:] == ["DOT", "MAIL", "RCPT", "DATA"]
    assert rows.statuses(engine, [first, second, third]) == ["sent", "claimed", "claimed"]


def test_a_worker_that_stops_leaves_what_it_has_offered(engine: sa.Engine) -> None:
    with SmtpServer() as server:
        settings = settings_for(server)
        ids, _ = queue_several(engine, server), None
        courier = Courier(engine, settings, "worker-1")

        def stop(event: Event) -> Reaction | None:
            if event.verb == "DOT":
                courier.stop()
            return Delay(0.1) if event.verb == "DOT" else None

        server.script = stop
        courier.deliver(*claim(engine))
        courier.close()
        assert [mail.recipient for mail in server.mails] == ["0@example.com"]
        assert rows.statuses(engine, ids) == ["sent", "pending", "pending"]
        assert "QUIT" not in server.verbs()  # which the relay would have taken for the mail
        server.script = lambda _: None
        assert deliver(engine, settings) == {Status.SENT: 2}


def test_a_connection_that_is_cut_behind_the_dot(engine: sa.Engine) -> None:
    """The 250 arrives, and the relay is gone with the offer of the next mail: that is not that mail's attempt."""
    gone = Raw(b"250 2.0.0 queued\r\n421 4.3.2 closing\r\n")
    with SmtpServer(of_first("DOT", gone), strict=False) as server:
        ids = queue_several(engine, server)
        deliver(engine, settings_for(server))
        make_due(engine)
        deliver(engine, settings_for(server))
        assert rows.statuses(engine, ids) == ["sent", "sent", "sent"]
        assert [mail.recipient for mail in server.mails] == ["1@example.com", "2@example.com"]
    assert [line.number for line in rows.attempts(engine)] == [1, 1, 1]
