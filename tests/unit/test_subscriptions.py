"""The link of a subscription's mail: what is in it, who can have made it, and what it does to the mail."""

import re
from email import message_from_bytes
from pathlib import Path
from random import Random
from typing import Any

import pytest
from itsdangerous import URLSafeSerializer
from pydantic import SecretStr

from outbox import subscriptions
from outbox.addresses import LONGEST_LINE
from outbox.draft import Draft, draft
from outbox.errors import InvalidEmail, InvalidHeader, InvalidLink, InvalidTemplate, SettingsError
from outbox.message import Message
from outbox.settings import LONGEST_CATEGORY, LONGEST_LINK, Settings
from outbox.subscriptions import Subscription
from tests.subscribing import KEY, OLD_KEY, SUBSCRIBED, with_subscriptions

SETTINGS = with_subscriptions()
ADA = "Ada@example.com"
NEWS = Subscription(ADA, "news")


def token(settings: Settings = SETTINGS) -> str:
    return subscriptions.url(settings, *NEWS).rpartition("/")[2]


# --- Tokens


def test_a_link_says_whom_it_is_about() -> None:
    link = subscriptions.url(SETTINGS, *NEWS)
    assert re.fullmatch(r"https://shop\.example/unsubscribe/[\w.-]+", link)
    assert link == subscriptions.url(SETTINGS, *NEWS), "the same mail, the same bytes"
    assert subscriptions.read(SETTINGS, token()) == NEWS
    assert (
        len({subscriptions.url(SETTINGS, *pair) for pair in [NEWS, (ADA, "product-updates"), ("b@x.example", "news")]})
        == 3
    )


def test_the_first_key_signs_and_all_are_known() -> None:
    old = with_subscriptions(outbox_signing_keys=OLD_KEY)
    both = with_subscriptions(outbox_signing_keys=f"{KEY}, {OLD_KEY}")
    assert token(both) == token(SETTINGS) != token(old)
    assert subscriptions.read(both, token(old)) == subscriptions.read(both, token(SETTINGS)) == NEWS
    with pytest.raises(InvalidLink):
        subscriptions.read(SETTINGS, token(old))


def test_every_changed_character_is_noticed() -> None:
    good = token()
    for position, character in enumerate(good):
        other = "A" if character != "A" else "B"
        changed = good[:position] + other + good[position + 1 :]
        try:
            found = subscriptions.read(SETTINGS, changed)
        except InvalidLink:
            continue
        # The last character of a signature carries bits that Base64 does not use.
        assert (position, found) == (len(good) - 1, NEWS)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        ".",
        "x",
        "a.b",
        token()[:-2],
        f"{token()}.",
        f"{token()}>",
        token().replace(".", ""),
        "\0",
        "ü.ü",
        "x" * 100_000,
    ],
)
def test_what_is_no_token(bad: str) -> None:
    with pytest.raises(InvalidLink, match="was not signed with any of OUTBOX_SIGNING_KEYS"):
        subscriptions.read(SETTINGS, bad)


def test_what_the_same_key_signed_for_something_else_opens_nothing() -> None:
    for salt in ("itsdangerous", "login", "outbox.unsubscribe "):
        other = str(URLSafeSerializer(KEY, salt=salt).dumps([ADA, "news"]))
        with pytest.raises(InvalidLink):
            subscriptions.read(SETTINGS, other)


def test_without_keys_no_link_is_read() -> None:
    with pytest.raises(InvalidLink, match="set those that signed it"):
        subscriptions.read(Settings.load(), token())


def test_a_category_that_is_no_subscription_any_more_is_still_read() -> None:
    assert subscriptions.read(with_subscriptions(outbox_subscriptions="other"), token()) == NEWS


# --- Headers


def test_the_headers_of_a_subscription() -> None:
    assert subscriptions.headers(SETTINGS, *NEWS, "example.com") == {
        "List-Id": "<news.example.com>",
        "List-Unsubscribe": f"<https://shop.example/unsubscribe/{token()}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }
    assert subscriptions.headers(SETTINGS, ADA, "receipt", "example.com") == {}


LETTERS = "".join(Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=400))  # a token does not compress them
DOMAIN = f"{LETTERS[:60]}.{LETTERS[60:120]}.{LETTERS[120:180]}.example"


@pytest.mark.parametrize("local", [LETTERS[180:243], "\u00e4" * 31])
def test_the_longest_link_fits_its_line_whole(local: str) -> None:
    """A header is at most 998 octets a line, and a URL cannot be broken over two."""
    longest = f"https://shop.example/{LETTERS}"[:LONGEST_LINK]
    category = LETTERS[243 : 243 + LONGEST_CATEGORY]
    address = f"{local}@{DOMAIN}"
    settings = with_subscriptions(outbox_subscriptions=category, outbox_unsubscribe_url=longest)
    assert len(address.encode()) >= 252
    headers = subscriptions.headers(settings, address, category, "example.com")
    checked = drafted(settings, category=category, to=address) if address.isascii() else None
    given = checked.content["headers"] if checked else headers
    message = message_of(given)
    assert max(map(len, message.split(b"\r\n"))) <= LONGEST_LINE
    parsed = message_from_bytes(message)
    assert {name: parsed[name] for name in headers} == headers
    assert parsed["List-Unsubscribe"].startswith(f"<{longest}/")


def message_of(headers: dict[str, str]) -> bytes:
    date = draft(SETTINGS, ADA, "s", text="t").content["date"]
    return Message("<1@x>", date, "a@x", "b@x", None, None, "s", "t", None, headers).as_bytes()


# --- Mails


def drafted(settings: Settings = SETTINGS, **mail: Any) -> Draft:
    return draft(settings, **({"to": ADA, "subject": "Hello", "text": "Hello.", "category": "news"} | mail))


def test_a_subscriptions_mail_has_its_recipients_link() -> None:
    checked = drafted(headers={"X-Campaign": "7"}, from_email="News <news@lists.example.com>")
    assert checked.subscription == "news"
    assert checked.content["headers"] == {
        "X-Campaign": "7",
        "List-Id": "<news.lists.example.com>",
        "List-Unsubscribe": f"<https://shop.example/unsubscribe/{token()}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        "Auto-Submitted": "auto-generated",
    }


def test_a_subscription_in_other_letters_is_no_transactional_mail() -> None:
    with pytest.raises(InvalidEmail, match=r"^category='News': the subscription is spelled 'news'$"):
        drafted(category="News")


@pytest.mark.parametrize("category", [None, "receipt"])
def test_transactional_mail_has_none(category: str | None) -> None:
    own = {"List-Unsubscribe": "<mailto:stop@example.com>"}
    checked = drafted(category=category, headers=own, cc="bob@example.com")
    assert (checked.subscription, checked.content["headers"]) == (None, own | {"Auto-Submitted": "auto-generated"})


@pytest.mark.parametrize(
    "further", [{"to": [ADA, "bob@example.com"]}, {"cc": "bob@example.com"}, {"bcc": "bob@example.com"}]
)
def test_a_subscriptions_mail_goes_to_one(further: dict[str, Any]) -> None:
    with pytest.raises(
        InvalidEmail,
        match=r"^to=\['Ada@example.com', 'bob@example.com'\]: mail of the subscription category 'news' carries the "
        "recipient's own unsubscribe link: queue one mail for each$",
    ):
        drafted(**further)


def test_who_is_named_twice_is_one() -> None:
    assert len(drafted(to=[ADA, f"Ada <{ADA}>"], cc=ADA).recipients) == 1


@pytest.mark.parametrize("name", ["List-Id", "list-unsubscribe", "LIST-UNSUBSCRIBE-POST"])
def test_its_headers_are_ours(name: str) -> None:
    with pytest.raises(InvalidHeader, match=f"^headers='{name}': Outbox sets it on mail of the subscription category"):
        drafted(headers={name: "x"})
    assert drafted(headers={"List-Help": "<https://shop.example/help>"})


def templated(tmp_path: Path, **values: Any) -> Settings:
    folder = tmp_path / "templates" / "issue"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "subject.txt").write_text("Issue {{ number }}")
    (folder / "body.html").write_text('<p>{{ number }}. <a href="{{ unsubscribe_url }}">Unsubscribe</a></p>')
    return with_subscriptions(outbox_templates=str(folder.parent), **values)


def test_a_template_shows_the_same_link(tmp_path: Path) -> None:
    settings = templated(tmp_path)
    asked: dict[str, Any] = {"to": ADA, "template": "issue", "context": {"number": 7}}
    content = draft(settings, **asked, category="news").content
    link = subscriptions.url(settings, *NEWS)
    assert f'href="{link}"' in content["html"]
    assert link in content["text"]
    assert content["headers"]["List-Unsubscribe"] == f"<{link}>"
    with pytest.raises(InvalidTemplate, match="only mail of a category in OUTBOX_SUBSCRIPTIONS has one"):
        draft(settings, **asked, category="receipt")


def test_a_templated_mail_is_the_same_under_another_key(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"to": ADA, "template": "issue", "context": {"number": 7}, "category": "news", "idempotency_key": "k"}
    keys = (KEY, OLD_KEY)
    one, other = (draft(templated(tmp_path, outbox_signing_keys=key), **asked).content for key in keys)
    assert one["html"] != other["html"]
    assert one["payload_hash"] == other["payload_hash"]


def test_another_key_is_still_the_same_mail() -> None:
    """A key is rotated between a task and its retry: the idempotency key must not take that for another mail."""
    rotated = with_subscriptions(outbox_signing_keys=OLD_KEY, outbox_unsubscribe_url="https://shop.example/u")
    one, other = drafted(idempotency_key="k"), drafted(rotated, idempotency_key="k")
    assert one.content["headers"] != other.content["headers"]
    assert one.content["payload_hash"] == other.content["payload_hash"]
    assert one.content["payload_hash"] != drafted(idempotency_key="k", headers={"X": "1"}).content["payload_hash"]


# --- Settings


def test_the_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SUBSCRIBED.items():
        monkeypatch.setenv(name.upper(), value)
    monkeypatch.setenv("OUTBOX_UNSUBSCRIBE_URL", "HTTP://localhost:5000/shop/unsubscribe/")
    settings = Settings.load()
    assert settings.outbox_subscriptions == ("news", "product-updates")
    assert settings.outbox_unsubscribe_url == "HTTP://localhost:5000/shop/unsubscribe"
    assert settings.outbox_signing_keys == (SecretStr(KEY),)


@pytest.mark.parametrize(
    "url",
    [
        "shop.example/unsubscribe",
        "/unsubscribe",
        "mailto:stop@shop.example",
        "ftp://shop.example/unsubscribe",
        "https://",
        "https:///unsubscribe",
        "https://shop.example/unsubscribe?token=",
        "https://shop.example/unsubscribe#",
        "https://ada:secret@shop.example/unsubscribe",
        "https://shop.example/un subscribe",
        "https://shop.example/>\r\nBcc: eve@example.com",
        "https://shöp.example/unsubscribe",
        "https://shop.example:99999/unsubscribe",
        "https://[shop.example/unsubscribe",
        f"https://shop.example/{'x' * LONGEST_LINK}",
    ],
)
def test_what_no_token_can_be_appended_to(url: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^OUTBOX_UNSUBSCRIBE_URL=.*: give an address of at most 400 ASCII"
    ) as refused:
        Settings.load(outbox_unsubscribe_url=url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["News", "-news", "news-", "product news", "product.news", "nüws", "news\n", "_", "n" * 64]
)
def test_what_is_no_name_of_a_subscription(name: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^OUTBOX_SUBSCRIPTIONS=.*: a subscription has a name of up to 63 letters a-z"
    ):
        Settings.load(**(SUBSCRIBED | {"outbox_subscriptions": ["news", name]}))


@pytest.mark.parametrize("name", ["n", "news", "product_news", "product-news", "a--b", "2", "n" * 63])
def test_what_is_one(name: str) -> None:
    assert with_subscriptions(outbox_subscriptions=name).outbox_subscriptions == (name,)


def test_a_short_key_is_refused_and_not_shown() -> None:
    short = KEY[:-1]
    with pytest.raises(SettingsError) as refused:
        Settings.load(**(SUBSCRIBED | {"outbox_signing_keys": f"{KEY},{short}"}))
    assert str(refused.value) == (
        "OUTBOX_SIGNING_KEYS=(hidden): a signing key has 32 characters or more; make one with "
        "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
    )
    assert short not in f"{refused.value.__cause__}{with_subscriptions()!r}"


@pytest.mark.parametrize(
    ("absent", "named"),
    [
        (["outbox_unsubscribe_url"], "OUTBOX_UNSUBSCRIBE_URL"),
        (["outbox_signing_keys"], "OUTBOX_SIGNING_KEYS"),
        (["outbox_unsubscribe_url", "outbox_signing_keys"], "OUTBOX_UNSUBSCRIBE_URL and OUTBOX_SIGNING_KEYS"),
    ],
)
def test_a_subscription_needs_a_link(absent: list[str], named: str) -> None:
    with pytest.raises(SettingsError, match=f"^OUTBOX_SUBSCRIPTIONS is set and {named} not: "):
        Settings.load(**{name: value for name, value in SUBSCRIBED.items() if name not in absent})
