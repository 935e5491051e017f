"""What one rendering of a template may use up. Whoever writes a template can stop neither the process nor its memory.

A rendering has a budget of its own: threads render at once with the same compiled templates. `sandbox` puts the calls
of `spend`, `weigh` and `written` into the compiled template, around whatever can repeat or grow.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, MappingView
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from jinja2.utils import Namespace

STEPS = 500_000
"""Nodes of a template evaluated, elements looked at: about a second of Python. 1,000 rows take 50,000."""

CHARACTERS = 4_000_000
"""Written by a rendering; what macros and blocks pass on counts again. Gmail clips a mail after 102,400 bytes."""

LARGEST_NUMBER = 4096
"""Bits of a product or power: no sum of money has more, and Python writes numbers up to about this size."""

LARGEST_WIDTH = 1000
"""Characters that a format or a filter may pad to: a line of a mail has at most 998."""

_READ = 100
"""Characters of a text that are read in the time of one step."""

_SHORT = 20
"""Characters of what is written and is no text: a number, a date, an object of the application."""

_FORMAT = re.compile(
    r"%(?:\([^()]*\))?[-#0 +]*(?P<width>\*|\d*)(?:\.(?P<precision>\*|\d*))?[hlL]?(?P<kind>.?)", re.DOTALL
)

_T = TypeVar("_T")


class Exceeded(Exception):
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
        raise Exceeded(f"more than {STEPS:,} steps: it repeats, or looks through, more than a mail can need")
    if budget.characters < 0:
        raise Exceeded(f"more than {CHARACTERS:,} characters: it writes more than a mail can hold")
    return True


def weigh(value: _T) -> _T:
    """Pay for looking through all of a value, however it is nested. Of an iterator, take what is returned instead."""
    if isinstance(value, str):
        if len(value) >= _READ:
            spend(len(value) // _READ)
    elif isinstance(value, CONTAINERS):
        for _ in _leaves(value):
            pass
    elif isinstance(value, Iterator):
        return cast("_T", map(_drawn, value))
    return value


def _drawn(element: _T) -> _T:
    """What an iterator yields is paid for as it is drawn: nobody knows before how much that will be."""
    spend(1)
    return weigh(element)


def written(value: _T) -> _T:
    """Pay for writing all of a value, before it is turned into text."""
    if isinstance(value, str):
        spend(1, len(value))
    elif isinstance(value, _WITH_LEAVES):
        for leaf in _leaves(value):
            spend(1, _length(leaf))
    else:
        spend(1, _length(value))
    return value


def taken_apart(value: _T) -> _T:
    """Pay for a copy, or for a list of the elements."""
    if isinstance(value, str):
        spend(len(value), len(value))
    return weigh(value)


def kept(result: _T) -> _T:
    """Pay for what a function has made: a text by its length, a list by its elements."""
    if isinstance(result, str):
        spend(1, len(result))
    elif isinstance(result, CONTAINERS):
        spend(len(result))
    return result


CONTAINERS = (list, tuple, dict, set, frozenset, deque, bytes, bytearray, range, MappingView)
_WITH_LEAVES = (*CONTAINERS, Namespace)


def _leaves(value: Any) -> Iterator[Any]:
    """With a stack of its own, and paid for while it walks: a list in itself ends in Exceeded."""
    stack = [value]
    while stack:
        one: Any = stack.pop()
        if isinstance(one, str | bytes | bytearray):
            spend(1 + len(one) // _READ)
            yield one
        elif isinstance(one, CONTAINERS):
            spend(1 + len(one))
            if not isinstance(one, range):
                stack.extend(cast("Iterable[Any]", one))
            if isinstance(one, dict):
                stack.extend(one.values())
        elif isinstance(one, Namespace):
            raise Exceeded("a namespace cannot be written: write what is in it")
        else:
            yield one


def _length(value: Any) -> int:
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    return max(_SHORT, value.bit_length()) if isinstance(value, int) else _SHORT


def add(left: Any, right: Any) -> Any:
    """`+`."""
    return kept(weigh(left) + weigh(right))


def multiply(left: Any, right: Any) -> Any:
    """`*`: of numbers, or a sequence repeated as often as the budget allows."""
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, str | bytes | bytearray):
            spend(1, len(sequence) * max(times, 0))
        elif isinstance(sequence, list | tuple | deque):
            for _ in range(times):
                spend(1)
                weigh(sequence)
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
    return formatted(left, right) if isinstance(left, str) else left % right


def formatted(pattern: str, values: Any) -> str:
    """A `%` format, paid for before it is filled in."""
    fields = list(_FORMAT.finditer(written(pattern)))
    for field in fields:
        if field["kind"] not in "diouxXeEfFgGcrsa%" or not field["kind"]:
            raise Exceeded(f"{field.group()!r} is no format: write %(name)s, and %% for a percent sign")
        for size in field.group("width", "precision"):
            if size and (size == "*" or len(size) > len(str(LARGEST_WIDTH)) or int(size) > LARGEST_WIDTH):
                raise Exceeded(f"the format {field.group()!r} is wider than {LARGEST_WIDTH} characters")
    if isinstance(values, Mapping):
        given = list(values.values())
    else:
        given = list(values) if isinstance(values, tuple) else [values]
    shown = [str(written(value)) if isinstance(value, _WITH_LEAVES) else value for value in given]
    longest = max(map(_length, shown), default=0)
    spend(len(fields), longest * len(fields))
    filled: str = pattern % values
    return kept(filled)


def check_width(name: str, width: Any) -> None:
    """Raises Exceeded for what no line of a mail can be."""
    if isinstance(width, int) and abs(width) > LARGEST_WIDTH:
        raise Exceeded(f"{name} is more than {LARGEST_WIDTH}")
