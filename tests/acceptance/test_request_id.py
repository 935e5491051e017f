"""A request's id, from the browser to the relay's 250: through a task, its mails' rows and two processes' logs."""

import json
import re

from outbox.searching import Filter, page
from outbox.states import Status
from tests.application import World
from tests.log_lines import log_lines
from tests.smtp_server import SmtpServer
from tests.system import StartSystem

ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_it_finds_the_mail_and_every_line_about_it(
    start_system: StartSystem, postgresql_url: str, smtp: SmtpServer
) -> None:
    system = start_system(postgresql_url, ADMIN_PASSWORD="hunter2x")
    web = World(smtp, database_url=postgresql_url, redis_url=system.settings.redis_url)
    ours = web.organisation()
    owner, assignee = web.user("owner", organisation=ours), web.user("assignee", organisation=ours)
    task = web.task(web.project(owner), assignee)
    worker = system.worker()
    with log_lines() as lines:
        answer = web.client(owner).post(f"/tasks/{task.id}/complete?why=x", json={}, headers={"X-Request-ID": ID})
    assert answer.status_code == 202
    system.wait_until_sent(2)
    worker.wait_for("chunk.done")
    worker.stop()

    with web.session() as session:
        mails = page(session, Filter(request_id=ID)).mails
        assert {mail.recipient for mail in mails} == {"owner@example.com", "assignee@example.com"}
        assert {mail.status for mail in mails} == {Status.SENT}
    said = [json.loads(line) for line in worker.log.splitlines() if line.startswith("{")]
    found = [line for line in [*lines(), *said] if line.get("request_id") == ID]
    assert [line["event"] for line in found] == [
        "http.request",
        "task.started",
        "mail.queued",
        "mail.queued",
        "task.succeeded",
        "mail.sent",
        "mail.sent",
    ]
    assert (found[0]["path"], found[0]["user"]) == (f"/tasks/{task.id}/complete", owner.id)
    assert {found[2]["mail_id"], found[3]["mail_id"]} == {mail.id for mail in mails}
    assert found[-1]["relay"] == f"{smtp.host}:{smtp.port}"
    assert found[-1]["reply"] == "2.0.0 queued"

    drains = {line["request_id"] for line in said if line.get("event") in {"drain.claimed", "chunk.done"}}
    assert len(drains) == 1, "a drain and its chunks share an id of their own"
    assert drains.isdisjoint({ID, found[1]["task_id"]})
    assert not re.search(r"(owner|assignee)@|hunter2x", worker.log)
    assert {line["logger"] for line in said} >= {"celery.apps.worker", "outbox.mail_log", "workers.task_log"}
    web.close()
