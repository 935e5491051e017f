"""What was measured, for people: each question's figures, and the bars."""

import statistics

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.bars import BARS, ratios
from benchmarks.registry import title
from benchmarks.results import Results

_HEADINGS = {
    "mails": "mails",
    "rate": "mails/s",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "cpu_contender": "CPU s/1,000",
    "cpu_postgresql": "PostgreSQL",
    "cpu_redis": "Redis",
    "cpu_sink": "relay",
    "surplus": "too many",
    "peak_mb": "peak MB",
    "growth_mb": "grown MB",
    "share_contender": "of a core",
    "share_python": "of Python's time",
    "wal_queued": "WAL bytes queued",
    "wal_sent": "WAL bytes sent",
    "stays": "bytes that stay",
}
"""Figures that are shown, in this order; the file of results has all."""

_OF_RATES = ("least - most", "ours / it")

_WIDEST = 170
"""Columns, where nobody looks through a terminal of less."""


def show(console: Console, results: Results) -> None:
    """All of it."""
    if not console.is_terminal:
        console.width = _WIDEST
    for question in results.questions:
        console.print(_question(results, question))
    for remark, where in results.remarks.items():
        console.print(f"failed: {where}: {remark}", style="red", markup=False, highlight=False)
    console.print(_bars(results))


def _table(name: str, headings: list[str]) -> Table:
    table = Table(title=name, title_justify="left", title_style="bold", box=box.SIMPLE)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    return table


def _question(results: Results, question: str) -> Table:
    """Medians of the rounds; of rates, the least and the most, too."""
    runs = results.of(question)
    figures = [figure for figure in _HEADINGS if any(results.rounds(question, *run, figure) for run in runs)]
    headings = [_HEADINGS[figure] for figure in figures]
    if "rate" in figures:
        place = figures.index("rate") + 1
        headings[place:place] = _OF_RATES
    table = _table(question, ["", "", *headings])
    for case, contender in runs:
        cells = []
        for figure in figures:
            values = list(results.rounds(question, case, contender, figure).values())
            cells.append(_number(statistics.median(values)) if values else "")
            if figure == "rate":
                cells.append(f"{_number(min(values))} - {_number(max(values))}" if values else "")
                cells.append(_ratio(results, question, case, contender))
        table.add_row(case, title(contender), *cells)
    return table


def _ratio(results: Results, question: str, case: str, contender: str) -> str:
    """How many times as fast as it we are, in the same rounds."""
    ours, others = (results.rounds(question, case, name, "rate") for name in ("ours", contender))
    found = ratios(ours, others)
    return f"{statistics.median(found):.2f}" if found and contender != "ours" else ""


def _bars(results: Results) -> Table:
    table = _table("bars", ["", "bar", "measured", "verdict"])
    for bar in BARS:
        value = bar.measured(results)
        if value is not None:
            aim = f" (aim {bar.aim:g})" if bar.aim is not None else ""
            wanted = f"{'<=' if bar.at_most else '>='} {bar.bar:g}{aim} {bar.unit}"
            verdict = "[green]met[/]" if bar.met(value) else "[red]missed[/]"
            table.add_row(bar.title, wanted.rstrip(), f"{value:.3g} {bar.unit}".rstrip(), verdict)
    return table


def _number(value: float) -> str:
    """Three digits are more than a machine repeats."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"  # noqa: PLR2004 - see above
