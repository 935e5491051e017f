"""HTML as mail programs want it: style sheets written into the elements, and its text for those who read text."""

import re
from collections.abc import Iterator

import css_inline
from html_to_markdown import ConversionOptions, convert

from outbox.templates.nesting import DEEPEST, TooIntricate, check_depth

LARGEST_MATCH = 2 * 10**8
"""Characters of style sheets times elements: css-inline tries each rule at each element, 0.6 s for as much as this."""

LARGEST_MERGE = 10**9
"""Declarations, squared, times tags: css-inline looks for each among those that an element has; 1 s for as much."""

LARGEST_SEARCH = 2 * 10**8
"""Selectors such as `:not(i ~ p)` times tags, squared: each looks at all siblings of each element; 1 s for as much."""

LARGEST_INDENT = 4 * 10**7
"""Characters by which lists and quotations in each other indent the text that is made of them."""

_INLINER = css_inline.CSSInliner(load_remote_stylesheets=False, keep_at_rules=True)
"""`@media` rules stay in a <style>: dark mode and phones. A <link> is removed, for no mail program would follow it."""

_READABLE = ConversionOptions(
    bullets="-",
    code_block_style="indented",
    extract_metadata=False,  # the <title> is not part of the text
    skip_images=True,
)
"""Markdown is legible as it stands. Hidden elements (the preheader) are left out by default."""

_LINK = re.compile(
    r"""\[(?P<words>[^\[\]\n]+)\]              # [View order]
        \((?:mailto:)?
        (?P<url>(?:[^\s<>()]|\([^\s<>()]*\))++) # https://shop.example/orders/42
        (?:\ "[^"\n]*")?\)""",
    re.VERBOSE,
)
_PROPERTY = re.compile(r"[;{]\s*+([-\w]++)\s*+:")
_SEARCHING = re.compile(r":(?:not|is|where|has)\b|\\")  # a backslash may hide one
_INDENTING = re.compile(r"<(?:blockquote|dd|dl|dt|li|menu|ol|pre|ul)\b", re.IGNORECASE)
_WIDEST_INDENT = 4
_ESCAPED = re.compile(r"^(?P<before>\d*)\\(?=[-+#>*.)])", re.MULTILINE)

# A comment or quotation that does not end is taken to the end: no part of the HTML is read twice.
_TABLE = re.compile(
    r"""<!--.*?(?:-->|\Z)
      | <(?P<end>/?)(?P<tag>table|tbody|tr|td)\b(?P<rest>(?:[^<>"']|"[^"]*(?:"|\Z)|'[^']*(?:'|\Z))*)(?:>|\Z)""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_LAYOUT = re.compile(r"""\brole\s*=\s*["']?(?:presentation|none)\b""", re.IGNORECASE)


def inlined(html: str) -> str:
    """The HTML with its style sheets in its elements. Nothing is fetched, no file is opened. Raises TooIntricate."""
    styles = "".join(_styles(html))
    if not styles:
        return html
    tags = html.count("<")
    searching = len(_SEARCHING.findall(styles))
    if (
        len(styles) * tags > LARGEST_MATCH
        or _different(styles) ** 2 * tags > LARGEST_MERGE
        or searching * tags**2 > LARGEST_SEARCH
    ):
        raise TooIntricate(f"{len(styles):,} characters of style sheets for {tags:,} tags: fewer of either")
    check_depth(html)
    return _INLINER.inline(html)


def readable(html: str) -> str:
    """The text of some HTML: its links with their addresses, its tables with their columns. Raises TooIntricate."""
    check_depth(html)
    lines = html.count("<") + html.count("\n")
    if _WIDEST_INDENT * min(len(_INDENTING.findall(html)), DEEPEST) * lines > LARGEST_INDENT:
        raise TooIntricate(f"lists or quotations in each other, with {lines:,} lines: write a body.txt")
    markdown = convert(_without_layout(html), _READABLE).content or ""
    plain = _ESCAPED.sub(r"\g<before>", _LINK.sub(_link, markdown))
    return "\n".join(line.rstrip() for line in plain.split("\n"))


def _without_layout(html: str) -> str:
    """Tables that hold a page together, as their `role` says, are none to a reader. Comments are told to Outlook."""
    layout: list[bool] = []  # of each table that is open

    def plain(match: re.Match[str]) -> str:
        tag, end, whole = (match["tag"] or "").lower(), match["end"], match[0]
        if not tag:
            return ""
        if tag == "table" and not end:
            layout.append(_LAYOUT.search(match["rest"]) is not None)
        of_layout = bool(layout) and layout[-1]
        if tag == "table" and end and layout:
            layout.pop()
        return f"<{end}div{match['rest']}>" if of_layout else whole

    return _TABLE.sub(plain, html)


def _link(match: re.Match[str]) -> str:
    """`View order <https://shop.example/orders/42>`, as RFC 3986 (appendix C) would have it in text."""
    words, url = match["words"], match["url"]
    return f"<{url}>" if words == url else f"{words} <{url}>"


def _styles(html: str) -> Iterator[str]:
    lower, start = html.lower(), 0
    while (start := lower.find("<style", start)) >= 0:
        end = lower.find("</style", start)
        end = end if end >= 0 else len(lower)
        yield lower[start:end]
        start = end


def _different(styles: str) -> int:
    """How many properties an element can be given, at most: what is not plainly the name of one counts each time."""
    plain = _PROPERTY.findall(styles)
    return len(set(plain)) + styles.count(":") - len(plain) + styles.count("\\")
