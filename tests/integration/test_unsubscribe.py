"""The pages behind an unsubscribe link: what a person, a mail program and a mail scanner do with it."""

import logging
import re
from collections.abc import Iterator
from email import message_from_bytes

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from app.settings import AppSettings
from outbox import subscriptions, suppressions
from outbox.states import Status
from tests import rows
from tests.delivering import deliver, queue, settings_for
from tests.smtp_server import SmtpServer
from tests.subscribing import OLD_KEY, SUBSCRIBED

ADA = "Ada@example.com"
ONE_CLICK = {"List-Unsubscribe": "One-Click"}


@pytest.fixture
def settings(database_url: str) -> AppSettings:
    nowhere = {"database_url": database_url, "redis_url": "redis://127.0.0.1:1/0"}
    return AppSettings.load(**SUBSCRIBED | nowhere)


@pytest.fixture
def app(settings: AppSettings) -> Iterator[Flask]:
    app = create_app(settings)
    yield app
    app.extensions["engine"].dispose()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def path(settings: AppSettings, page: str = "unsubscribe", category: str = "news", address: str = ADA) -> str:
    token = subscriptions.url(settings, address, category).rpartition("/")[2]
    return f"/{page}/{token}"


def recorded(app: Flask) -> list[tuple[str, str, str]]:
    with app.extensions["engine"].connect() as connection:
        return [(line.target, line.category, line.source) for line in suppressions.listed(connection)]


def text(page: str) -> str:
    """What a reader sees."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", "", page, flags=re.DOTALL)).strip()


@pytest.mark.parametrize("page", ["unsubscribe", "preferences"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_to_look_changes_nothing(
    app: Flask, client: FlaskClient, settings: AppSettings, page: str, method: str
) -> None:
    for _ in range(2):
        answer = client.open(path(settings, page), method=method)
        assert answer.status_code == 200
        assert "Set-Cookie" not in answer.headers
    assert recorded(app) == []


@pytest.mark.parametrize("as_multipart", [False, True])
def test_one_click(app: Flask, client: FlaskClient, settings: AppSettings, as_multipart: bool) -> None:
    """RFC 8058: a POST of a form or as multipart, without a cookie; the answer is no redirect."""
    kind = "multipart/form-data" if as_multipart else "application/x-www-form-urlencoded"
    for _ in range(2):
        answer = client.post(path(settings), data=ONE_CLICK, content_type=kind)
        assert (answer.status_code, "Set-Cookie" in answer.headers, "Location" in answer.headers) == (200, False, False)
    assert recorded(app) == [("ada@example.com", "news", "one-click")]


@pytest.mark.parametrize("body", [b"", b"\xff=\xfe", b'{"a": 1}'])
def test_whatever_is_posted_wants_out(app: Flask, client: FlaskClient, settings: AppSettings, body: bytes) -> None:
    assert client.post(path(settings), data=body, content_type="application/x-www-form-urlencoded").status_code == 200
    assert recorded(app) == [("ada@example.com", "news", "unsubscribe page")]


def test_a_person_unsubscribes_and_thinks_again(app: Flask, client: FlaskClient, settings: AppSettings) -> None:
    link = path(settings, category="product-updates")
    asked = client.get(link).text
    assert "Ada@example.com is subscribed to our mail about product updates." in text(asked)
    assert re.findall(r'<form method="post" action="([^"]+)"', asked) == [link]

    done = client.post(link).text
    assert "You are unsubscribed Ada@example.com gets no more mail about product updates." in text(done)
    assert "You are unsubscribed" in client.get(link).text
    assert recorded(app) == [("ada@example.com", "product-updates", "unsubscribe page")]

    assert '<button class="quiet" name="undo" value="1">Undo</button>' in done
    undone = client.post(link, data={"undo": "1"}).text
    assert "Subscribed again Ada@example.com is subscribed to our mail about product updates again." in text(undone)
    assert recorded(app) == []
    assert f'href="{path(settings, "preferences", "product-updates")}"' in undone


def test_preferences(app: Flask, client: FlaskClient, settings: AppSettings) -> None:
    link = path(settings, "preferences")
    client.post(path(settings), data=ONE_CLICK)
    assert _ticked(client.get(link).text) == {"news": False, "product-updates": True}
    saved = client.post(link, data={"wanted": ["news"]}).text
    assert "Saved." in saved
    assert _ticked(saved) == _ticked(client.get(link).text) == {"news": True, "product-updates": False}
    assert recorded(app) == [("ada@example.com", "product-updates", "preference page")]
    client.post(link)
    assert _ticked(client.get(link).text) == {"news": False, "product-updates": False}
    client.post(link, data={"wanted": ["news", "product-updates", "receipt", ""]})
    assert recorded(app) == []


def _ticked(page: str) -> dict[str, bool]:
    return {name: bool(on) for name, on in re.findall(r'name="wanted" value="([^"]+)"( checked)?', page)}


def test_a_bounce_stays_and_is_told(app: Flask, client: FlaskClient, settings: AppSettings) -> None:
    with app.extensions["engine"].begin() as connection:
        suppressions.add(connection, ADA, "5.1.1 no such user", "mx1:25")
    link = path(settings, "preferences")
    page = client.post(link, data={"wanted": ["news", "product-updates"]}).text
    assert "No mail goes to this address at the moment, whatever is ticked here" in text(page)
    assert "5.1.1" not in page
    assert _ticked(page) == {"news": True, "product-updates": True}
    assert recorded(app) == [("ada@example.com", "", "mx1:25")]


def test_a_category_that_is_held_back_is_told(app: Flask, client: FlaskClient, settings: AppSettings) -> None:
    with app.extensions["engine"].begin() as connection:
        suppressions.add(connection, "example.com", "they asked", "bob@office", category="news")
    page = text(client.get(path(settings, "preferences")).text)
    assert "news (held back by us at the moment, whatever is ticked) product updates Save" in page


BROKEN = ["x", "x.y", "%00", "%FF", "ü", "a" * 5000]


@pytest.mark.parametrize("page", ["unsubscribe", "preferences"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_broken_link(
    app: Flask, settings: AppSettings, caplog: pytest.LogCaptureFixture, page: str, method: str
) -> None:
    caplog.set_level(logging.INFO)
    foreign = path(with_foreign_key(), page).rpartition("/")[2]
    for token in [*BROKEN, foreign, path(settings, page)[len(page) + 2 : -3]]:
        answer = app.test_client().open(f"/{page}/{token}", method=method, data=ONE_CLICK)
        assert answer.status_code == 404
        assert "This link does not work" in answer.text
        assert "Nothing has been changed" in answer.text
    assert recorded(app) == []
    assert foreign not in caplog.text


def with_foreign_key() -> AppSettings:
    return AppSettings.load(**SUBSCRIBED | {"outbox_signing_keys": OLD_KEY})


def test_no_keys_no_pages(database_url: str, settings: AppSettings) -> None:
    app = create_app(AppSettings.load(database_url=database_url, redis_url="redis://127.0.0.1:1/0"))
    assert app.test_client().post(path(settings), data=ONE_CLICK).status_code == 404
    app.extensions["engine"].dispose()


def test_a_category_that_is_no_subscription_any_more(database_url: str, settings: AppSettings) -> None:
    """Somebody asked: it is on record should the category come back."""
    left = AppSettings.load(**settings.model_dump() | {"outbox_subscriptions": ()})
    app = create_app(left)
    client = app.test_client()
    assert "You are unsubscribed" in client.post(path(settings), data=ONE_CLICK).text
    assert recorded(app) == [("ada@example.com", "news", "one-click")]
    assert "There is nothing to choose" in client.get(path(settings, "preferences")).text
    client.post(path(settings), data={"undo": "1"})
    assert recorded(app) == []
    app.extensions["engine"].dispose()


def test_the_pages_tell_nobody_where_they_are(client: FlaskClient, settings: AppSettings) -> None:
    for answer in (
        client.get(path(settings)), client.post(path(settings)), client.get(path(settings, "preferences")),
        client.get("/unsubscribe/x"),
    ):  # fmt: skip
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Robots-Tag"] == "noindex"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'; ")
        assert not re.search(r'(?:src|href)="(?!/)|<script|url\(|@import', answer.text), "it loads nothing"


def test_an_address_is_text_to_the_page(client: FlaskClient, settings: AppSettings) -> None:
    page = client.get(path(settings, address='"<script>alert(1)</script>"@example.com', category="<b>")).text
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;" in page


def test_a_long_body_is_refused(app: Flask, client: FlaskClient, settings: AppSettings) -> None:
    assert client.post(path(settings), data={"a": "x" * 20_000}).status_code == 413
    assert recorded(app) == []


def test_while_the_database_is_away_nobody_is_told_that_it_is_done(app: Flask, settings: AppSettings) -> None:
    with app.extensions["engine"].begin() as connection:
        connection.execute(sa.text("ALTER TABLE email_suppressions RENAME TO elsewhere"))
    for method in ("GET", "POST"):
        answer = app.test_client().open(path(settings), method=method)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
        assert "Please try again" in answer.text


def test_csrf_protection_of_the_application_lets_it_through(app: Flask, settings: AppSettings) -> None:
    app.add_url_rule("/form", view_func=lambda: "taken", methods=["POST"])
    client = app.test_client()
    assert client.post("/form").status_code == 400
    assert client.post(path(settings), data=ONE_CLICK).status_code == 200
    assert client.post(path(settings, "preferences")).status_code == 200
    assert len(recorded(app)) == 2


def test_from_a_mail_to_the_end_of_mails(app: Flask, smtp: SmtpServer, database_url: str) -> None:
    """A mail through a relay, its link as its reader's program finds it, one click, and the next mail dies."""
    engine, settings = app.extensions["engine"], settings_for(smtp, **SUBSCRIBED)
    queue(engine, settings, to=ADA, category="news")
    assert deliver(engine, settings) == {Status.SENT: 1}
    (mail,) = smtp.mails
    message = message_from_bytes(mail.data)
    assert message["List-Id"] == "<news.example.com>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    link = re.fullmatch(r"<https://shop\.example(/unsubscribe/\S+)>", message["List-Unsubscribe"])
    assert link

    name, _, value = message["List-Unsubscribe-Post"].partition("=")
    assert app.test_client().post(link[1], data={name: value}).status_code == 200
    (news,) = queue(engine, settings, to=ADA, category="news")
    (receipt,) = queue(engine, settings, to=ADA, category="receipt")
    assert deliver(engine, settings) == {Status.SENT: 1}
    assert [rows.row(engine, id_).status for id_ in (news, receipt)] == [Status.DEAD, Status.SENT]
    assert rows.row(engine, news).last_error == "unsubscribed from 'news'"
    assert len(smtp.mails) == 2
