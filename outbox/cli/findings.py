"""What the doctor finds: each thing is fine, wrong with a remedy, or not known."""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple


class Is(StrEnum):
    """How it is."""

    FINE = "fine"
    WRONG = "wrong"
    UNKNOWN = "unknown"
    """It could not be looked at, or there is nothing to look at. That is no failure."""


class Finding(NamedTuple):
    """One line of the doctor's report."""

    name: str
    state: Is
    said: str
    remedy: str = ""


Check = Callable[[], Iterator[Finding]]


def fine(name: str, said: str) -> Finding:
    """Nothing to do."""
    return Finding(name, Is.FINE, said)


def wrong(name: str, said: str, remedy: str) -> Finding:
    """Something to do."""
    return Finding(name, Is.WRONG, said, remedy)


def unknown(name: str, said: str) -> Finding:
    """Nothing to say."""
    return Finding(name, Is.UNKNOWN, said)
