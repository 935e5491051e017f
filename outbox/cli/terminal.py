"""What reaches the terminal.

Mail holds what strangers wrote, and a terminal obeys escape sequences: everything printed goes through `safe` first.
Rich's own markup is never interpreted, for every cell is a `Text`.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from outbox.printable import safe

UNBOUNDED = 100_000
"""Columns of output that goes to a file or a pipe: nothing is cut there."""

WIDE = 110
"""Columns from which a remark has one of its own; below, lines."""

_INDENT = 6

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON: its keys stay, its times are UTC.")


def cell(value: object, style: str = "") -> Text:
    """One line in a table; cut with an ellipsis where the terminal is too narrow for it."""
    return Text(safe("-" if value is None else str(value)), style=style, no_wrap=True, overflow="ellipsis")


def table(*fixed: str, cut: Sequence[str] = (), right: Sequence[str] = ()) -> Table:
    """A table without lines, with these columns; those in `cut` give way where the terminal is narrow."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in fixed:
        made.add_column(name, no_wrap=name not in cut, justify="right" if name in right else "left")
    return made


class RemarkTable:
    """A line for each row. Its remark has a column where there is room, and else lines of its own below."""

    def __init__(
        self,
        columns: Sequence[str],
        remark: str,
        rows: Iterable[tuple[Sequence[Text], str | None]],
        *,
        cut: Sequence[str] = (),
        right: Sequence[str] = (),
        whole: bool = False,
    ) -> None:
        """`remark`: the name of its column. `whole`: rather than cut, it goes on in the next line."""
        self._columns, self._remark = columns, remark
        self._rows = [(cells, text) for cells, text in rows]
        self._cut, self._right, self._whole = cut, right, whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """For rich."""
        if options.max_width >= WIDE and any(remark for _, remark in self._rows):
            yield self._table(self._remark)
            return
        header, *lines = console.render_lines(self._table(), options, pad=False)
        yield from (*header, Segment.line())
        for (_, remark), line in zip(self._rows, lines, strict=True):  # no cell wraps
            yield from (*line, Segment.line())
            if remark:
                yield Padding(self._text(remark), (0, 0, 0, _INDENT))

    def _table(self, *remark: str) -> Table:
        made = table(*self._columns, *remark, cut=(*self._cut, *remark), right=self._right)
        for cells, text in self._rows:
            made.add_row(*cells, *([self._text(text or "")] if remark else []))
        return made

    def _text(self, remark: str) -> Text:
        return Text(safe(remark), style="dim", overflow="fold") if self._whole else cell(remark, "dim")


def put(*parts: RenderableType) -> None:
    """Print: in colour on a terminal; plain, and without blanks at the ends of lines, anywhere else."""
    out = console()
    if out.is_terminal:
        out.print(*parts, sep="\n")
        return
    with out.capture() as captured:
        out.print(*parts, sep="\n")
    click.echo("\n".join(line.rstrip() for line in captured.get().split("\n")), nl=False)


def put_exactly(data: bytes) -> None:
    """To a file or a pipe the bytes as they are; to a terminal, what is safe of them."""
    if sys.stdout.isatty():
        click.echo(safe(data.decode("utf-8", "replace").replace("\r\n", "\n"), keep="\n\t"))
    else:
        click.echo(data, nl=False)


def put_json(value: object) -> None:
    """Print JSON in ASCII, which leaves no character that a terminal could obey."""
    click.echo(json.dumps(value, indent=2, default=_json_value).replace("\x7f", "\\u007f"))


def count(number: int, noun: str) -> str:
    """`1 mail`, `2 mails`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Names and values, a line each; what is None is left out."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            made.add_row(Text(safe(name), style="dim"), value if isinstance(value, Text) else Text(safe(str(value))))
    return made


def console() -> Console:
    """Of stdout."""
    made = Console(highlight=False, markup=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = UNBOUNDED
    return made


def _json_value(value: object) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise TypeError(f"{value!r} has no form in JSON")
