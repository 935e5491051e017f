"""Every mail of the application with its sample; and how it is looked at, by `outbox preview` and under /admin/."""

import json
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from app import create_app
from app.accounts.models import Organisation, Role, User
from app.settings import AppSettings
from outbox.cli import main
from outbox.database import create_engine
from outbox.models import QueuedEmail
from outbox.preview import CLIPPED_BYTES, preview
from outbox.settings import Settings
from outbox.templates import Templates

OURS = "app:templates/email"
SETTINGS = Settings.load(outbox_templates=(OURS,))
HOSTILE = "<script>alert(1)</script>\"'&"


def every_mail() -> list[tuple[str, str | None]]:
    templates = Templates([OURS])
    return [(name, locale) for name in templates.names() for locale in (None, *templates.locales(name))]


@pytest.mark.parametrize(("name", "locale"), every_mail())
def test_a_mail_of_the_application_renders_with_its_sample(name: str, locale: str | None) -> None:
    shown = preview(Templates([OURS]), name, locale, SETTINGS)
    assert shown.subject
    assert shown.text
    assert shown.html
    assert shown.warning is None
    assert f'<html lang="{locale or "en"}"' in shown.html
    assert "prefers-color-scheme: dark" in shown.html
    assert 'class="sheet" style="' in shown.html or 'class="sheet" align="left" style="' in shown.html
    for part in (shown.subject, shown.text, shown.html):
        assert "{{" not in part
        assert "None" not in part
    assert ("nsubscribe" in shown.html) == ("unsubscribe_url" in Templates([OURS]).sample(name, locale))
    assert "\n\n\n" not in shown.text.strip()


def test_the_demos_mails_are_there() -> None:
    assert {"receipt", "password_reset", "login_code", "weekly_news", "new_comments"} <= set(Templates([OURS]).names())
    assert Templates([OURS]).locales("login_code") == ["de"]


def test_one_comment_is_no_digest_and_an_empty_month_is_short() -> None:
    templates = Templates([OURS])
    comment = templates.sample("new_comments")
    del comment["contexts"]
    alone = templates.render("new_comments", comment)
    assert alone.subject == "Katherine Johnson commented on Trace the fault in relay 70"
    assert alone.html is not None
    assert alone.html.count("Checked the figures") == 2  # and in the preheader
    report = templates.render("monthly_report", templates.sample("monthly_report") | {"taken": 0})
    assert report.subject == "Your November 2026: no quizzes"
    assert report.html is not None
    assert "<img" not in report.html


def test_the_tables_of_the_layout_are_none_in_a_text_that_is_made_from_the_html() -> None:
    mine = Path("mine/made")
    mine.mkdir(parents=True)
    (mine / "subject.txt").write_text("Made")
    (mine / "body.html").write_text("""{% extends "_layout.html" %}
{% from "_parts.html" import button, data_table, preheader %}
{% block preheader %}{{ preheader("Hidden") }}{% endblock %}
{% block body %}<h1>Look</h1><p>At this:</p>
{% call(quiz) data_table(["Quiz", "Result"], [["Rivers", "80%"]], right=[1]) %}
<td>{{ quiz[0] }}</td><td>{{ quiz[1] }}</td>{% endcall %}
{{ button("https://outbox.example/go", "Go") }}{% endblock %}
{% block reason %}You asked for it.{% endblock %}""")
    made = Templates(["mine", OURS]).render("made", {}, unsubscribe_url="https://outbox.example/u")
    assert made.text is not None
    assert (
        made.text.strip()
        == """\
● Outbox

# Look

At this:

| Quiz   | Result |
| ------ | ------ |
| Rivers | 80%    |

Go <https://outbox.example/go>

You asked for it. Unsubscribe <https://outbox.example/u>"""
    )


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """One template, and a place to add others."""
    monkeypatch.setenv("OUTBOX_TEMPLATES", "mails")
    made = Path("mails/hello")
    made.mkdir(parents=True)
    (made / "subject.txt").write_text("Hello {{ name }}")
    (made / "body.txt").write_text("Dear {{ name }}\n")
    (made / "body.html").write_text("<style>p { color: red }</style><p>Dear {{ name }}</p>")
    (made / "sample.json").write_text(json.dumps({"name": HOSTILE}))
    return made


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["preview", *arguments])


def test_the_verb_lists_the_templates(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "bare")
    (folder.parent / "bare" / "sample.json").unlink()
    (folder / "subject.de.txt").write_text("Hallo {{ name }}")
    assert re.findall(r"^(\w+) +(\S+) +(\w+)$", run().stdout, re.MULTILINE) == [
        ("Template", "Locales", "Sample"), ("bare", "-", "no"), ("hello", "de", "yes"),
    ]  # fmt: skip
    assert json.loads(run("--json").stdout)[1] == {"name": "hello", "locales": ["de"], "sample": True}


def test_the_verb_shows_subject_sizes_and_text(folder: Path) -> None:
    shown = run("hello").stdout
    assert re.search(rf"^Subject +Hello {re.escape(HOSTILE)}$", shown, re.MULTILINE)
    assert re.search(r"^Text +\d+ bytes\nHTML +\d+ bytes\nMessage +[\d,]+ bytes", shown, re.MULTILINE)
    assert shown.endswith(f"\nDear {HOSTILE}\n")
    assert "Gmail" not in shown
    (folder / "subject.de.txt").write_text("Hallo {{ name }}")
    assert "Hallo <script>" in run("hello", "--locale", "de-AT").stdout
    assert run("hello", "--text").stdout == f"Dear {HOSTILE}"
    assert '<p style="color: red;">Dear &lt;script&gt;' in run("hello", "--html").stdout
    told = json.loads(run("hello", "--json").stdout)
    assert told["html_bytes"] == len(told["html"].encode())
    assert told["message_bytes"] > told["text_bytes"] + told["html_bytes"]


def test_a_sample_has_its_dates_in_iso_8601(folder: Path) -> None:
    (folder / "body.txt").write_text("{{ at|date }}, {{ at|time }}, {{ on|date }}, {{ from|time }}")
    sample = {"name": "Ada", "at": "2026-11-22T23:30Z", "on": "2026-11-22", "from": "18:05", "time_zone": "Asia/Tokyo"}
    (folder / "sample.json").write_text(json.dumps(sample))
    shown = run("hello", "--text").stdout.replace("\u202f", " ")
    assert shown == "Nov 23, 2026, 8:30 AM, Nov 22, 2026, 6:05 PM"
    (folder / "sample.json").write_text(json.dumps(sample | {"on": "soon"}))
    assert "body.txt, line 1" in run("hello").stderr
    assert "ISO 8601" in run("hello").stderr


def test_the_verb_warns_of_what_gmail_clips(folder: Path) -> None:
    (folder / "body.html").write_text("x" * (CLIPPED_BYTES + 1))
    assert "Gmail clips HTML of more than 102,400 bytes" in run("hello").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["helo"], "did you mean 'hello'?"),
        (["hello"], "sample.json"),
        (["hello", "--locale", "x y"], "locale='x y'"),
        (["--html"], "which template?"),
        (["hello", "--html", "--json"], "exclude each other"),
    ],
)
def test_misuse_is_said(folder: Path, arguments: list[str], said: str) -> None:
    (folder / "sample.json").unlink()
    failed = run(*arguments)
    assert failed.exit_code == 2
    assert said in failed.stderr


def test_without_a_folder_the_verb_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "OUTBOX_TEMPLATES=templates/email: there is no such folder" in run().stderr
    Path("app/templates/email").mkdir(parents=True)
    assert "No templates" in run().stderr


def test_the_page_for_the_browser_shows_and_runs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert run("hello", "--open").exit_code == 0
    path = Path(opened[0].removeprefix("file://"))
    assert path.stat().st_mode & 0o077 == 0
    page = path.read_text()
    assert "<script" not in page
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in unescape(page)
    frames = re.findall(r'<iframe [^>]*?sandbox=""[^>]*? srcdoc="([^"]*)"', page)
    assert len(frames) == page.count("<iframe") == 4
    assert unescape(frames[0]).count("Dear &lt;script&gt;") == 1


def test_the_verb_queues_a_test(folder: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("SMTP_FROM_EMAIL", "shop@example.com")
    assert run("hello", "--send-to", "nobody").exit_code == 2
    assert json.loads(run("hello", "--send-to", "ada@example.com", "--json").stdout)["status"] == "pending"
    engine = create_engine(sqlite_url)
    with Session(engine) as session:
        (mail,) = session.scalars(sa.select(QueuedEmail)).all()
        assert (mail.recipient, mail.subject) == ("ada@example.com", f"[test] Hello {HOSTILE}")
        assert mail.content.text == f"Dear {HOSTILE}"
    engine.dispose()


@pytest.fixture
def app(folder: Path, sqlite_url: str, redis_url: str) -> Iterator[Flask]:
    app = create_app(AppSettings.load(database_url=sqlite_url, redis_url=redis_url, smtp_from_email="shop@example.com"))
    with app.extensions["sessions"].begin() as session:
        shop = Organisation(name="Shop")
        session.add(User(username="root", name="Root", role=Role.ADMIN, password_hash="!", organisation=shop))
    yield app
    app.extensions["engine"].dispose()


@pytest.fixture
def browser(app: Flask) -> FlaskClient:
    """Logged in."""
    client = app.test_client()
    with app.extensions["sessions"]() as session, client.session_transaction() as cookies:
        cookies["_user_id"] = session.scalars(sa.select(User)).one().get_id()
    return client


def test_the_pages_show_a_template_and_escape_it(browser: FlaskClient, folder: Path) -> None:
    (folder / "subject.de.txt").write_text("Hallo")
    assert '<a href="/admin/">Admin</a>' in browser.get("/").text
    assert '<a href="/admin/templates/hello?locale=de">de</a>' in browser.get("/admin/templates/").text
    answer = browser.get("/admin/templates/hello")
    assert "<script>" not in answer.text
    assert "<h1>Hello &lt;script&gt;alert(1)" in answer.text
    assert re.search(r"<dt>HTML</dt><dd>\d+ bytes</dd>", answer.text)
    assert "script-src 'self'; " in answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Security-Policy"].endswith("; frame-src 'self'")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none';")
    frames = re.findall(r'<iframe [^>]*sandbox="" [^>]*src="([^"]+)"', answer.text)
    assert set(frames) == {"/admin/templates/hello/html"}
    assert len(frames) == answer.text.count("<iframe") == 4
    assert "<h1>Hallo</h1>" in browser.get("/admin/templates/hello?locale=de").text
    assert browser.get("/admin/templates/helo").status_code == 404
    assert browser.get("/admin/templates/..%2fhello").status_code == 404


def test_the_frame_may_run_nothing_and_fetch_nothing(browser: FlaskClient) -> None:
    answer = browser.get("/admin/templates/hello/html")
    assert '<p style="color: red;">Dear &lt;script&gt;' in answer.text
    policy = answer.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "sandbox", "img-src data:", "frame-ancestors 'self'"} <= set(policy)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert answer.headers["Cache-Control"] == "no-store"


def test_what_is_wrong_with_a_template_stands_on_its_page_until_it_is_mended(
    browser: FlaskClient, folder: Path
) -> None:
    (folder / "body.html").write_text("\n<b>{{ nmae }}</b>")
    answer = browser.get("/admin/templates/hello")
    assert answer.status_code == 422
    assert "body.html, line 2" in unescape(answer.text)
    assert "Send a test to" not in answer.text
    assert browser.get("/admin/templates/hello/html").status_code == 422
    (folder / "body.html").write_text("<b>{{ name }}</b>")
    assert browser.get("/admin/templates/hello").status_code == 200
    assert "locale='xx'" in unescape(browser.get("/admin/templates/hello?locale=xx").text)
    assert browser.get("/admin/templates/hello/html?locale=xx").status_code == 422
    (folder / "sample.json").unlink()
    assert "it has no sample.json" in unescape(browser.get("/admin/templates/hello").text)
    for no_json in (b"\xff", b"[" * 100_000):
        (folder / "sample.json").write_bytes(no_json)
        assert "sample.json is not JSON" in unescape(browser.get("/admin/templates/hello").text)
    shutil.rmtree(folder.parent)
    for page in ("/admin/templates/", "/admin/templates/hello"):
        assert "there is no such folder" in unescape(browser.get(page).text)


def test_a_test_is_sent_by_the_form_and_by_nothing_else(app: Flask, browser: FlaskClient) -> None:
    path = "/admin/templates/hello/test"
    assert browser.post(path, data={"to": "ada@example.com"}).status_code == 400  # no token
    found = re.search(r'name="csrf_token" value="([^"]+)"', browser.get("/admin/templates/hello").text)
    assert found is not None
    token = {"csrf_token": found[1]}
    assert app.test_client().post(path, data={"to": "ada@example.com", **token}).status_code == 400
    refused = browser.post(path, data={"to": "nobody<b>", **token})
    assert refused.status_code == 422
    assert "Nothing was sent. to='nobody&lt;b&gt;'" in refused.text.replace("&#39;", "'")
    assert count(app) == 0
    sent = browser.post(path, data={"to": "ada@example.com", **token}, follow_redirects=True)
    assert "Mail 1 to ada@example.com is queued" in sent.text
    assert count(app) == 1


def count(app: Flask) -> int:
    with app.extensions["sessions"]() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(QueuedEmail)) or 0
