"""What monitors may see of a task."""

from typing import Any

import pytest

from app.redaction import arguments, keywords


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
