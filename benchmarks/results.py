"""What was measured, as it is written to a file and read from it.

Of the standard library alone: the plots are drawn in another environment.
"""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Measurement:
    """One round of one contender."""

    question: str
    case: str
    """Of the question: `2 KB`, `one by one`."""
    contender: str
    round: int
    figures: dict[str, float] = field(default_factory=dict)
    """Empty: it failed, and `remark` says why."""
    remark: str = ""


@dataclass
class Results:
    """All that was measured, and where."""

    date: str
    quick: bool
    machine: dict[str, Any]
    versions: dict[str, str]
    measurements: list[Measurement] = field(default_factory=list)

    def rounds(self, question: str, case: str, contender: str, figure: str) -> dict[int, float]:
        """Round -> what was measured in it."""
        return {
            each.round: each.figures[figure]
            for each in self.measurements
            if (each.question, each.case, each.contender) == (question, case, contender) and figure in each.figures
        }

    def median(self, question: str, case: str, contender: str, figure: str) -> float | None:
        """Of all rounds; None if there is none."""
        values = self.rounds(question, case, contender, figure).values()
        return statistics.median(values) if values else None

    def of(self, question: str) -> list[tuple[str, str]]:
        """The cases and contenders of a question, in the order in which they were run."""
        return unique((each.case, each.contender) for each in self.measurements if each.question == question)

    @property
    def remarks(self) -> dict[str, str]:
        """What went wrong -> where, each once."""
        found: dict[str, list[str]] = {}
        for each in self.measurements:
            if each.remark:
                found.setdefault(each.remark, []).append(f"{each.question}, {each.case}, {each.contender}")
        return {remark: "; ".join(unique(where)) for remark, where in found.items()}

    @property
    def questions(self) -> list[str]:
        """Those that were asked."""
        return unique(each.question for each in self.measurements)

    def write(self, file: Path) -> None:
        """As JSON."""
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, file: Path) -> "Results":
        """What `write` has written."""
        values = json.loads(file.read_text())
        values["measurements"] = [Measurement(**each) for each in values["measurements"]]
        return cls(**values)


def unique(values: Iterable[_Value]) -> list[_Value]:
    """Each once, in order."""
    return list(dict.fromkeys(values))
