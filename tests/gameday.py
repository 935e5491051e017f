"""The game day of docs/operations.md as it is written there: of each night, the alerts and what one types.

`words` makes of a quoted alert what must come: its fixed words as they stand, and for the rest (`...`, `2 min`, names
of things) whatever this night has in their place.
"""

import re
from pathlib import Path
from typing import NamedTuple

_OPERATIONS = Path(__file__).parent.parent / "docs/operations.md"

_WHATEVER = {
    re.escape("..."): ".+",
    re.escape("2 min"): r"\d+ (s|min)",
    re.escape("worker host:4711"): r"(worker|beat) \S+",
    "production": r"\w+",
}


class Night(NamedTuple):
    """What the documentation quotes."""

    alerts: list[str]
    commands: list[str]


def nights() -> dict[str, Night]:
    """By heading."""
    text = _OPERATIONS.read_text("utf-8").partition("\n## Game day\n")[2].partition("\n## ")[0]
    found = {}
    for chapter in text.split("\n### ")[1:]:
        heading, _, body = chapter.partition("\n")
        quoted = [line.removeprefix("    ") for line in body.splitlines() if line.startswith("    ")]
        alerts = [line for line in quoted if line.startswith(("Trouble (", "Over ("))]
        found[heading] = Night(alerts, [line.removeprefix("$ ") for line in quoted if line.startswith("$ ")])
    return found


def words(alert: str, relay: str) -> re.Pattern[str]:
    """What it looks like here."""
    pattern = re.escape(alert).replace(re.escape("mx.example:587"), re.escape(relay))
    for sample, whatever in _WHATEVER.items():
        pattern = pattern.replace(sample, whatever)
    return re.compile(pattern)
