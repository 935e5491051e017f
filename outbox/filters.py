"""The filters and tests of Jinja that a template may use, each paying for what it reads and writes.

A list of what may be used, rather than of what may not: a filter that the next Jinja adds is not there until somebody has asked how
large its result can be. Not here: `attr` (a second way to an attribute), `urlize`, `xmlattr`, `pprint`, `random`, `lipsum`.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce, wraps
from inspect import signature
from typing import Any

from jinja2 import Environment, filters, pass_environment, pass_eval_context, tests
from jinja2.nodes import EvalContext
from markupsafe import Markup

from outbox.bounds import Exceeded, add, check_width, formatted, sliced, spend, weigh, written

_LOOK = ("count", "d", "default", "first", "items", "last", "length", "safe")
"""Look at no more than an element: they cost nothing."""

_WALK = (
    "batch", "dictsort", "groupby", "list", "map", "max", "min", "reject", "rejectattr", "reverse", "select", "selectattr",
    "slice", "sort", "unique",
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
    "boolean", "defined", "false", "float", "integer", "iterable", "mapping", "none", "number", "sameas", "sequence", "string",
    "true", "undefined",
)  # fmt: skip

_STRIPPED = 10**9
"""Characters that `striptags` may copy: it copies the text for each tag, at some ten a nanosecond."""

_WRAPPED = 100_000
"""Characters that may be wrapped: line breaks are found at some ten in a microsecond."""


def allowed_filters() -> dict[str, Callable[..., Any]]:
    """Name -> filter."""
    given = {name: filters.FILTERS[name] for name in (*_LOOK, *_WALK, *_WRITE)}
    paying = {name: _paying(given[name], weigh) for name in _WALK} | {
        name: _paying(given[name], _read) for name in _WRITE
    }
    checked = {name: _checked(paying[name], check, filters.FILTERS[name]) for name, check in _CHECKS.items()}
    return given | paying | checked | {"format": _format, "join": _join, "sum": _sum}


def allowed_tests() -> dict[str, Callable[..., Any]]:
    """Name -> test."""
    compare = {name: _paying(tests.TESTS[name], weigh) for name in _COMPARE}
    arithmetic = {name: _of_numbers(tests.TESTS[name]) for name in _ARITHMETIC}
    return {name: tests.TESTS[name] for name in _ASK} | compare | arithmetic


def _read(value: Any) -> Any:
    """What becomes text is paid for by its length where it is not text yet."""
    return weigh(value) if isinstance(value, str) else written(value)


def _paying(filter_: Callable[..., Any], pay: Callable[[Any], Any]) -> Callable[..., Any]:
    passes = getattr(filter_, "jinja_pass_arg", None) is not None  # the context or its like comes first

    @wraps(filter_)
    def paid(*args: Any, **options: Any) -> Any:
        spend(1)
        for value in (*args[passes:], *options.values()):
            pay(value)
        result = filter_(*args, **options)
        if isinstance(result, str):
            spend(1, len(result))
        return result

    return paid


def _checked(
    paid: Callable[..., Any], check: Callable[[dict[str, Any]], None], filter_: Callable[..., Any]
) -> Callable[..., Any]:
    parameters = signature(filter_)

    @wraps(paid)
    def bounded(*args: Any, **options: Any) -> Any:
        bound = parameters.bind(*args, **options)
        bound.apply_defaults()
        check(bound.arguments)
        return paid(*args, **options)

    return bounded


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
    if len(text) * (text.count("<") + 1) > _STRIPPED:
        raise Exceeded("striptags takes no text with so many tags")


def _check_slices(given: dict[str, Any]) -> None:
    spend(max(given["slices"], 1))


def _check_batch(given: dict[str, Any]) -> None:
    spend(max(given["linecount"], 1))


def _check_round(given: dict[str, Any]) -> None:
    check_width("precision", given["precision"])


def _check_json(given: dict[str, Any]) -> None:
    indent = given["indent"] or 0
    check_width("indent", indent)
    for _ in range(indent):
        written(given["value"])  # each level of nesting is indented: no element is deeper than there are elements


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(written(value))


_CHECKS: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "batch": _check_batch,
    "center": lambda given: check_width("width", given["width"]),
    "indent": _check_indent,
    "replace": _check_replace,
    "round": _check_round,
    "slice": _check_slices,
    "striptags": _check_strip,
    "tojson": _check_json,
    "wordwrap": _check_wrap,
}


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
    items = list(weigh(value))
    if attribute is not None:
        items = list(map(filters.make_attrgetter(eval_ctx.environment, attribute), items))
    for item in items:
        written(item)
    spend(1, len(_text(d)) * len(items))
    return filters.do_join(eval_ctx, items, d)


@pass_environment
def _sum(environment: Environment, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    items: Iterable[Any] = weigh(iterable)
    if attribute is not None:
        items = map(filters.make_attrgetter(environment, attribute), items)
    return reduce(add, items, start)
