"""What listeners hear: once, when it is on record, whoever put it there."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from blinker import Signal

from outbox import signals, stages
from outbox.delivery import Courier
from outbox.drain import drain
from outbox.journal import Journal
from outbox.models import QueuedEmail
from outbox.reaper import reap
from outbox.settings import Settings
from outbox.settlement import Attempt, Settlement
from outbox.signals import Settled
from outbox.states import DeadReason, Outcome, Priority, Stage, Status
from tests import rows
from tests.delivering import ADA, at, deliver, make_due, queue, settings_for
from tests.smtp_script import Drop, Reply
from tests.smtp_server import SmtpServer

OF_MAIL = {"sent": signals.sent, "deferred": signals.deferred, "dead": signals.dead, "uncertain": signals.uncertain}


@pytest.fixture
def heard() -> Iterator[list[tuple[str, Settled]]]:
    """Everything that is told of mails, by the signal's name."""
    found: list[tuple[str, Settled]] = []

    def listener(name: str) -> Callable[..., None]:
        return lambda category, mail: found.append((name, mail))

    listeners = {name: listener(name) for name in OF_MAIL}
    for name, signal in OF_MAIL.items():
        signal.connect(listeners[name])
    yield found
    for name, signal in OF_MAIL.items():
        signal.disconnect(listeners[name])


def listening(signal: Signal, said: list[dict[str, Any]]) -> Any:
    return signal.connected_to(lambda sender, **words: said.append(words))


def test_the_life_of_a_mail(engine: sa.Engine, smtp: SmtpServer, heard: list[tuple[str, Settled]]) -> None:
    settings = settings_for(smtp)
    smtp.script = at("RCPT", Reply(450, "4.2.0 later"))
    (id_,) = queue(engine, settings, category="receipt", request_id="req-7", priority="high")
    deliver(engine, settings)
    ((name, mail),) = heard
    assert (name, mail.id, mail.recipient, mail.category, mail.request_id) == ("deferred", id_, ADA, "receipt", "req-7")
    assert (mail.status, mail.outcome, mail.stage, mail.code) == (Status.PENDING, Outcome.DEFERRED, Stage.RCPT, 450)
    assert (mail.reply, mail.why, mail.number) == ("4.2.0 later", "rcpt: 4.2.0 later", 1)
    assert (mail.priority, mail.relay) == (Priority.HIGH, settings.endpoints[0].name)
    smtp.script = lambda event: None
    make_due(engine)
    deliver(engine, settings)
    name, mail = heard[-1]
    assert (len(heard), name, mail.status, mail.number, mail.code, mail.why) == (2, "sent", Status.SENT, 2, 250, None)
    assert 0 <= mail.seconds_in_queue < 60
    assert list(mail.seconds) == [Stage.CONNECT, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT]
    assert all(0 <= seconds < 5 for seconds in mail.seconds.values())


def test_it_is_on_record_when_it_is_told(engine: sa.Engine, smtp: SmtpServer) -> None:
    seen: list[str] = []

    def look(category: str | None, mail: Settled) -> None:
        seen.extend(rows.statuses(engine, [mail.id]))

    with signals.sent.connected_to(look):
        queue(engine, settings_for(smtp))
        deliver(engine, settings_for(smtp))
    assert seen == ["sent"]


def test_the_ends_without_a_conversation(engine: sa.Engine, smtp: SmtpServer, heard: list[tuple[str, Settled]]) -> None:
    settings = settings_for(smtp)
    queue(engine, settings, expires_at=rows.from_now(3600))
    with engine.begin() as connection:
        connection.execute(sa.update(QueuedEmail).values(expires_at=rows.from_now(-1)))
    deliver(engine, settings)
    ((name, mail),) = heard
    assert (name, mail.dead_reason, mail.outcome, mail.relay) == ("dead", DeadReason.EXPIRED, None, None)
    assert mail.seconds == {}


def test_in_doubt(engine: sa.Engine, smtp: SmtpServer, heard: list[tuple[str, Settled]]) -> None:
    settings = settings_for(smtp)
    smtp.script = at("DOT", Drop())
    queue(engine, settings, on_uncertain="hold")
    queue(engine, settings, on_uncertain="retry")
    deliver(engine, settings)
    assert [(name, mail.outcome) for name, mail in heard] == [
        ("uncertain", Outcome.UNCERTAIN),
        ("deferred", Outcome.UNCERTAIN),
    ]


def test_who_is_interested_in_one_category_hears_of_no_other(engine: sa.Engine, smtp: SmtpServer) -> None:
    said: list[str | None] = []

    def note(category: str | None, mail: Settled) -> None:
        said.append(category)

    signals.sent.connect(note, sender="receipt")
    for category in ("receipt", "news", None):
        queue(engine, settings_for(smtp), category=category)
    deliver(engine, settings_for(smtp))
    assert said == ["receipt"]


def test_a_receiver_that_raises_harms_nothing(
    engine: sa.Engine, smtp: SmtpServer, heard: list[tuple[str, Settled]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(category: str | None, mail: Settled) -> None:
        raise RuntimeError("no such table: receipts")

    settings = settings_for(smtp)
    ids = queue(engine, settings) + queue(engine, settings)
    with signals.sent.connected_to(fail):
        assert deliver(engine, settings) == {Status.SENT: 2}
    assert rows.statuses(engine, ids) == ["sent", "sent"]
    assert len(heard) == 2, "others hear of it all the same"
    (first, _) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "no such table: receipts" in str(first.exc_info)


def test_the_reaper_tells_what_it_decides(engine: sa.Engine, heard: list[tuple[str, Settled]]) -> None:
    rows.leased(engine, Status.CLAIMED, "t", lease_expires_at=rows.from_now(-1))
    (id_,) = rows.leased(engine, Status.SENDING, "u", lease_expires_at=rows.from_now(-1), on_uncertain="hold")
    said: list[dict[str, Any]] = []
    with listening(signals.reaped, said):
        reap(engine, Settings.load())
        reap(engine, Settings.load())
    ((name, mail),) = heard
    assert (name, mail.id, mail.recipient, mail.outcome) == ("uncertain", id_, "ann@example.com", Outcome.UNCERTAIN)
    assert said == [{"rows": 2}]


def test_the_journal_tells_what_it_brings_and_not_what_was_known(
    engine: sa.Engine, tmp_path: Path, heard: list[tuple[str, Settled]]
) -> None:
    (id_,) = rows.leased(engine, Status.SENDING, "own")
    attempt = Attempt(id_, 1, 0.1, Outcome.SENT, Stage.DOT, 250, "ok", "relay:25", "worker-1")
    line = Settlement(id_, "own", Status.SENT, attempt=attempt)
    journal = Journal(tmp_path / "journal")
    for _ in range(2):
        journal.append([line])
        assert journal.replay(engine) == 1
    assert [(name, mail.id, mail.code) for name, mail in heard] == [("sent", id_, 250)]


def test_what_metrics_need_of_drains_and_lost_leases(
    engine: sa.Engine, smtp: SmtpServer, heard: list[tuple[str, Settled]]
) -> None:
    settings = settings_for(smtp)
    rows.add(engine, 3, priority=Priority.LOW)
    said: list[dict[str, Any]] = []
    chunks: list[tuple[list[int], str]] = []
    with listening(signals.drained, said):
        drain(engine, settings, "worker-1", lambda _, ids, token: chunks.append((ids, token)))
    assert said[0]["rows"] == {Priority.LOW: 3}
    assert 0 < said[0]["seconds"] < 30

    def steal(category: str | None, mail: Settled) -> None:
        with engine.begin() as connection:
            connection.execute(
                sa.update(QueuedEmail).where(QueuedEmail.status == Status.CLAIMED).values(claim_token="other")
            )

    said.clear()
    courier = Courier(engine, settings, "worker-1")
    with listening(signals.lease_lost, said), signals.sent.connected_to(steal):
        courier.deliver(*chunks[0])
    courier.close()
    assert len(heard) == 2  # when the first is told of, the second is begun
    assert len(said) == 1


def test_seconds_of_stages() -> None:
    marks = [(Stage.MAIL, 1.0), (Stage.RCPT, 3.0), (Stage.DATA, 3.5), (None, 4.0), (Stage.DATA, 9.0), (None, 9.25)]
    assert stages.seconds(marks) == {Stage.MAIL: 2.0, Stage.RCPT: 0.5, Stage.DATA: 0.75}
    assert stages.seconds([]) == {}
