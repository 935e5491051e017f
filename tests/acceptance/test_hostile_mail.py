"""A mail that attacks whoever looks at it, in a real browser: nothing of it runs, on no page, and nothing is fetched.

Whatever strangers can write is made of the same stuff: what the mail says, its headers, the relay's words about it, a
provider's, the exception of a task.
"""

import re
import socket
import threading
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request, expect
from werkzeug.serving import make_server

from app.dead_tasks import DeadTask
from outbox import auditing, suppressions
from outbox.models import (
    EmailAttachment,
    EmailAttempt,
    EmailBlob,
    EmailContent,
    EmailEvent,
    QueuedEmail,
)
from outbox.states import DeadReason, Feedback, Outcome, Stage, Status
from tests.application import PASSWORD, World
from tests.browsing import Visitor
from tests.smtp_server import SmtpServer

GIF = b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")

LATE = 150
"""Milliseconds in which a page's scripts would have run, and its frames would have gone elsewhere."""


class Listener:
    """Somebody who waits to be told that the mail is being read. A connection is enough, with or without a request."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.heard = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.heard += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def hostile_html(url: str) -> str:
    return Path(__file__).with_name("hostile_mail.html").read_text().replace("URL", url)


def _words(url: str) -> str:
    """For every other place; with what turns the reading direction, and what ends an attribute or an element."""
    return (
        "\u202egpj.<script>window.ran = 1</script><svg onload='window.ran = 1; alert(1)'>\"'`{{ 7 * 7 }}</title>"
        f"</textarea></pre><img src='{url}/words.png' onerror='window.ran = 1'><form action='{url}'>"
    )


def _attack(world: World, listener: Listener) -> tuple[int, int]:
    """A mail and a failed task, made of it."""
    said, now = _words(listener.url), datetime.now(UTC)
    content = EmailContent(
        message_id=f"<{said}@evil.example>", date=now, sender=f"{said} <eve@evil.example>", to_header=said,
        cc_header=said, reply_to=said, subject=said, text=said, html=hostile_html(listener.url),
        headers={"X-Said": said}, template=said, locale=said, category=said, request_id=said, size=10,
    )  # fmt: skip
    final: dict[str, Any] = {"status": Status.DEAD, "dead_reason": DeadReason.REJECTED, "finalized_at": now}
    row: dict[str, Any] = {
        "content": content, "subject": said, "category": said, "last_error": f"rcpt: {said}", "max_attempts": 5,
        "on_uncertain": "hold", "request_id": said, **final,
    }  # fmt: skip
    mail = QueuedEmail(recipient=f"{said}@evil.example", **row)
    world.add(mail, QueuedEmail(recipient=f"other{said}@evil.example", kind="cc", **row))
    blob = EmailBlob(sha256="0" * 64, size=3, data=GIF)
    of = {"content_id": content.id, "sha256": blob.sha256, "filename": said}
    logo = EmailAttachment(position=0, content_type="image/gif", inline_id="logo", **of)
    file = EmailAttachment(position=1, content_type=said, **of)
    attempt = EmailAttempt(
        email_id=mail.id, number=1, started_at=now, outcome=Outcome.REJECTED, stage=Stage.RCPT, code=550, reply=said,
        relay=said, worker=said,
    )  # fmt: skip
    event = EmailEvent(
        email_id=mail.id, kind=Feedback.BOUNCED, provider=said, provider_event_id="1", occurred_at=now, said=said
    )
    task = DeadTask(
        task_id=said, name=said, queue=said, args=[said], kwargs={said: said}, exception=said, traceback=said, tries=5,
        request_id=said, retried_by=said,
    )  # fmt: skip
    world.add(blob)
    world.add(logo, file, attempt, event, task)
    with world.engine.begin() as connection:
        auditing.record(connection, said, said, said, reason=said)
        auditing.record_mails(connection, said, said, [mail.id], filter={said: said})
        connection.execute(
            sa.text("INSERT INTO email_suppressions (target, reason, source, category) VALUES (:s, :s, :s, :s)"),
            {"s": said},
        )
        suppressions.add(connection, "evil.example", "spam", said)
        auditing.pause(connection, world.settings.endpoints[0].name, said, said)
    return mail.id, task.id


@pytest.fixture
def hostile_world(
    listener: Listener, sqlite_url: str, redis_url: str, smtp: SmtpServer, tmp_path: Path
) -> Iterator[World]:
    templates = tmp_path / "templates" / "named"
    templates.mkdir(parents=True)
    (templates / "subject.txt").write_text("{{ name }}")
    (templates / "body.html").write_text(hostile_html(listener.url) + "<p>{{ name }}")
    (templates / "sample.json").write_text('{"name": "<script>top.ran = 1</script>"}')
    world = World(smtp, database_url=sqlite_url, redis_url=redis_url, outbox_templates=str(templates.parent))
    yield world
    world.close()


def _paths(world: World, mail: int, task: int) -> list[str]:
    """Every page of the admin there is, and what they lead to."""
    ids = {"/admin/mail/": str(mail), "/admin/tasks/": str(task), "/admin/templates/": "named"}
    rules = [
        rule.rule
        for rule in world.app.url_map.iter_rules()
        if rule.rule.startswith("/admin/") and "GET" in (rule.methods or ())
    ]
    paths = [re.sub(r"<.*>", ids.get(rule.partition("<")[0], ""), rule) for rule in rules]
    assert f"/admin/mail/{mail}/html" in paths
    searched = [f"/admin/mail/?subject={'%3Cscript%3E'}", "/admin/mail/find?q=%3Csvg+onload%3Dalert(1)%3E"]
    asked = [f"/admin/mail/all?move=requeue&subject={'%3Cscript%3E'}", "/admin/suppressions/?q=%3Cscript%3E"]
    return [path for path in paths if not path.endswith(("/find", "/all"))] + searched + asked


def test_nothing_of_a_mail_runs_and_nothing_leaves(hostile_world: World, listener: Listener, browser: Browser) -> None:
    world = hostile_world
    world.admin("root")
    mail, task = _attack(world, listener)
    server = make_server("127.0.0.1", 0, world.app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        visitor = Visitor(browser, f"http://127.0.0.1:{server.server_port}")
        visitor.log_in("root", PASSWORD)
        watched = Watched(visitor.page)
        for path in _paths(world, mail, task):
            watched.open(path)
        assert watched.complaints == []
        _press_what_it_offers(visitor.page, f"/admin/mail/{mail}", listener)
        ours = (f"http://127.0.0.1:{server.server_port}/", "data:")
        assert [url for url in watched.left if not url.startswith(ours)] == []
    finally:
        server.shutdown()
    assert listener.heard == 0
    _it_would_have(browser, listener)


class Watched:
    """A page whose every request, dialog and complaint is kept; but for what the browser itself refused to a mail."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.left: list[str] = []
        self.complaints: list[str] = []
        page.context.on("requestfinished", lambda request: self.left.append(request.url))
        page.context.on("requestfailed", self._fail)
        page.context.on("page", lambda other: self.complaints.append(f"a window: {other.url}"))
        page.on("console", self._hear)
        page.on("dialog", self._dismiss)

    def _fail(self, request: Request) -> None:
        if request.failure != "csp":
            self.left.append(request.url)

    def _dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _hear(self, message: ConsoleMessage) -> None:
        about = message.location.get("url", "")  # a text has no icon, and the browser asks for one
        if message.type in {"error", "warning"} and not about.endswith(("/html", "/favicon.ico")):
            self.complaints.append(f"{self._page.url}: {message.text} ({about})")

    def open(self, path: str) -> None:
        answer = self._page.goto(path)
        assert answer is not None
        assert answer.status == 200, path
        self._page.wait_for_timeout(LATE)
        assert self._page.evaluate("window.ran") is None, path
        assert path.partition("?")[0] in self._page.url or path.startswith("/admin/mail/find"), (path, self._page.url)


def _press_what_it_offers(page: Page, path: str, listener: Listener) -> None:
    """For somebody who takes the form and the links of the mail for ours. What the mail itself brings is there."""
    page.goto(path)
    frame = page.frame_locator("iframe")
    expect(frame.locator("#logo")).to_have_js_property("naturalWidth", 1)
    frame.get_by_role("button", name="Log in again").click()
    for link in ("#script", "#window", "#top"):
        frame.locator(link).click()
    page.wait_for_timeout(LATE)
    assert page.url.endswith(path)
    assert page.evaluate("window.ran") is None
    assert listener.heard == 0


def _it_would_have(browser: Browser, listener: Listener) -> None:
    """Without us, it does all that."""
    page = browser.new_context().new_page()
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.route("**/refresh", lambda route: route.abort())
    page.goto("about:blank")
    page.set_content(hostile_html(listener.url), wait_until="commit")
    page.wait_for_timeout(LATE)
    assert listener.heard > 0
