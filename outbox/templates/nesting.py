"""How deep HTML is nested, at most: css-inline calls itself for each level, and out of stack the process is gone.

This is no parser. It never takes HTML for shallower than browsers do: what it cannot read beyond doubt, it refuses.
"""

import re

DEEPEST = 400
"""Levels. Each takes css-inline 1 KB of stack, measured, and a thread has 512 KB on macOS, 8 MB on Linux."""

MOST_UNCLOSED = 20
"""Elements closed by another's end: HTML keeps some of them, or opens them again in every paragraph that follows."""

# No possessive groups, `(...)*+`, which would fit here: Python 3.11.2 and its like match them wrongly.
_START = re.compile("<[a-zA-Z]")
_TOKEN = re.compile(
    r"""<!--(?!-?>)(?:(?!--!?>).)*-->      # a comment, with or without a condition for Outlook
    |<![^<>-][^<>]*>                       # <!doctype html>, <![endif]>
    |<(?P<end>/?)(?P<name>[a-z][a-z0-9]*)
      (?:\s+[^\s"'<>/=]+(?:\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>`=][^\s"'<>`]*))?)*\s*/?>""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")
)
_TEXT = frozenset(("script", "style", "textarea", "title"))
_STRANGE = frozenset(
    ("frameset", "iframe", "math", "noembed", "noframes", "noscript", "plaintext", "select", "svg", "template", "xmp")
)
"""With rules of their own, and of no use in a mail."""

_PASSING = frozenset(("a", "b", "big", "code", "em", "font", "i", "p", "s", "small", "strike", "strong", "tt", "u"))
"""What is inside one of these is not closed with it."""

_OPTIONAL = frozenset(("dd", "dt", "li", "p", "td", "th", "tr"))
"""What is closed with whatever it is in."""

_CELL = frozenset(("p", "td", "th"))
_CLOSED_BY = {
    "p": frozenset(("p",)),
    "li": frozenset(("p", "li")),
    "dt": frozenset(("p", "dt", "dd")),
    "dd": frozenset(("p", "dt", "dd")),
    "td": _CELL,
    "th": _CELL,
    "tr": _CELL | {"tr"},
}
"""Name -> what ends where it begins."""


class TooIntricate(Exception):
    """HTML that would take the style sheets seconds, or the process its stack."""


def check_depth(html: str) -> None:
    """Raises TooIntricate. Costs nothing for mails with fewer elements than the depth allowed; that is most."""
    if sum(1 for _ in _START.finditer(html)) <= DEEPEST:
        return
    open_: list[str] = []
    unclosed = position = 0
    while (position := html.find("<", position)) >= 0:
        if not html[position + 1 : position + 2].strip(" \t\n0123456789=<>&"):
            position += 1  # a sign, not a tag
            continue
        token = _TOKEN.match(html, position)
        if token is None:
            raise TooIntricate(f"not HTML that can be read beyond doubt: {html[position : position + 40]!r}")
        position = _after(html, token)
        unclosed += _step(open_, (token["name"] or "").lower(), ended=bool(token["end"]))
        if len(open_) > DEEPEST or unclosed > MOST_UNCLOSED:
            raise TooIntricate(
                f"more than {DEEPEST} elements in each other, or {MOST_UNCLOSED} not closed where they should be, at "
                f"{token.group()!r:.40}"
            )


def _step(open_: list[str], name: str, *, ended: bool) -> int:
    """How many elements the end of another leaves open."""
    if not name or name in _VOID or name in _TEXT:
        return 0
    if ended:
        if name not in open_:
            return 0
        unclosed = 0
        while (last := open_.pop()) != name:
            unclosed += name in _PASSING or last not in _OPTIONAL
        return unclosed
    while open_ and open_[-1] in _CLOSED_BY.get(name, ()):
        open_.pop()
    open_.append(name)
    return 0


def _after(html: str, token: re.Match[str]) -> int:
    """Where to go on: after the text of a <style>, which is no HTML."""
    name = (token["name"] or "").lower()
    if name in _STRANGE:
        raise TooIntricate(f"<{name}> has no place in a mail")
    if name not in _TEXT or token["end"]:
        return token.end()
    end = html.find("<", token.end())
    if html[end : end + len(name) + 3].lower() != f"</{name}>":
        raise TooIntricate(f"<{name}> holds '<', or is not closed")
    return end
