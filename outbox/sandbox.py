"""Jinja, for templates that may mean harm: nothing private, no file but a template, and no more than a budget of work.

Jinja's own sandbox keeps a template from the insides of Python. It does not bound what a template costs: `{% for %}` in `{% for %}`,
or twenty lines of `{% set x = x ~ x %}`, would fill the memory. So what repeats or grows is rewritten, once, when the template is
compiled, to ask `bounds` first.
"""

from collections.abc import Callable, Mapping
from types import BuiltinMethodType, MappingProxyType, ModuleType
from typing import Any, ClassVar, TypeVar

from jinja2 import StrictUndefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from outbox.bounds import Exceeded, add, modulo, multiply, power, sliced, spend, weigh, written
from outbox.filters import allowed_filters, allowed_tests

LARGEST_SOURCE = 250_000
"""Characters of one file: compiling takes about a second for them. Gmail clips a mail after 102,400 bytes."""

LONGEST_PATTERN = 100
"""Characters of a `strftime` pattern: its result can be hundreds of times as long."""

_Node = TypeVar("_Node", bound=nodes.Node)

_METHODS: Mapping[type, frozenset[str]] = MappingProxyType(
    {
        str: frozenset(
            "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace istitle "
            "isupper lower lstrip partition removeprefix removesuffix rfind rindex rpartition rsplit rstrip split splitlines startswith "
            "strip swapcase title upper".split()
        ),
        bytes: frozenset(),
        bytearray: frozenset(),
        dict: frozenset("copy get items keys values".split()),
        list: frozenset("copy count index".split()),
        tuple: frozenset("count index".split()),
        set: frozenset(
            "copy difference intersection isdisjoint issubset issuperset symmetric_difference union".split()
        ),
        frozenset: frozenset(
            "copy difference intersection isdisjoint issubset issuperset symmetric_difference union".split()
        ),
        int: frozenset("bit_count bit_length denominator numerator real imag".split()),
        float: frozenset("is_integer real imag".split()),
    }
)
"""What may be called of values that a template can make itself: nothing whose result can be far larger than its input, such
as `format`, `replace`, `join`, `center` or `zfill`. The filters of these names are bounded."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment in which all templates are compiled. Rendering needs `bounds.bounded()` around it."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))
    default_binop_table: ClassVar[dict[str, Callable[[Any, Any], Any]]] = {
        **ImmutableSandboxedEnvironment.default_binop_table,
        "+": add,
        "*": multiply,
        "**": power,
        "%": modulo,
    }
    spend = staticmethod(spend)
    weigh = staticmethod(weigh)
    written = staticmethod(written)
    sliced = staticmethod(sliced)

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
        self.filters = allowed_filters()
        self.tests = allowed_tests()
        del self.globals["lipsum"]
        self.globals["range"] = _range

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > LARGEST_SOURCE:
            raise Exceeded(f"a file of {len(source):,} characters: at most {LARGEST_SOURCE:,}")
        template = _Meter().visit(super()._parse(source, name, filename))
        assert isinstance(template, nodes.Template)
        return template.set_environment(self)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Of built-in types, what is listed; of an application's own, whatever is public."""
        if isinstance(obj, ModuleType) or not super().is_safe_attribute(obj, attr, value):
            return False
        return all(
            attr in allowed for kind, allowed in _METHODS.items() if isinstance(obj, kind) and hasattr(kind, attr)
        )

    def wrap_str_format(self, value: Any) -> None:
        """`is_safe_attribute` refuses `str.format`; the filter is bounded."""

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Each call is a step, and pays for what it is given and what it returns."""
        if obj in _OURS:
            return obj(*args)
        spend(1)
        if isinstance(obj, BuiltinMethodType):
            weigh(obj.__self__)
            if obj.__name__ == "strftime" and any(
                len(text) > LONGEST_PATTERN for text in args if isinstance(text, str)
            ):
                raise Exceeded(f"a strftime pattern of more than {LONGEST_PATTERN} characters")
        for value in (*args, *kwargs.values()):
            weigh(value)
        result = super().call(context, obj, *args, **kwargs)
        return written(result) if isinstance(result, str) else result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Those of `intercepted_binops`."""
        result = self.binop_table[operator](left, right)
        return written(result) if isinstance(result, str) else result


_OURS = (spend, weigh, written, sliced)


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
            node.node = _call("sliced", node.node, node=node)
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


_BODIES = (nodes.Block, nodes.Macro, nodes.CallBlock, nodes.For)


def _size(body: list[Any]) -> tuple[int, int]:
    """Nodes in it, and characters as they stand there; without the bodies inside it, which pay for themselves."""
    steps = characters = 0
    stack = list(body)
    while stack:
        node = stack.pop()
        steps += 1
        if isinstance(node, nodes.TemplateData):
            characters += len(node.data)
        stack.extend(node.iter_child_nodes(exclude=("body",) if isinstance(node, _BODIES) else None))
    return steps, characters


def _weighed(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _call("weigh", node, node=node)


def _call(name: str, *args: nodes.Expr, node: nodes.Node) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None, lineno=node.lineno)


__all__ = ["Sandbox", "SecurityError"]
