"""The filters and tests of Jinja that a template may use, each paying for what it reads and writes.

A list of what may be used, not of what may not: a filter that the next Jinja adds is not there until somebody has asked
how large its result can be. Not here: `attr` (a second way to an attribute), `urlize`, `xmlattr`, `pprint`, `random`.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce, wraps
from inspect import signature
from typing import Any

from jinja2 import Environment, filters, pass_environment, pass_eval_context, tests
from jinja2.nodes import EvalContext

from outbox.templates.bounds import Exceeded, add, check_width, formatted, kept, spend, taken_apart, weigh, written

_LOOK = ("count", "d", "default", "first", "items", "last", "length", "safe")
"""Look at no more than an element: they cost nothing."""

_WALK = (
    "batch", "dictsort", "groupby", "list", "map", "max", "min", "reject", "rejectattr", "reverse", "select",
    "selectattr", "slice", "sort", "unique",
)  # fmt: skip
"""Walk through a sequence, comparing its elements at most."""

_WRITE = (
    "abs", "capitalize", "center", "e", "escape", "filesizeformat", "float", "forceescape", "indent", "int", "lower",
    "replace", "round", "string", "striptags", "title", "tojson", "trim", "truncate", "upper", "urlencode", "wordcount",
    "wordwrap",
)  # fmt: skip
"""Make text of what they are given."""

_COMPARE = (
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "eq",
    "equalto",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "le",
    "lessthan",
    "lt",
    "ne",
)
_ARITHMETIC = ("divisibleby", "even", "odd")
_ASK = (
    "boolean", "defined", "false", "float", "integer", "iterable", "mapping", "none", "number", "sameas", "sequence",
    "string", "true", "undefined",
)  # fmt: skip

_STRIPPED = 20_000
"""Characters that `striptags` copies in the time of one step: it copies the text for each tag."""

_COUNTED = 10
"""Characters in which `wordcount` finds the words in the time of one step."""

_LONGEST_NUMBER = 1000
"""Characters of a text that `int` reads: to divide numbers takes the product of their lengths."""

_COMPARED = 1000
"""Characters that are compared with each other in the time of one step."""

_WRAPPED = 30_000
"""Characters that may be wrapped: a word that is too long is copied for each of its lines."""


def allowed_filters() -> dict[str, Callable[..., Any]]:
    """Name -> filter."""
    given: Any = filters.FILTERS
    walking = {name: _paying(given[name], taken_apart) for name in _WALK}
    writing = {name: _paying(given[name], _read) for name in _WRITE}
    paying = {name: given[name] for name in _LOOK} | walking | writing
    checked = {name: _checked(paying[name], check) for name, check in _CHECKS.items()}
    return paying | checked | {"format": _format, "join": _join, "sum": _sum}


def allowed_tests() -> dict[str, Callable[..., Any]]:
    """Name -> test."""
    given: Any = tests.TESTS
    compare = {name: _paying(given[name], weigh) for name in _COMPARE}
    arithmetic = {name: _of_numbers(given[name]) for name in _ARITHMETIC}
    return {name: given[name] for name in _ASK} | compare | arithmetic


def _read(value: Any) -> Any:
    """What is not text yet is paid for by the text it becomes."""
    return weigh(value) if isinstance(value, str) else written(value)


def _paying(filter_: Callable[..., Any], pay: Callable[[Any], Any]) -> Callable[..., Any]:
    passes = getattr(filter_, "jinja_pass_arg", None) is not None  # the context or its like comes first

    @wraps(filter_)
    def paid(*args: Any, **options: Any) -> Any:
        spend(1)
        paid_args = (*args[:passes], *map(pay, args[passes:]))
        return kept(filter_(*paid_args, **{name: pay(value) for name, value in options.items()}))

    return paid


def _checked(paid: Callable[..., Any], check: Callable[[dict[str, Any]], None]) -> Callable[..., Any]:
    parameters = signature(paid)

    @wraps(paid)
    def checked(*args: Any, **options: Any) -> Any:
        given = parameters.bind(*args, **options)
        given.apply_defaults()
        check(given.arguments)
        return paid(*args, **options)

    return checked


def _check_indent(given: dict[str, Any]) -> None:
    width, text = given["width"], _text(given["s"])
    check_width("width", width)
    spend(1, len(text.splitlines()) * (len(width) if isinstance(width, str) else width))


def _check_wrap(given: dict[str, Any]) -> None:
    text = _text(given["s"])
    if len(text) > _WRAPPED:
        raise Exceeded(f"wordwrap takes at most {_WRAPPED:,} characters")
    spend(len(text), len(text) * len(given["wrapstring"] or "\n"))


def _check_replace(given: dict[str, Any]) -> None:
    text, old, new = (_text(given[name]) for name in ("s", "old", "new"))
    spend(1, text.count(old) * len(new))


def _check_strip(given: dict[str, Any]) -> None:
    text = _text(given["value"])
    spend(len(text) * (text.count("<") + 1) // _STRIPPED)


def _check_trim(given: dict[str, Any]) -> None:
    spend(len(_text(given["value"])) * len(given["chars"] or "") // _COMPARED)


def _check_count(given: dict[str, Any]) -> None:
    spend(len(_text(given["s"])) // _COUNTED)


def _check_int(given: dict[str, Any]) -> None:
    if isinstance(given["value"], str | bytes) and len(given["value"]) > _LONGEST_NUMBER:
        raise Exceeded(f"int takes at most {_LONGEST_NUMBER:,} characters")


def _check_slice(given: dict[str, Any]) -> None:
    for _ in range(given["slices"]):
        spend(1)
        weigh(given["fill_with"])


def _check_batch(given: dict[str, Any]) -> None:
    for _ in range(given["linecount"]):
        spend(1)
        weigh(given["fill_with"])


def _check_json(given: dict[str, Any]) -> None:
    if given["indent"]:
        raise Exceeded("tojson takes no indent here: it grows with the depth of what it is given")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(written(value))


_CHECKS: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "batch": _check_batch,
    "center": lambda given: check_width("width", given["width"]),
    "indent": _check_indent,
    "int": _check_int,
    "replace": _check_replace,
    "round": lambda given: check_width("precision", given["precision"]),
    "slice": _check_slice,
    "striptags": _check_strip,
    "tojson": _check_json,
    "trim": _check_trim,
    "wordcount": _check_count,
    "wordwrap": _check_wrap,
}
"""What is asked before a filter whose result, or whose time, is a product of what it is given."""


def _of_numbers(test: Callable[..., bool]) -> Callable[..., bool]:
    """These tests reckon with `%`, which is a format where its left side is text."""

    @wraps(test)
    def reckoned(*args: Any) -> bool:
        if any(isinstance(value, str | bytes) for value in args):
            raise TypeError(f"{test.__name__.removeprefix('test_')} takes numbers")
        return test(*args)

    return reckoned


def _format(pattern: Any, *args: Any, **named: Any) -> Any:
    if args and named:
        raise TypeError("format takes values by place or by name, not both")
    return formatted(pattern if isinstance(pattern, str) else str(written(pattern)), named or args)


@pass_eval_context
def _join(eval_ctx: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    items = list(taken_apart(value))
    if attribute is not None:
        items = list(map(filters.make_attrgetter(eval_ctx.environment, attribute), items))
    for item in items:
        written(item)
    spend(1, len(_text(d)) * len(items))
    joined: str = filters.do_join(eval_ctx, items, d)
    return joined


@pass_environment
def _sum(environment: Environment, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    items: Iterable[Any] = taken_apart(iterable)
    if attribute is not None:
        items = map(filters.make_attrgetter(environment, attribute), items)
    return reduce(add, items, start)
