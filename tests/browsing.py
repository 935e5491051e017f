"""A real browser: the system's Chromium, driven by Playwright, which therefore never looks for one of its own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.servers import ServerMissing

NAMES = ("chromium", "chromium-browser", "google-chrome")

_ARGUMENTS = (
    "--no-sandbox",  # which root, and most containers, cannot have; it sees no page but ours
    "--disable-gpu",
    "--disable-dev-shm-usage",  # 64 MB in a container
    # Nothing but what the test asks for.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

PATIENCE = 15_000
"""Milliseconds for something to appear, on a machine that has other things to do. It takes some hundred."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser. While it runs, this thread has an event loop: start what needs one of its own before."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise ServerMissing(f"no browser ({', '.join(NAMES)}): install one (Debian, Ubuntu: apt install chromium)")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        yield browser
        browser.close()


class Visitor:
    """Somebody with a browser window of their own. `complaints` is what their browser's console says went wrong."""

    def __init__(self, browser: Browser, base_url: str) -> None:
        self.complaints: list[str] = []
        context: BrowserContext = browser.new_context(base_url=base_url, locale="en-GB")
        context.set_default_timeout(PATIENCE)
        self.page: Page = context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{self.page.url}: {message.text}")

    def log_in(self, name: str, password: str) -> None:
        """From the first page on."""
        self.page.goto("/")
        self.page.get_by_role("main").get_by_role("link", name="Log in").click()
        self.page.get_by_label("Username").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()
        expect(self.page.get_by_role("button", name="Log out")).to_be_visible()

    def go_to(self, room: str) -> None:
        """By the navigation of the header."""
        self.page.get_by_role("navigation", name="Rooms").get_by_role("link", name=room).click()
        expect(self.page.get_by_role("navigation", name="Rooms").locator("[aria-current]")).to_have_text(room)
