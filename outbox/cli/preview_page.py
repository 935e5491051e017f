"""A preview as one file for the browser."""

from collections.abc import Iterator
from html import escape

from outbox.preview import Preview, facts

# Nothing runs, and nothing is fetched. The frames, which have no address of their own, are under it, too.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(shown: Preview) -> str:
    """One HTML page that needs nothing beside it: the mail at two widths, light and dark, and its text."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts(shown))
    warning = f'<p class="warning">{escape(shown.warning)}</p>' if shown.warning else ""
    text = f"<h2>Text</h2><pre>{escape(shown.text)}</pre>" if shown.text else ""
    return _PAGE.format(
        policy=escape(_POLICY),
        title=escape(f"{shown.name}: {shown.subject}"),
        rows=rows,
        warning=warning,
        frames="".join(_frames(shown.html)) if shown.html else "",
        text=text,
    )


def _frames(html: str) -> Iterator[str]:
    # The frame's own colour scheme is the one that the mail's media query sees.
    source = escape(html)
    for scheme in ("light", "dark"):
        yield f"<h2>HTML, {scheme}</h2><div>"
        for width in ("desktop", "phone"):
            yield f'<iframe class="{width} {scheme}" sandbox="" title="{width}, {scheme}" srcdoc="{source}"></iframe>'
        yield "</div>"


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
  body {{ margin: 0 auto; max-width: 72rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; }}
  th {{ padding: 0 1.5rem 0 0; font-weight: 400; opacity: .7; text-align: left; vertical-align: top; }}
  h2 {{ margin: 1.5rem 0 .5rem; font-size: 1rem; }}
  div {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
  iframe {{ height: 48rem; max-width: 100%; border: 1px solid #888; resize: vertical; }}
  .desktop {{ width: 44rem; }}
  .phone {{ width: 375px; }}
  .light {{ background: #fff; color-scheme: light; }}
  .dark {{ background: #121212; color-scheme: dark; }}
  .warning {{ padding: .5rem 1rem; border: 2px solid #b83a3a; }}
  pre {{ padding: 1rem; border: 1px solid #888; white-space: pre-wrap; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<table>{rows}</table>
{warning}
{frames}
{text}
</body>
</html>
"""
