"""Jinja, for templates that may mean harm: nothing private, no file but a template, no more than a budget of work.

Jinja's own sandbox keeps a template from the insides of Python. It does not bound what a template costs: loops in
loops, or forty lines of `{% set x = x ~ x %}`, would fill the memory. So what repeats or grows is rewritten, once, when
the template is compiled, to ask `bounds` first.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, time
from types import ModuleType
from typing import Any, TypeVar, cast

from jinja2 import StrictUndefined, Template, nodes, pass_context
from jinja2.environment import TemplateModule
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from outbox.templates.bounds import (
    Exceeded,
    add,
    kept,
    modulo,
    multiply,
    power,
    spend,
    taken_apart,
    weigh,
    written,
)
from outbox.templates.filters import allowed_filters, allowed_tests

LARGEST_SOURCE = 120_000
"""Characters of one file: to compile them takes 2 s and 200 MB at worst. Gmail clips a mail after 102,400 bytes."""

_OPENED = 10
"""Steps that it takes to include or import a template, be it empty or missing."""

_COMPARED = 1000
"""Characters that are compared with each other in the time of one step."""

LONGEST_PATTERN = 100
"""Characters of a `strftime` pattern: its result can be hundreds of times as long."""

_TRANSLATING = ("_", "gettext", "ngettext")
"""The functions to which `{% trans %}` and a template hand what is to be translated."""

_Node = TypeVar("_Node", bound=nodes.Node)

_TEXT = frozenset(
    (
        "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii",
        "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "lower", "lstrip", "partition",
        "removeprefix", "removesuffix", "rfind", "rindex", "rpartition", "rsplit", "rstrip",
        "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
    )
)  # fmt: skip
_SETS = frozenset(
    ("copy", "difference", "intersection", "isdisjoint", "issubset", "issuperset", "symmetric_difference", "union")
)
_METHODS: Mapping[type, frozenset[str]] = {
    str: _TEXT,
    Markup: _TEXT,
    bytes: frozenset(),
    bytearray: frozenset(),
    dict: frozenset(("copy", "get", "items", "keys", "values")),
    list: frozenset(("copy", "count", "index")),
    tuple: frozenset(("count", "index")),
    set: _SETS,
    frozenset: _SETS,
    int: frozenset(("denominator", "imag", "numerator", "real")),
    float: frozenset(("imag", "is_integer", "real")),
}
"""What a template may use of the values that it can make itself: nothing whose result can be far larger than its input,
such as `format`, `replace`, `join` or `zfill`. The filters of these names are bounded."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment in which all templates are compiled. Rendering needs `bounds.bounded()` around it."""

    intercepted_binops = frozenset(("%", "*", "**", "+"))
    spend = staticmethod(spend)
    weigh = staticmethod(weigh)
    written = staticmethod(written)
    taken_apart = staticmethod(taken_apart)

    def __init__(self, **options: Any) -> None:
        super().__init__(
            undefined=StrictUndefined,
            finalize=_finalize,
            optimized=False,  # what is constant would be worked out while compiling
            auto_reload=False,
            cache_size=-1,  # as many as there are files
            trim_blocks=True,
            lstrip_blocks=True,
            **options,
        )
        filters: Any = allowed_filters()
        tests: Any = allowed_tests()
        self.filters, self.tests = filters, tests
        del self.globals["lipsum"]
        self.globals["range"] = _range

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > LARGEST_SOURCE:
            raise Exceeded(f"a file of {len(source):,} characters: at most {LARGEST_SOURCE:,}")
        template = _Meter().visit(super()._parse(source, name, filename))
        template.set_environment(self)
        return cast("nodes.Template", template)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Of built-in types, and of what is derived from them, what is listed; else whatever is public."""
        if isinstance(obj, ModuleType) or not super().is_safe_attribute(obj, attr, value):
            return False
        of = obj if isinstance(obj, type) else type(obj)
        return all(
            attr in allowed for kind, allowed in _METHODS.items() if issubclass(of, kind) and hasattr(kind, attr)
        )

    def wrap_str_format(self, value: Any) -> None:
        """`is_safe_attribute` refuses `str.format`; the filter of this name is bounded."""

    def getitem(self, obj: Any, argument: Any) -> Any:
        """A key is hashed, and a tuple of tuples takes its time; a name such as `a.a.a` asks for many."""
        spend(5)
        return super().getitem(obj, weigh(argument))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Each call is a step, and pays for what it is given and what it returns."""
        if any(obj is ours for ours in _OURS):
            return obj(*args)
        spend(1)
        given = tuple(map(weigh, args))
        named = {name: weigh(value) for name, value in kwargs.items()}
        _pay_for_method(obj, given)
        return kept(super().call(context, obj, *given, **named))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Those of `intercepted_binops`."""
        return _OPERATORS[operator](left, right)


class _Template(Template):
    def _get_default_module(self, ctx: Context | None = None) -> TemplateModule:
        """Of an imported template, made anew: Jinja keeps it, with the words and the variables of another mail."""
        own = ctx.globals_keys - self.globals.keys() if ctx else ()
        return self.make_module({name: ctx.parent[name] for name in own} if ctx else None)


Sandbox.template_class = _Template

_OURS = (spend, weigh, written, taken_apart)
_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {"+": add, "*": multiply, "**": power, "%": modulo}


def _pay_for_method(method: Any, args: Sequence[Any]) -> None:
    """What it looks through. To look for a text in a text takes the product of their lengths."""
    owner = getattr(method, "__self__", None)
    if owner is None and args:  # a method of a class: what it is a method of comes first
        owner, *args = args
    weigh(owner)
    texts = [len(value) for value in args if isinstance(value, str)]
    if isinstance(owner, str):
        spend(sum(texts) * len(owner) // _COMPARED)
    elif isinstance(owner, date | time) and any(length > LONGEST_PATTERN for length in texts):
        raise Exceeded(f"a strftime pattern of more than {LONGEST_PATTERN} characters")


@pass_context
def _finalize(_context: Context, value: Any) -> Any:
    """Sees the value of every `{{ }}`. (Asking for the context keeps Jinja from doing this while it compiles.)"""
    return written(value)


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    spend(len(numbers))
    return numbers


class _Meter(NodeTransformer):
    """Puts the calls of `bounds` into a parsed template."""

    def visit_Template(self, node: nodes.Template) -> nodes.Template:
        return self._paid(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Block:
        return self._paid(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        return self._paid(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        return self._paid(node)

    def visit_For(self, node: nodes.For) -> nodes.For:
        paid = self._paid(node)
        if paid.test is not None:
            paid.test = nodes.And(
                _call("spend", nodes.Const(_size([paid.test])[0]), node=node), paid.test, lineno=node.lineno
            )
        return paid

    def visit_Call(self, node: nodes.Call) -> nodes.Call:
        """What a template says in its own words, unlike a variable, needs no escaping when it has been translated."""
        self.generic_visit(node)
        if isinstance(node.node, nodes.Name) and node.node.name in _TRANSLATING:
            node.args = [nodes.MarkSafe(arg) if _is_words(arg) else arg for arg in node.args]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:
        self.generic_visit(node)
        node.nodes = [_call("written", one, node=node) for one in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = _weighed(node.expr)
        for operand in node.ops:
            operand.expr = _weighed(operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _call("taken_apart", node.node, node=node)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Expr:
        return self._built(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:
        return self._built(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        return self._built(node) if node.ctx == "load" else node

    def _built(self, node: nodes.Expr) -> nodes.Expr:
        """A literal: `{% set x = [x, x] %}`, fifty times, is not large, and takes for ever to look through."""
        self.generic_visit(node)
        return _call("weigh", node, node=node)

    def _paid(self, node: _Node) -> _Node:
        """A body pays for itself each time it is run: Jinja repeats nothing else."""
        body: list[nodes.Node] = node.body  # type: ignore[attr-defined]
        steps, characters = _size(body)
        self.generic_visit(node)
        spent = _call("spend", nodes.Const(steps), nodes.Const(characters), node=node)
        node.body.insert(0, nodes.ExprStmt(spent, lineno=node.lineno))  # type: ignore[attr-defined]
        return node


def _is_words(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, str)


_OPENING = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_BODIES = (nodes.Block, nodes.Macro, nodes.CallBlock, nodes.For)


def _size(body: list[Any]) -> tuple[int, int]:
    """Nodes in it, and characters as they stand there; without the bodies inside it, which pay for themselves."""
    steps = characters = 0
    stack = list(body)
    while stack:
        node = stack.pop()
        steps += _OPENED if isinstance(node, _OPENING) else 1
        if isinstance(node, nodes.TemplateData):
            characters += len(node.data)
        stack.extend(node.iter_child_nodes(exclude=("body",) if isinstance(node, _BODIES) else None))
    return steps, characters


def _weighed(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _call("weigh", node, node=node)


def _call(name: str, *args: nodes.Expr, node: nodes.Node) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None, lineno=node.lineno)
