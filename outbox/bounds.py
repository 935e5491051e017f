"""What one rendering of a template may use up. Whoever writes a template can stop neither the process nor its memory.

A rendering has a budget of its own, and it alone: threads render at once with the same compiled templates. `sandbox` puts the
calls of `spend`, `weigh` and `written` into the compiled template, around whatever can repeat or grow.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping, MappingView
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from jinja2.utils import Namespace

STEPS = 2_000_000
"""Nodes of a template evaluated, elements looked at: about a second of Python. A digest of 1,000 rows takes 50,000."""

CHARACTERS = 4_000_000
"""Written by a rendering, macros and blocks counted each time they are passed on. Gmail clips a mail after 102,400 bytes."""

LARGEST_NUMBER = 4096
"""Bits of a product or power: no sum of money has more, and Python writes numbers up to about this size."""

LARGEST_WIDTH = 1000
"""Characters that a `%` format or a filter may pad to: a line of a mail has at most 998."""

_READ = 100
"""Characters of a text that are read in the time of one step."""

_NUMBER_WRITTEN = 20
_PRINTF = re.compile(
    r"%(?:\((?P<name>[^()]*)\))?[-#0 +]*(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d*))?[hlL]?(?P<kind>.)", re.DOTALL
)

_T = TypeVar("_T")


class Exceeded(Exception):  # noqa: N818 - it reads as what happened
    """A rendering wants more than a mail can need."""


class _Budget:
    __slots__ = ("characters", "steps")

    def __init__(self) -> None:
        self.steps = STEPS
        self.characters = CHARACTERS


_budget: ContextVar[_Budget] = ContextVar("outbox_rendering")


@contextmanager
def bounded() -> Iterator[None]:
    """What is rendered inside shares one new budget."""
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def spend(steps: int, characters: int = 0) -> bool:
    """Raises Exceeded when it is too much. Always true, so that it can stand in a condition."""
    budget = _budget.get()
    budget.steps -= steps
    budget.characters -= characters
    if budget.steps < 0:
        raise Exceeded(f"more than {STEPS:,} steps: it loops, calls or looks through more than a mail can need")
    if budget.characters < 0:
        raise Exceeded(f"more than {CHARACTERS:,} characters: it writes more than a mail can hold")
    return True


def weigh(value: _T) -> _T:
    """Pay for looking through all of a value, however it is nested."""
    if isinstance(value, str):
        if len(value) >= _READ:
            spend(len(value) // _READ)
    elif isinstance(value, _CONTAINERS):
        for _ in _leaves(value):
            pass
    return value


def written(value: _T) -> _T:
    """Pay for writing all of a value, before it is turned into text."""
    if isinstance(value, str):
        spend(1, len(value))
    elif isinstance(value, (*_CONTAINERS, Namespace)):
        for leaf in _leaves(value):
            spend(1, len(leaf) if isinstance(leaf, str | bytes) else _NUMBER_WRITTEN)
    else:
        spend(1, _NUMBER_WRITTEN)
    return value


def sliced(value: _T) -> _T:
    """Pay for a copy."""
    return written(value) if isinstance(value, str) else weigh(value)


_CONTAINERS = (list, tuple, dict, set, frozenset, deque, bytes, bytearray, range, MappingView)


def _leaves(value: Any) -> Iterator[Any]:
    """With a stack of its own, and paid for while it walks: a list of itself, or of 2**50 elements, ends in Exceeded."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str | bytes | bytearray):
            spend(1 + len(one) // _READ)
            yield one
        elif isinstance(one, _CONTAINERS):
            spend(1 + len(one))
            if not isinstance(one, range):
                stack.extend(one)
            if isinstance(one, dict):
                stack.extend(one.values())
        elif isinstance(one, Namespace):
            raise Exceeded("a namespace cannot be written: write its variables")
        else:
            yield one


def add(left: Any, right: Any) -> Any:
    """`+`."""
    return sliced(left) + sliced(right)


def multiply(left: Any, right: Any) -> Any:
    """`*`: of numbers, or a sequence repeated as often as the budget allows."""
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, str | bytes | list | tuple) and isinstance(times, int):
            spend(len(sequence) * max(times, 0), len(sequence) * max(times, 0))
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    return left * right


def power(base: Any, exponent: Any) -> Any:
    """`**`: of numbers alone."""
    if not all(isinstance(number, int | float) for number in (base, exponent)):
        raise Exceeded("** takes whole and floating point numbers alone")
    if isinstance(base, int) and isinstance(exponent, int):
        _check_bits(base.bit_length() * abs(exponent))
    return base**exponent


def _check_bits(bits: int) -> None:
    if bits > LARGEST_NUMBER:
        raise Exceeded(f"a number of more than {LARGEST_NUMBER} bits")


def modulo(left: Any, right: Any) -> Any:
    """`%`: of numbers, or a format."""
    return formatted(left, right) if isinstance(left, str | bytes) else left % right


def formatted(pattern: Any, values: Any) -> Any:
    """A `%` format, paid for before it is filled in."""
    sources = list(_PRINTF.finditer(written(pattern) if isinstance(pattern, str) else pattern.decode("latin-1")))
    for source in sources:
        if any(
            len(size) > 4 or size == "*" or int(size) > LARGEST_WIDTH
            for size in source.group("width", "precision")
            if size
        ):  # noqa: PLR2004
            raise Exceeded(f"the format {source.group()!r} is wider than {LARGEST_WIDTH} characters")
    each = (
        list(values.values())
        if isinstance(values, Mapping)
        else list(values)
        if isinstance(values, tuple)
        else [values]
    )
    longest = 0
    for value in each:
        weigh(value)
        if isinstance(value, _CONTAINERS):
            value = str(written(value))  # noqa: PLW2901 - it is written once here, and again where it is meant
        longest = max(longest, len(value) if isinstance(value, str) else _NUMBER_WRITTEN)
    spend(len(sources), longest * len(sources))
    return pattern % values


def check_width(name: str, width: Any) -> None:
    """Raises Exceeded for what no line of a mail can be."""
    if isinstance(width, int) and abs(width) > LARGEST_WIDTH:
        raise Exceeded(f"{name}={width}: at most {LARGEST_WIDTH}")
