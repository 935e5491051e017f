"""What was measured, for people: each question's figures, and the bars."""

import statistics

from rich.console import Console
from rich.table import Table

from benchmarks.bars import BARS
from benchmarks.registry import CONTENDERS
from benchmarks.results import Results

_HEADINGS = {
    "rate": "mails/s",
    "surplus": "too many",
    "cpu_contender": "CPU s per 1,000",
    "cpu_postgresql": "PostgreSQL",
    "cpu_redis": "Redis",
    "cpu_sink": "relay",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "peak_mb": "peak MB",
    "growth_mb": "grown MB",
    "share_contender": "of a core",
    "mails": "mails",
}
"""Figures that are shown, in this order; the file of results has all."""

_RATIO_HEADING = "ours / it"


def show(console: Console, results: Results) -> None:
    """All of it."""
    for question in results.questions:
        console.print(_question(results, question))
    failed = [each for each in results.measurements if each.remark]
    for each in failed:
        console.print(f"{each.question}, {each.case}, {each.contender}, round {each.round}: {each.remark}", style="red")
    console.print(_bars(results))


def _question(results: Results, question: str) -> Table:
    """Medians of the rounds; of rates, the least and the most, too."""
    runs = results.of(question)
    figures = [figure for figure in _HEADINGS if any(results.rounds(question, *run, figure) for run in runs)]
    table = Table(title=question, title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("")
    for figure in figures:
        table.add_column(_HEADINGS[figure], justify="right")
        if figure == "rate":
            table.add_column("least - most", justify="right")
            table.add_column(_RATIO_HEADING, justify="right")
    for case, contender in runs:
        cells = []
        for figure in figures:
            values = list(results.rounds(question, case, contender, figure).values())
            cells.append(_number(statistics.median(values)) if values else "")
            if figure == "rate":
                cells.append(f"{_number(min(values))} - {_number(max(values))}" if values else "failed")
                cells.append(_ratio(results, question, case, contender))
        title = CONTENDERS[contender].title if contender in CONTENDERS else contender
        table.add_row(case, title, *cells)
    return table


def _ratio(results: Results, question: str, case: str, contender: str) -> str:
    """How many times as fast as it we are, in the same rounds."""
    ours = results.rounds(question, case, "ours", "rate")
    others = results.rounds(question, case, contender, "rate")
    ratios = [ours[number] / others[number] for number in ours.keys() & others.keys()]
    return f"{statistics.median(ratios):.2f}" if ratios and contender != "ours" else ""


def _bars(results: Results) -> Table:
    table = Table(title="bars", title_justify="left", title_style="bold")
    for heading in ("", "bar", "measured", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for bar in BARS:
        value = bar.measured(results)
        if value is None:
            continue
        sign = "<=" if bar.at_most else ">="
        aim = f" (aim {bar.aim:g})" if bar.aim is not None else ""
        verdict = "[green]met[/]" if bar.met(value) else "[red]missed[/]"
        table.add_row(
            bar.title, f"{sign} {bar.bar:g}{aim} {bar.unit}".rstrip(), f"{value:.3g} {bar.unit}".rstrip(), verdict
        )
    return table


def _number(value: float) -> str:
    """Three digits are more than a machine repeats."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"  # noqa: PLR2004 - see above
