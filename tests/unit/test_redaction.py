"""What monitors may see of a task."""

import json
from typing import Any

import pytest

from app.redaction import arguments, keywords, masked


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ([], "()"),
        ([[7, 8, 9], "a-claim-token"], "(3 ids, …)"),
        ([[7], [], ["ada@example.com", 1], {"secret": 1}], "(1 id, 0 values, 2 values, a dict)"),
        ([42, 1.5, True, None], "(42, 1.5, True, None)"),
    ],
)
def test_numbers_are_seen_and_words_are_not(values: list[Any], seen: str) -> None:
    assert arguments(values) == seen


def test_keywords_keep_their_names() -> None:
    assert keywords({}) == "{}"
    assert keywords({"upload_id": 7, "reason": "because"}) == "{'upload_id': 7, 'reason': …}"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("to='ada@example.com': no", "to='…@example.com': no"),
        ('"Ada" <ada+tag@xn--mller-kva.example>', '"Ada" <…@xn--mller-kva.example>'),
        ("jörg@example.com,bob@example.org", "…@example.com,…@example.org"),
        ("worker@host", "…@host"),
        ("@ 5 @ 6", "@ 5 @ 6"),
    ],
)
def test_whose_an_address_is_is_not_seen(text: str, seen: str) -> None:
    assert masked(text) == seen
    assert json.loads(masked(json.dumps([text], ensure_ascii=False))) == [seen]


def test_a_long_text_takes_no_longer_than_it_is() -> None:
    assert masked("a" * 200_000) == "a" * 200_000
