"""The id of a request: taken if it is one, given back, and borne by whatever the request sets in motion."""

import logging
from typing import Any

import pytest
import sqlalchemy as sa
from celery import shared_task
from celery.signals import before_task_publish

from app.queues import DRAIN, HEALTH_CHECK, SEND_DAILY_REMINDERS
from outbox.delivery import Courier
from outbox.drain import drain
from outbox.logs import on_behalf_of, request_id
from outbox.models import EmailContent, QueuedEmail
from outbox.searching import Filter, page
from outbox.service import EmailService
from outbox.states import Priority
from tests.application import World
from tests.log_lines import log_lines
from tests.smtp_script import by_recipient
from tests.smtp_server import SmtpServer

MAIL: dict[str, Any] = {"to": "ada@example.com", "subject": "Hello", "text": "Hello"}
ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("sent", [ID, "a", "01HF-x_y.z:1+2", "A" * 128])
def test_a_well_formed_id_is_taken_and_given_back(sqlite_world: World, sent: str) -> None:
    with log_lines() as lines:
        answer = sqlite_world.client().get("/", headers={"X-Request-ID": sent})
    assert answer.headers.getlist("X-Request-ID") == [sent]
    (line,) = [line for line in lines() if line.get("event") == "http.request"]
    assert line["request_id"] == sent


@pytest.mark.parametrize("sent", [None, "", " ", "-a", "a b", "A" * 129, "é", "a;b", "'--", "<svg>", "ada@example.com"])
def test_anything_else_is_replaced(sqlite_world: World, sent: str | None) -> None:
    headers = {} if sent is None else {"X-Request-ID": sent}
    answers = [sqlite_world.client().get("/healthz", headers=headers) for _ in range(2)]
    ids = {answer.headers["X-Request-ID"] for answer in answers}
    assert len(ids) == 2
    assert all(len(id_) == 32 and id_.isalnum() for id_ in ids)


def test_a_request_is_a_line_without_its_query_or_anybodys_name(sqlite_world: World) -> None:
    ada = sqlite_world.user("ada")
    with log_lines() as lines:
        sqlite_world.client(ada).get("/quizzes/?email=ada@example.com&password=hunter2")
        sqlite_world.client().get("/unsubscribe/eyJhIjoiYWRhIn0.c2ln")
        sqlite_world.client().get("/nowhere/ada@example.com")
        sqlite_world.client().get("/healthz")
        sqlite_world.client().get("/static/app.css").close()
    told = [line for line in lines() if line.get("event") == "http.request"]
    assert [(line["method"], line["path"], line["status"], line.get("user")) for line in told] == [
        ("GET", "/quizzes/", 200, ada.id),
        ("GET", "/unsubscribe/***", 404, None),
        ("GET", "/n***@example.com", 404, None),
    ]
    assert all(line["ms"] > 0 and line["bytes"] > 0 and line["request_id"] for line in told)
    assert "hunter2" not in str(lines())
    assert request_id.get() is None, "the thread serves others"


def test_what_breaks_a_view_is_logged_under_the_request(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError("no count for ada@example.com")

    monkeypatch.setattr("app.status.count_mail", broken)
    sqlite_world.app.config.update(TESTING=False, PROPAGATE_EXCEPTIONS=False)
    with log_lines() as lines:
        answer = sqlite_world.client().get("/", headers={"X-Request-ID": ID})
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (500, ID)
    error, request = lines()
    assert (error["request_id"], request["request_id"], request["status"]) == (ID, ID, 500)
    assert error["exception"][0]["exc_value"] == "no count for a***@example.com"


def test_mail_bears_the_id_unless_it_is_told_another(world: World) -> None:
    with world.session() as session, on_behalf_of(ID):
        service = EmailService(session, world.settings)
        service.queue_email(**MAIL)
        service.queue_emails([MAIL, MAIL])
        service.queue_email(**MAIL, request_id="told")
        session.flush()
        for model in (EmailContent, QueuedEmail):
            found = session.scalars(sa.select(model.request_id).order_by(model.request_id)).all()
            assert found == [ID, ID, ID, "told"]
        assert {row.request_id for row in page(session, Filter(request_id=ID)).mails} == {ID}


def test_a_line_says_what_a_commit_queued_and_what_none_did_not(sqlite_world: World) -> None:
    many = [MAIL] * 3
    sessions = sqlite_world.app.extensions["sessions"]
    with log_lines() as lines, sessions() as session, on_behalf_of(ID):
        service = EmailService(session, sqlite_world.settings)
        service.queue_email(**MAIL)
        session.flush()
        session.rollback()
        service.queue_emails(many)
        savepoint = session.begin_nested()
        service.queue_emails(many)
        with session.begin_nested():
            service.queue_email(**MAIL)
        savepoint.rollback()
        with session.begin_nested():
            service.queue_email(**MAIL | {"cc": "bob@example.com"}, request_id="told")
        session.commit()
        ids = list(session.scalars(sa.select(QueuedEmail.id).order_by(QueuedEmail.id)))
    told = [line for line in lines() if line.get("event") == "mail.queued"]
    assert [(line["mail_id"], line["rows"], line["request_id"]) for line in told] == [
        (ids[0], 3, ID),
        (ids[3], 2, "told"),
    ]


def test_each_mail_of_a_chunk_is_logged_under_its_own_id(world: World, smtp: SmtpServer) -> None:
    """Not under that of the task which happens to deliver it."""
    with world.session() as session:
        for id_, to in (("first", "ada"), (None, "bob"), ("third", "reject-550-at-dot")):
            mail = MAIL | {"to": f"{to}@example.com"}
            EmailService(session, world.settings).queue_email(**mail, request_id=id_)
    smtp.script = by_recipient()
    courier = Courier(world.engine, world.settings, "test")

    def deliver(_: Priority, ids: list[int], token: str) -> None:
        courier.deliver(ids, token)

    with log_lines() as lines, on_behalf_of("the drain's"):
        drain(world.engine, world.settings, "test", deliver)
        logging.getLogger("after").info("it is over")
    courier.close()
    told = [(line["event"], line.get("request_id")) for line in lines() if line.get("event", "").startswith("mail.")]
    assert told == [("mail.sent", "first"), ("mail.sent", None), ("mail.dead", "third")]
    assert lines()[-1]["request_id"] == "the drain's"


def test_a_task_runs_for_the_request_that_asked_for_it(sqlite_world: World) -> None:
    published: list[dict[str, Any]] = []

    def hear(sender: str, headers: dict[str, Any], **_: Any) -> None:
        published.append({"task": sender, "request_id": headers.get("request_id")})

    before_task_publish.connect(hear)
    celery = sqlite_world.app.extensions["celery"]
    with on_behalf_of(ID):
        celery.send_task(HEALTH_CHECK)
        celery.send_task(DRAIN, ignore_result=True)
    celery.send_task(HEALTH_CHECK)
    before_task_publish.disconnect(hear)
    assert published == [
        {"task": HEALTH_CHECK, "request_id": ID},
        {"task": DRAIN, "request_id": None},
        {"task": HEALTH_CHECK, "request_id": None},
    ]


def test_a_task_of_beat_has_an_id_of_its_own_which_its_mails_bear(sqlite_world: World) -> None:
    sqlite_world.user("ada")
    with log_lines() as lines:
        sqlite_world.run(SEND_DAILY_REMINDERS)
    begun, *_, done = [line for line in lines() if line.get("event", "").startswith("task.")]
    assert (begun["event"], done["event"]) == ("task.started", "task.succeeded")
    assert begun["request_id"] == begun["task_id"] == done["request_id"]
    assert done["seconds"] >= 0
    assert request_id.get() is None


def test_a_task_that_is_tried_again_keeps_its_id(sqlite_world: World) -> None:
    seen: list[str | None] = []

    @shared_task(name="tests.stubborn", bind=True, max_retries=1)  # type: ignore[untyped-decorator]
    def stubborn(self: Any, address: str) -> None:
        seen.append(request_id.get())
        raise self.retry(exc=ValueError(address), countdown=0)

    sqlite_world.run(HEALTH_CHECK)  # loads the tasks, and the signals with them
    task = sqlite_world.app.extensions["celery"].tasks["tests.stubborn"]
    with log_lines() as lines:
        task.apply(("ada@example.com",), headers={"request_id": ID})
    assert seen == [ID, ID]
    told = [(line["event"], line["request_id"]) for line in lines() if line.get("event", "").startswith("task.")]
    assert set(told) == {("task.started", ID), ("task.retried", ID), ("task.failed", ID)}
    assert "ada@" not in str(lines())
    assert not [line for line in lines() if line["logger"] == "celery.app.trace"]
