"""How far a long piece of work has come, on stderr: a bar on a terminal, a line now and then anywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
"""Between two lines, and before the first: a short piece of work, as from cron, says nothing."""


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Call what it gives with how much more is done. `what`: as in `Deleting:`. `total`: None if nobody knows."""
    console = Console(stderr=True)
    if not console.is_terminal or total == 0:
        yield _lines(what, total)
        return
    columns: list[Any] = [TextColumn(what), BarColumn(), MofNCompleteColumn()]
    if total is not None:
        columns.append(TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda more: bar.advance(task, more)


def _lines(what: str, total: int | None) -> Callable[[int], None]:
    done, said = 0, time.monotonic()

    def advance(more: int) -> None:
        nonlocal done, said
        done += more
        if time.monotonic() - said >= LINE_SECONDS:
            said = time.monotonic()
            click.echo(f"{what} {done:,}{'' if total is None else f' of {total:,}'}", err=True)

    return advance
