"""What strangers wrote, made harmless to look at: on a terminal, which obeys escape sequences, and on a page, where an
invisible character or one that turns the reading direction makes a subject say what it does not.
"""

import unicodedata


def safe(text: str, keep: str = "") -> str:
    r"""The text with everything that is not seen, or steers what is, spelled out, as in `\x1b[31m` and `\u202e`.

    `keep`: characters to let pass.
    """
    return "".join(c if c.isprintable() or c in keep else _spelled(c) for c in text)


def safe_lines(text: str) -> str:
    """The same for a text of several lines."""
    return safe(text.replace("\r\n", "\n").expandtabs(), keep="\n")


def _spelled(character: str) -> str:
    if unicodedata.category(character) == "Zs":  # no-break spaces and their like
        return " "
    return character.encode("unicode_escape").decode("ascii")
