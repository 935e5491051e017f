"""What people do with the application, in a browser, against running processes: web server, worker, relay."""

import io
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from urllib.request import urlopen

import pytest
import sqlalchemy as sa
from PIL import Image
from playwright.sync_api import Browser, Locator, expect

from app.accounts.models import User
from app.projects.models import Project, Task, TaskStatus
from app.seed import seed
from tests.application import PASSWORD
from tests.browsing import Visitor
from tests.servers import free_port
from tests.system import StartSystem, System, wait_until


@dataclass
class Site:
    """Everything that runs, with the seeded world in it."""

    system: System
    url: str
    inbox_url: str

    def open_task_of_ada(self) -> str:
        """The title of one in a project of Grace's."""
        owner, assignee = sa.orm.aliased(User), sa.orm.aliased(User)
        query = sa.select(Task.title).join(Task.project).join(owner, Project.owner).join(assignee, Task.assignee)
        open_ = query.where(owner.username == "grace", assignee.username == "ada", Task.status != TaskStatus.DONE)
        with self.system.sessions() as session:
            return str(session.scalars(open_.order_by(Task.id)).first())


@pytest.fixture
def site(start_system: StartSystem, postgresql_url: str) -> Site:
    smtp, inbox, web = free_port(), free_port(), free_port()
    url, inbox_url = f"http://127.0.0.1:{web}", f"http://127.0.0.1:{inbox}"
    system = start_system(
        postgresql_url,
        SMTP_HOST="127.0.0.1",
        SMTP_PORT=str(smtp),
        APP_URL=url,
        INBOX_URL=inbox_url,
        FILES_DIR="files",
        SECRET_KEY="a-secret-key-of-32-characters-xx",
        OUTBOX_SIGNING_KEYS="a-signing-key-of-32-characters-x",
    )
    with system.sessions.begin() as session:
        seed(session, system.settings, datetime.now(UTC), PASSWORD)
    system.start("inbox", sys.executable, "-m", "embedded.inbox", f"--smtp-port={smtp}", f"--page-port={inbox}")
    system.start(
        "web", sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{web}", "--threads=8", "--call", "app:create_app"
    )
    system.worker()
    for page in (f"{url}/healthz", inbox_url):
        wait_until(lambda page=page: _answers(page), what=page)  # type: ignore[misc]
    return Site(system, url, inbox_url)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture
def visitors(site: Site, browser: Browser) -> Iterator[dict[str, Visitor]]:
    """Ada, Grace and the admin, logged in; at the end, their browsers had nothing to complain about."""
    visitors = {name: Visitor(browser, site.url) for name in ("ada", "grace", "admin")}
    for name, visitor in visitors.items():
        visitor.log_in(name, PASSWORD)
    yield visitors
    assert [line for visitor in visitors.values() for line in visitor.complaints] == []


def test_what_people_do(visitors: dict[str, Visitor], site: Site) -> None:
    ada, grace, admin = visitors.values()
    _take_a_quiz(ada)
    _complete_a_task_and_its_owner_hears_of_it(ada, grace, site.open_task_of_ada())
    _upload_a_picture(ada)
    _export_the_users(admin)
    _find_the_export_in_the_inbox(admin, site)


def _take_a_quiz(visitor: Visitor) -> None:
    """One answer is wrong, and the others are right."""
    told = tomllib.loads((files("app.seed") / "quizzes.toml").read_text("utf-8"))["quizzes"]
    (quiz,) = [quiz for quiz in told if quiz["title"] == "How mail travels"]
    visitor.go_to("Quizzes")
    page = visitor.page
    page.get_by_role("link", name=quiz["title"]).click()
    for number, (text, right, wrong, *_) in enumerate(quiz["questions"]):
        question = page.get_by_role("group", name=re.compile(re.escape(text)))
        question.get_by_label(right if number else wrong, exact=True).check()
    page.get_by_role("button", name="Hand in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("5 of 6 right")
    expect(page.get_by_role("row").filter(has_text="wrong")).to_contain_text(quiz["questions"][0][1])


def _complete_a_task_and_its_owner_hears_of_it(visitor: Visitor, owner: Visitor, title: str) -> None:
    owner.go_to("Projects")
    unread = int(_bell(owner).locator("b").inner_text() or 0) if _bell(owner).locator("b").is_visible() else 0
    owner.page.evaluate("document.body.dataset.loaded = 'once'")

    visitor.go_to("My tasks")
    visitor.page.get_by_role("link", name=title).click()
    visitor.page.get_by_role("button", name="Complete").click()
    expect(visitor.page.get_by_role("heading", level=1)).to_have_text(title)  # back from "accepted", by itself
    expect(visitor.page.locator("dl .badge.done")).to_be_visible()

    expect(owner.page.locator(".toast")).to_contain_text(f"{title}: done")
    expect(_bell(owner).locator("b")).to_have_text(str(unread + 1))
    assert owner.page.evaluate("document.body.dataset.loaded") == "once"
    owner.page.locator(".toast").get_by_role("link").click()
    expect(owner.page.get_by_role("heading", level=1)).to_have_text(title)


def _bell(visitor: Visitor) -> Locator:
    return visitor.page.get_by_role("banner").get_by_role("link", name=re.compile("^Notifications"))


def _upload_a_picture(visitor: Visitor) -> None:
    visitor.go_to("Files")
    page = visitor.page
    page.get_by_label("Picture").set_input_files({"name": "harbour.png", "mimeType": "image/png", "buffer": _picture()})
    page.get_by_role("button", name="Upload").click()
    thumbnail = page.get_by_role("img", name="harbour.png")
    expect(thumbnail).to_be_visible()  # the page renews itself until it is there
    assert thumbnail.evaluate("image => image.decode().then(() => image.naturalWidth)") == 256


def _picture() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((1200, 800)).convert("RGB").save(file, "PNG")
    return file.getvalue()


def _export_the_users(admin: Visitor) -> None:
    admin.page.goto("/export/")
    admin.page.get_by_role("button", name="Export all users").click()
    expect(admin.page.get_by_role("heading", level=1)).to_have_text("The export is ready")
    with admin.page.expect_download() as download:
        admin.page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "user_export.csv"
    assert "katherine@example.com" in download.value.path().read_text("utf-8-sig")


def _find_the_export_in_the_inbox(admin: Visitor, site: Site) -> None:
    page = admin.page
    page.goto(site.inbox_url)
    mail = (
        page.get_by_role("row")
        .filter(has_text="admin@example.com")
        .filter(has_text=re.compile("export", re.IGNORECASE))
    )
    mail.get_by_role("link").click()
    expect(page.get_by_role("link", name="user_export.csv")).to_be_visible()
