"""The mails that everybody sends. They differ by their number alone, and have exactly the size that was asked for."""

import random
from functools import lru_cache
from typing import Final

sender: Final = "bench@example.com"

_NUMBER = "########"
"""Where the number goes; it has eight digits, so that every mail is of the same size."""

_HEAD = f"""<!doctype html>
<html lang="en">
<body style="margin: 0; background: #f4f4f7">
<h1 style="margin: 0 0 16px; font: 22px Arial, sans-serif">Order {_NUMBER}</h1>
"""
_FOOT = "</body>\n</html>\n"
_OPEN = '<p style="margin: 0 0 16px; font: 16px/1.5 Arial, sans-serif; color: #333333">\n'
_CLOSE = "</p>\n"
_TEXT = """
    your order has been packed and leaves our warehouse this evening the parcel will be with you in three days
    please keep this mail until everything has arrived if anything is missing answer it and we will look after that
    invoice address delivery payment discount voucher summary receipt thank you for shopping with us
"""
_WORDS = _TEXT.split()
_LONGEST_LINE = 76


def recipient(number: int) -> str:
    """`user-17@example.com`."""
    return f"user-{number}@example.com"


def subject(number: int) -> str:
    """Some 40 characters."""
    return f"Your order {number:08d} is on its way to you"


def text(number: int) -> str:
    """One line of 60 characters."""
    return f"Order {number:08d} has left our warehouse and will be there soon.\n"


def html(number: int, size: int) -> str:
    """A page of `size` bytes, ASCII, without a long line."""
    return _page(size).replace(_NUMBER, f"{number:08d}")


@lru_cache
def _page(size: int) -> str:
    """The page without its number. Its words are the same in every run."""
    words = random.Random(size)  # noqa: S311 - to be the same each time is what it is for
    parts, left = [_HEAD], size - len(_HEAD) - len(_FOOT)
    while left >= 2 * len(_OPEN + _CLOSE) + 200:
        lines = [f"Order {_NUMBER}: {_line(words)}", *(_line(words) for _ in range(words.randint(2, 6)))]
        paragraph = _OPEN + "\n".join(lines) + "\n" + _CLOSE
        if len(paragraph) > left - len(_OPEN + _CLOSE):
            break
        parts.append(paragraph)
        left -= len(paragraph)
    filling = left - len(_OPEN + _CLOSE)
    if filling < 1:
        raise ValueError(f"size={size}: a page has at least {len(_HEAD + _OPEN + _CLOSE + _FOOT) + 1} bytes")
    whole, rest = divmod(filling, _LONGEST_LINE)
    lines = [_line(words).ljust(_LONGEST_LINE - 1, ".") for _ in range(whole)]
    if rest:
        lines.append(_line(words)[: rest - 1].ljust(rest - 1, "."))
    return "".join([*parts, _OPEN, *(f"{line}\n" for line in lines), _CLOSE, _FOOT])


def _line(words: random.Random) -> str:
    """Up to 55 characters, so that a number fits before them."""
    line = words.choice(_WORDS)
    while len(longer := f"{line} {words.choice(_WORDS)}") <= 55:  # noqa: PLR2004 - see above
        line = longer
    return line
