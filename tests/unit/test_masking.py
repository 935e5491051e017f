"""What no line of the log says. Each value here was written by somebody who would rather have it said."""

import socket
import time
from base64 import b64encode

import pytest

from app.masking import LONGEST, Mask
from app.settings import AppSettings

PASSWORD = "pa&ss'w/ord"

mask = Mask()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("ada@example.com", "a***@example.com"),
        ("550 5.1.1 <ada@example.com>: unknown", "550 5.1.1 <a***@example.com>: unknown"),
        ("to='ada@example.com': no", "to='a***@example.com': no"),
        ("['ada@example.com', 'bob@example.org']", "['a***@example.com', 'b***@example.org']"),
        ("mailto:ada@example.com?subject=x", "mailto:a***@example.com?subject=x"),
        ("/x?email=ada%40example.com", "/x?email=a***%40example.com"),
        ("Ada Lovelace <ADA@EXAMPLE.COM>", "Ada Lovelace <A***@EXAMPLE.COM>"),
        ("jürgen@müller.example", "j***@müller.example"),
        ("o'brien@example.com", "o***@example.com"),
        ("bounce+ada=example.org@lists.example.com", "b***@lists.example.com"),
        ("a/b=c@example.com", "a***@example.com"),
        ("ada@relay", "a***@relay"),
        ("ada@[192.0.2.1]", "a***@[192.0.2.1]"),
        ('"ada lovelace"@example.com', "***@example.com"),
        ("ada@bob@example.com", "a***@example.com"),
        ("ada@example.com,bob@example.com", "a***@example.com,b***@example.com"),
        ("@property", "@property"),
        ("mail 17 is sent", "mail 17 is sent"),
    ],
)
def test_an_address_keeps_its_domain(said: str, shown: str) -> None:
    assert mask(said) == shown
    assert Mask(addresses=True)(said) == said


def test_a_worker_of_this_host_is_nobodys_address() -> None:
    for name in (f"celery@{socket.gethostname()}", f"outbox-17@{socket.gethostname()}"):
        assert mask(f"{name} ready.") == f"{name} ready."
    assert mask(f"outbox-17@elsewhere.{socket.gethostname()}").startswith("o***@")


@pytest.mark.parametrize(
    ("said", "secret"),
    [
        ("postgresql+psycopg://shop:hunter2x@db/outbox", "hunter2x"),
        ("redis://:hunter2x@cache:6379/0 is away", "hunter2x"),
        ("https://ada:hunter@2x@example.com/", "hunter"),
        ("Authorization: Bearer abc.def", "abc.def"),
        ("{'Authorization': 'Basic YWRhOmh1bnRlcg==', 'Accept': '*/*'}", "YWRh"),
        ("('Cookie', 'session=eyJ1c2VyIjoxfQ.x.y')", "eyJ1"),
        ("Set-Cookie: session=eyJ1c2VyIjoxfQ; HttpOnly", "eyJ1"),
        ("curl -H bearer obx_Zm9vYmFyYmF6cXV4", "Zm9v"),
        ("token obx_Zm9v-YmFy_YmF6 is unknown", "Zm9v"),
        ("GET /unsubscribe/eyJhIjoiYWRhIn0.c2ln HTTP/1.1", "eyJh"),
        ("POST https://shop.example/preferences/eyJhIjoiYWRhIn0.c2ln?x=1", "eyJh"),
        ("password=hunter2x&next=/", "hunter2x"),
        ('{"password": "hunter 2x"}', "hunter"),
        ("smtp_password='hunter 2x' is wrong", "hunter"),
        ("SECRET_KEY=hunter2x", "hunter2x"),
        ("api-key: x; api_key: hunter2x", "hunter2x"),
    ],
)
def test_a_secret_is_known_by_its_surroundings(said: str, secret: str) -> None:
    for one in (mask, Mask(addresses=True)):
        assert secret not in one(said)
        assert "***" in one(said)


@pytest.mark.parametrize("name", ["password", "SMTP_PASSWORD", "Authorization", "set-cookie", "api_key", "token"])
def test_a_secret_is_known_by_its_fields_name(name: str) -> None:
    assert mask({"detail": {name: "x", "other": "y"}}) == {"detail": {name: "***", "other": "y"}}


def test_the_settings_secrets_are_known_wherever_they_stand() -> None:
    settings = AppSettings.load(
        smtp_user="ada",
        smtp_password=PASSWORD,
        secret_key="a-secret-key",
        outbox_signing_keys="first-key-of-32-characters-xxxxx,second-key-of-32-characters-xxxx",
        outbox_unsubscribe_url="https://shop.example/unsubscribe",
        database_url="postgresql://shop:db%20word@db/outbox",
        redis_url="redis://:cacheword@cache/0",
    )
    known = Mask.of(settings, addresses=True)
    secrets = [PASSWORD, "a-secret-key", "second-key-of-32-characters-xxxx", "db word", "db%20word", "cacheword"]
    shown = known([*secrets, repr(PASSWORD), b64encode(PASSWORD.encode()).decode(), "pa%26ss%27w%2Ford", "x y"])
    assert set(shown) == {"***", '"***"', "x y"}


def test_several_relays_have_several_passwords() -> None:
    settings = AppSettings.load(outbox_relays="smtps://a:firstword@mx1.example smtps://b:second%2Fword@mx2.example")
    assert Mask.of(settings, addresses=False)("firstword, second/word, second%2Fword") == "***, ***, ***"


def test_what_a_statement_was_given_is_data() -> None:
    said = (
        'new row violates "ck"\nDETAIL:  Failing row contains (1, Dear Ada,\n\nyour code is 123456).\n'
        "[SQL: INSERT INTO email_contents VALUES (:text)]\n"
        "[parameters: {'text': 'Dear Ada,\\nyour code is 123456'}]\n(Background on this error at: https://sqlalche.me)"
    )
    shown = mask(said, keep="\n")
    assert "123456" not in shown
    assert "Ada" not in shown
    assert "INSERT INTO email_contents" in shown
    assert "123456" in Mask(addresses=True)(said)


@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\u202e", "\ud800", "\x9b"])
def test_no_character_ends_a_line_or_steers_a_terminal(character: str) -> None:
    shown = mask(f"a{character}2026-11-30T00:00:00.000Z error forged")
    assert character not in shown
    assert shown.isprintable()
    shown.encode()


def test_it_looks_into_everything() -> None:
    said = {"list": ["ada@example.com", ("bob@example.com", 17)], "error": ValueError("eve@example.com"), "n": 1.5}
    shown = mask(said | {"ada@example.com": b"ada@example.com"})
    assert "ada@" not in str(list(shown.values()))
    assert shown["list"] == ["a***@example.com", ["b***@example.com", 17]]
    assert (shown["error"], shown["n"]) == ("e***@example.com", 1.5)


@pytest.mark.parametrize(
    "part", ["a", "a-", "a@", "@", "%40", "://a:", "password=", "cookie: ", 'x" ', "\x1b", "DETAIL: "]
)
def test_a_hostile_text_takes_no_longer_than_another(part: str) -> None:
    text = part * (200_000 // len(part))
    began = time.process_time()
    assert len(mask(text)) < LONGEST + 100
    assert time.process_time() - began < 3
