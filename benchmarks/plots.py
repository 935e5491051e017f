"""Pictures of what was measured: `python -m benchmarks.plots FILE FOLDER`, one SVG for each question.

Runs in the peers' environment, which has matplotlib; so it imports nothing but what the standard library carries.
"""

import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.registry import CONTENDERS, Kind, title
from benchmarks.results import Results, unique

_COLOURS = {Kind.OURS: "#1f6feb", Kind.PEER: "#9aa4b2", Kind.LIMIT: "#d9a441"}
_MEANINGS = {Kind.OURS: "Outbox", Kind.PEER: "peers", Kind.LIMIT: "what the machine allows"}

_TITLES = {
    "sink": "What the relays take",
    "drain": "Draining a full queue",
    "enqueue": "Putting mail on record",
    "latency": "From the commit to the relay's 250",
    "relay": "A relay 50 ms away, 16 connections",
    "scale": "A long history, and more processes",
    "disk": "Bytes of a mail on PostgreSQL's disk",
    "memory": "A burst",
    "profile": "Where a worker's time goes",
}
_FIGURES = {
    "rate": "mails a second",
    "p50_ms": "median, ms",
    "p99_ms": "99 in 100, ms",
    "growth_mb": "memory that a worker grew by, MB",
    "wal_queued": "written ahead while it is queued, bytes",
    "wal_sent": "written ahead while it is sent, bytes",
    "stays": "in tables and indexes, bytes",
    "share_python": "of the time in which a worker runs Python",
}
"""What is drawn of a question, and what stands below it."""

_BAR_INCHES = 0.3
_WIDTH_INCHES = 8.0
_INK, _FAINT = "#1f2328", "#6e7781"


def draw(results: Results, folder: Path) -> None:
    """A picture for each question that was asked."""
    mpl.rcParams |= {
        "svg.fonttype": "none",  # text stays text: small, and to be found
        "svg.hashsalt": "benchmarks",  # the same figures make the same file
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _FAINT,
        "ytick.color": _INK,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for question in results.questions:
        figure = _picture(results, question)
        figure.savefig(folder / f"{question}.svg", metadata={"Date": None}, facecolor="white")


def _picture(results: Results, question: str) -> Figure:
    """A panel for each case and figure, those of a case below each other; bars in the order in which they were run."""
    panels = [
        (case, figure, bars)
        for figure in _FIGURES
        for case in _panels(results, question)
        if (bars := _bars(results, question, case, figure))
    ]
    heights = [len(bars) * _BAR_INCHES + 0.75 for _, _, bars in panels]
    whole = sum(heights) + 1.1
    picture = Figure(figsize=(_WIDTH_INCHES, whole))
    picture.text(0.02, 1 - 0.28 / whole, _TITLES[question], fontsize=13, fontweight="bold", va="center")
    _explain_colours(picture, panels, whole)
    top = whole - 0.55
    for (case, figure, bars), height in zip(panels, heights, strict=True):
        axes = picture.add_axes((0.27, (top - height + 0.45) / whole, 0.61, (height - 0.75) / whole))
        _draw_bars(axes, bars)
        axes.set_title(case, loc="left", fontsize=10, color=_INK)
        axes.set_xlabel(_FIGURES[figure], fontsize=8, color=_FAINT, labelpad=2)
        top -= height
    picture.text(0.02, 0.16 / whole, _footnote(results), fontsize=7, color=_FAINT, va="center")
    return picture


Bars = list[tuple[str, Kind, list[float]]]
"""Label, whose it is, and the value of each round."""


def _panels(results: Results, question: str) -> list[str]:
    """The cases of several contenders have a panel each; where it is us alone, the cases are what is compared."""
    runs = results.of(question)
    return unique(case for case, _ in runs) if len({name for _, name in runs}) > 1 else [""]


def _bars(results: Results, question: str, panel: str, figure: str) -> Bars:
    bars = []
    for case, name in results.of(question):
        values = list(results.rounds(question, case, name, figure).values())
        if values and panel in {case, ""}:
            kind = CONTENDERS[name].kind if name in CONTENDERS else Kind.LIMIT
            bars.append((title(name) if panel else case, kind, values))
    return bars


def _draw_bars(axes: Any, bars: Bars) -> None:
    places = range(len(bars))
    medians = [statistics.median(values) for _, _, values in bars]
    spread = [
        [median - min(values) for median, (_, _, values) in zip(medians, bars, strict=True)],
        [max(values) - median for median, (_, _, values) in zip(medians, bars, strict=True)],
    ]
    axes.barh(places, medians, height=0.68, color=[_COLOURS[kind] for _, kind, _ in bars])
    axes.errorbar(medians, places, xerr=spread, fmt="none", ecolor=_INK, elinewidth=0.8, capsize=2)
    axes.set_yticks(places, [label for label, _, _ in bars])
    axes.invert_yaxis()
    most = max(max(values) for _, _, values in bars)
    axes.set_xlim(0, most * 1.02)
    for place, median, (_, _, values) in zip(places, medians, bars, strict=True):
        axes.annotate(
            _number(median), (max(values), place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#d0d7de")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7, length=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def _explain_colours(picture: Figure, panels: list[tuple[str, str, Bars]], whole: float) -> None:
    """Where there are several."""
    kinds = [kind for kind in Kind if any(kind is each for _, _, bars in panels for _, each, _ in bars)]
    if len(kinds) > 1:
        patches = [mpl.patches.Patch(color=_COLOURS[kind], label=_MEANINGS[kind]) for kind in kinds]
        picture.legend(
            handles=patches,
            loc="center right",
            bbox_to_anchor=(0.99, 1 - 0.28 / whole),
            ncols=len(kinds),
            frameon=False,
            fontsize=8,
        )


def _footnote(results: Results) -> str:
    machine, versions = results.machine, results.versions
    rounds = max(each.round for each in results.measurements)
    counted = f"medians of {rounds} rounds, lines from least to most" if rounds > 1 else "one round"
    hurried = "; a quick run, whose figures mean little" if results.quick else ""
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB; {machine['system']}; "
        f"Python {versions['python']}, PostgreSQL {versions['postgresql']}\n"
        f"{results.date[:10]}; {counted}{hurried}"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits are more than repeat


if __name__ == "__main__":
    draw(Results.read(Path(sys.argv[1])), Path(sys.argv[2]))
