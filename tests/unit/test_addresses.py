"""What is an address and a header, what is not, and that a reader finds again what was written."""

import re
from base64 import b64decode
from email import message_from_string
from email.policy import default

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outbox.addresses import Mailbox, check_headers, encoded_words, parse_mailbox
from outbox.errors import InvalidAddress, InvalidHeader

# A machine under load composes and generates slowly; that is no finding.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("value", "mailbox"),
    [
        ("a@x", Mailbox("", "a@x")),
        ("a+b%c@x.example", Mailbox("", "a+b%c@x.example")),
        (" a@x.example ", Mailbox("", "a@x.example")),
        ("<a@x.example>", Mailbox("", "a@x.example")),
        ("Ada@X.Example", Mailbox("", "Ada@x.example")),
        ("a@münchen.example", Mailbox("", "a@xn--mnchen-3ya.example")),
        ("a@xn--mnchen-3ya.example", Mailbox("", "a@xn--mnchen-3ya.example")),
        ("Ada <a@x.example>", Mailbox("Ada", "a@x.example")),
        ("Ada<a@x.example> ", Mailbox("Ada", "a@x.example")),
        ("  Ada \t Lovelace\t<a@x.example>", Mailbox("Ada Lovelace", "a@x.example")),
        ('"Lovelace, Ada" <a@x.example>', Mailbox("Lovelace, Ada", "a@x.example")),
        (r'"Ada \"Countess\" \\ Lovelace" <a@x.example>', Mailbox(r'Ada "Countess" \ Lovelace', "a@x.example")),
        ('"b@x.example" <a@x.example>', Mailbox("b@x.example", "a@x.example")),
        ('"  " <a@x.example>', Mailbox("", "a@x.example")),
        ("Jörg (privat) <j@x.example>", Mailbox("Jörg (privat)", "j@x.example")),
        ("漢字 <k@x.example>", Mailbox("漢字", "k@x.example")),
        ("jörg@münchen.example", Mailbox("", "jörg@xn--mnchen-3ya.example")),
        ("Jo\u0308rg <jo\u0308rg@x.example>", Mailbox("Jo\u0308rg", "jörg@x.example")),
        ("\u0430da@x.example", Mailbox("", "\u0430da@x.example")),  # Cyrillic: whose it is, is not ours to judge
        ("Ada\u2028 <a@x.example>", Mailbox("Ada\u2028", "a@x.example")),
        (f"{'ö' * 32}@x.example", Mailbox("", f"{'ö' * 32}@x.example")),
    ],
)
def test_an_address(value: str, mailbox: Mailbox) -> None:
    assert parse_mailbox("to", value) == mailbox


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "an address is one string"),
        (b"a@x.example", "an address is one string"),
        (("Ada", "a@x.example"), "an address is one string"),
        (["a@x.example"], "an address is one string"),
        ("", "must have an @-sign"),
        ("Ada", "must have an @-sign"),
        ("@x.example", "before the @-sign"),
        ("a@", "after the @-sign"),
        ("a b@x.example", "SPACE"),
        ("a..b@x.example", "two periods"),
        ("a@x..example", "two periods"),
        ("a@-x.example", "hyphen"),
        ("a@x_y.example", "'_'"),
        ("a@[127.0.0.1]", "bracketed IP address"),
        ('"a b"@x.example', "Quoting"),
        (f"{'ö' * 33}@x.example", "64 bytes of UTF-8"),
        ("a\u037eb@x.example", "After Unicode normalization"),
        ("ada\uff20x.example", "full-width"),
        ("\u202eada@x.example", "RIGHT-TO-LEFT OVERRIDE"),
        ("ada@x.example\u2028", "LINE SEPARATOR"),
        ("\u00a0ada@x.example", "NO-BREAK SPACE"),
        (f"{'a' * 65}@x.example", "too long before the @-sign"),
        (f"a@{'.'.join(['x' * 60] * 5)}.example", "too long"),
        ("a@x.example, b@x.example", "Give several addresses as a list of strings"),
        ("a@x.example; b@x.example", "Give several addresses as a list of strings"),
        ("Ada <a@x.example>, Bob <b@x.example>", "Give several addresses as a list of strings"),
        ("Lovelace, Ada <a@x.example>", "','"),
        ("Ada <a@x.example> (home)", "anything after the email address"),
        ("Ada <a@x.example", "close angle bracket"),
        ("team: a@x.example;", "invalid characters"),
        ("a@x.example\r\nBcc: b@x.example", "cannot hold CR, LF, NUL"),
        ("a@x.example\n", "cannot hold CR, LF, NUL"),
        ("Ada\0 <a@x.example>", "cannot hold CR, LF, NUL"),
        ("Ada \ud800 <a@x.example>", "lone surrogate"),
    ],
)
def test_not_an_address(value: object, problem: str) -> None:
    with pytest.raises(InvalidAddress, match=re.escape(problem)) as caught:
        parse_mailbox("reply_to", value)
    assert (caught.value.field, caught.value.value) == ("reply_to", value)
    assert str(caught.value).startswith("reply_to=")


@pytest.mark.timeout(20)  # seconds; a regular expression that backtracks takes minutes, this one milliseconds
@pytest.mark.parametrize("filler", [" ", '"', "\\", "<", "a ", '"\\" '])
def test_a_huge_value_is_refused(filler: str) -> None:
    with pytest.raises(InvalidAddress):
        parse_mailbox("to", filler * 5_000)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("", "a@x.example"),
        ("Ada", "Ada <a@x.example>"),
        ("Ada Lovelace", "Ada Lovelace <a@x.example>"),
        ("A. Lovelace", '"A. Lovelace" <a@x.example>'),
        ("Lovelace, Ada", '"Lovelace, Ada" <a@x.example>'),
        (r'"Ada" \o/', r'"\"Ada\" \\o/" <a@x.example>'),
        ("Jörg", "=?utf-8?b?SsO2cmc=?= <a@x.example>"),
        ("=?utf-8?q?x?=", "=?utf-8?b?PT91dGYtOD9xP3g/PQ==?= <a@x.example>"),
        ("Ada  Lovelace", "=?utf-8?b?QWRhICBMb3ZlbGFjZQ==?= <a@x.example>"),
        ("Ada\x07", "=?utf-8?b?QWRhBw==?= <a@x.example>"),
    ],
)
def test_a_mailbox_as_a_header(name: str, header: str) -> None:
    assert Mailbox(name, "a@x.example").header == header


@pytest.mark.parametrize("name", ["b" * 61, f"A {'b' * 61}", f"A. {'b' * 58}", "b, " * 700 + "b", "é" * 500])
def test_a_name_too_long_for_a_line_is_encoded(name: str) -> None:
    *words, address = Mailbox(name, "a@x.example").header.split(" ")
    assert "".join(b64decode(word.removeprefix("=?utf-8?b?").removesuffix("?=")).decode() for word in words) == name
    assert len(f"Reply-To: {words[0]}") <= 76
    assert all(len(word) <= 75 for word in words)
    assert address == "<a@x.example>"


written = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")) | st.text(
    st.sampled_from('ab ."\\()<>@,;:=?_é€😀')
)
"""Names; those that take more than one encoded word are folded and read in the tests of `Message`."""


@unhurried
@given(written.filter(lambda name: len(name.encode()) <= 36))
def test_a_reader_finds_name_and_address(name: str) -> None:
    quoted = name.replace("\\", r"\\").replace('"', r"\"")
    mailbox = parse_mailbox("to", f'"{quoted}" <a.b@x.example>')
    assert mailbox.name == re.sub(r"[ \t]+", " ", name).strip(" ")
    (read,) = message_from_string(f"To: {mailbox.header}\n\n", policy=default)["To"].addresses
    assert (read.display_name, read.addr_spec) == mailbox


@unhurried
@given(written)
def test_a_mailbox_header_is_ascii_of_short_words_and_parses_back(name: str) -> None:
    mailbox = Mailbox(re.sub(r"[ \t]+", " ", name).strip(), "a@x.example")
    assert re.fullmatch(r"[!-~]{1,122}( [!-~]{1,122})*", mailbox.header)
    if "=?" not in mailbox.header:
        assert parse_mailbox("to", mailbox.header) == mailbox


@unhurried
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(0, 78))
def test_encoded_words_read_back_and_fit_their_lines(text: str, column: int) -> None:
    words = encoded_words(text, column=column)
    first, *others = words.split(" ")
    assert len(first) <= max(76 - column, len("=?utf-8?b?8J+YgA==?="))
    assert all(len(word) <= 75 for word in others)
    assert "".join(b64decode(word[10:-2]).decode() for word in (first, *others)) == text  # no character is cut
    assert message_from_string(f"Subject: {words}\n\n", policy=default)["Subject"] == text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Campaign": "Winter", "List-Unsubscribe": "<https://x.example/u>"},
        {"X-Note": "Grüße \u2028 😀"},
        {"X-Empty": ""},
        {"X-Tab": "a\tb"},
        {"Sender": "Ada <a@x.example>"},
        {"x" * 76: "v"},
        {"X-Long": "v" * 990},
    ],
)
def test_headers_are_kept_as_given(headers: dict[str, str]) -> None:
    checked = check_headers(headers)
    assert list(checked.items()) == list(headers.items())
    assert checked is not headers


@pytest.mark.parametrize(
    ("headers", "field", "problem"),
    [
        ({"": "v"}, "headers", "printable ASCII without spaces or a colon"),
        ({"X Y": "v"}, "headers", "printable ASCII without spaces or a colon"),
        ({"X:": "v"}, "headers", "printable ASCII without spaces or a colon"),
        ({"X\r\nBcc: b@x.example\r\nY": "v"}, "headers", "printable ASCII without spaces or a colon"),
        ({"X\n": "v"}, "headers", "printable ASCII without spaces or a colon"),
        ({"X\0": "v"}, "headers", "printable ASCII without spaces or a colon"),
        ({"Größe": "v"}, "headers", "printable ASCII without spaces or a colon"),
        ({7: "v"}, "headers", "printable ASCII without spaces or a colon"),
        ({"x" * 77: "v"}, "headers", "at most 76 characters"),
        ({"X": 7}, "headers['X']", "is a string"),
        ({"X": b"v"}, "headers['X']", "is a string"),
        ({"X": None}, "headers['X']", "is a string"),
        ({"X": "v\r\nBcc: b@x.example"}, "headers['X']", "cannot hold CR, LF, NUL"),
        ({"X": "v\n"}, "headers['X']", "cannot hold CR, LF, NUL"),
        ({"X": "v\r"}, "headers['X']", "cannot hold CR, LF, NUL"),
        ({"X": "v\0"}, "headers['X']", "cannot hold CR, LF, NUL"),
        ({"X": "v\ud800"}, "headers['X']", "lone surrogate"),
        ({"X": "v" * 996}, "headers['X']", "at most 998 characters"),
        ({"Sender": "Jörg <j@x.example>"}, "headers['Sender']", "in ASCII"),
        ({"Subject": "v"}, "headers", "use the argument subject"),
        ({"BCC": "b@x.example"}, "headers", "use the argument bcc"),
        ({"Reply-To": "b@x.example"}, "headers", "use the argument reply_to"),
        ({"From": "b@x.example"}, "headers", "use the argument from_email"),
        ({"message-id": "<a@b>"}, "headers", "Outbox sets it"),
        ({"Date": "today"}, "headers", "Outbox sets it"),
        ({"MIME-Version": "2.0"}, "headers", "Outbox sets it"),
        ({"Content-Type": "text/html"}, "headers", "Outbox sets it"),
        ({"X-A": "1", "x-a": "2"}, "headers", "given twice"),
    ],
)
def test_not_a_header(headers: dict[str, str], field: str, problem: str) -> None:
    with pytest.raises(InvalidHeader, match=re.escape(problem)) as caught:
        check_headers(headers)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}=")
