"""Runs a chat template in jinja2's immutable sandbox. Beyond that, a template reaches only what is
named here, every operation counts against its budget, and texts keep the marks of their input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from types import BuiltinMethodType, CodeType, MethodType
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import _GroupTuple
from jinja2.parser import Parser
from jinja2.runtime import (
    BlockReference,
    Context,
    LoopContext,
    Macro,
    TemplateReference,
    Undefined,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from gentool.errors import ModelError, UsageError
from gentool.tokenizers.chat import ROLES, input_text
from gentool.tokenizers.chat.input_text import InputText
from gentool.tokenizers.chat.limits import MAX_DEPTH, MAX_SIZE, Budget, LimitReached, check_product
from gentool.tokenizers.chat.operations import (
    FILTERS,
    TESTS,
    Format,
    Refused,
    call_method,
    counted_filter,
    counted_test,
    percent,
    printed,
    raise_exception,
    strftime_now,
)

# methods that a template may call; the first type that fits counts
METHODS: Mapping[type, str] = {
    str: "capitalize casefold center count endswith expandtabs find format index isalnum isalpha"
    " isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper"
    " join ljust lower lstrip partition removeprefix removesuffix replace rfind rindex rjust"
    " rpartition rsplit rstrip split splitlines startswith strip swapcase title upper zfill",
    dict: "copy get items keys values",
    list: "copy count index",
    _GroupTuple: "grouper list",
    tuple: "count index",
    Cycler: "current next reset",
}
FOREIGN = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.EvalContextModifier)
# filters that only this module writes into a template: no source can spell their names
STEP, NEW, CONCAT = "(step)", "(new)", "(concat)"
STOPPED = (LimitReached, SecurityError, RecursionError, MemoryError)


def run(template: str, variables: Mapping[str, Any], trusted: Mapping[str, str]) -> InputText:
    """The text that a template makes of its variables. All of them are input but for `trusted`.

    Raises:
        UsageError: the template refuses the messages, or fails on them.
        ModelError: the template is wrong, or reaches a limit.
    """
    another = "give another: --chat-template FILE|NAME"
    try:
        code = _compiled(template)
    except Exception as e:  # of jinja2's parser, and Python's own limits of nesting
        where = f"line {e.lineno}: " if isinstance(e, jinja2.TemplateSyntaxError) else ""
        raise ModelError(f"the chat template is wrong: {where}{_short(e)}", another) from None
    environment = Environment()
    try:
        given = {name: _input(value) for name, value in variables.items()}
        for value in given.values():
            environment.budget.know(value)
        compiled = jinja2.Template.from_code(environment, code, environment.globals)
        return input_text.own(compiled.render({**trusted, **given}))
    except Refused as reason:
        raise UsageError(
            f"the chat template refuses these messages: {_short(reason)}",
            f"change them, or {another}",
        ) from None
    except STOPPED as e:
        raise ModelError(f"the chat template is stopped: {_short(e)}", another) from None
    except Exception as e:  # whatever a template does wrong
        raise UsageError(
            f"the chat template fails: {_short(e)}", f"change the messages, or {another}"
        ) from None


def _short(failure: Exception) -> str:
    return " ".join(str(failure).split())[:300] or type(failure).__name__


def _input(value: Any, depth: int = 0, key: object = None) -> Any:
    """A copy of plain data in which all texts are marked as input, but for the usual roles: some
    templates make special tokens of them."""
    if depth > MAX_DEPTH // 2:
        raise ValueError("a message is nested too deeply")
    if isinstance(value, str):
        return value if key == "role" and value in ROLES else InputText(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_input(k, depth + 1): _input(v, depth + 1, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_input(inner, depth + 1) for inner in value]
    raise ValueError(f"a message holds a {type(value).__name__}, which JSON has not")


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> CodeType:
    return Environment().compile(template)


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks answers for training, and prints them."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class Counted(NodeTransformer):
    """Puts a step into each operation of a template that the environment does not see itself."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        step = _filtered(nodes.Const(True), STEP, node)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(step, node.test, lineno=node.lineno)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filtered(node.expr, STEP, node)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), CONCAT, node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, NEW, node) if isinstance(node.arg, nodes.Slice) else node

    def _literal(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, NEW, node) if getattr(node, "ctx", "load") == "load" else node

    visit_List = visit_Dict = visit_Tuple = _literal


def _filtered(node: nodes.Expr, name: str, at: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=at.lineno)


@pass_context
def _step(context: Context, value: Any) -> Any:
    _budget(context).step()
    return value


@pass_context
def _new(context: Context, value: Any) -> Any:
    _budget(context).step()
    return _budget(context).make(value)


@pass_context
def _concat(context: Context, values: list[Any]) -> Any:
    budget = _budget(context)
    budget.step()
    budget.size(values)
    return budget.make(input_text.concat(map(printed, values)))


@pass_context
def _finalize(context: Context, value: Any) -> str:
    budget = _budget(context)
    budget.step()
    budget.size(value)
    return printed(value)


def _budget(context: Context) -> Budget:
    budget: Budget = context.environment.budget  # type: ignore[attr-defined]
    return budget


class Environment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox with the settings of transformers, for one rendering."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, loopcontrols],
            finalize=_finalize,
            optimized=False,  # nothing is computed while a template is compiled
        )
        self.budget = Budget()
        self.concat = self._print  # type: ignore[method-assign]
        self.filters = {name: counted_filter(name, FILTERS[name]) for name in FILTERS}
        self.filters |= {STEP: _step, NEW: _new, CONCAT: _concat}
        self.tests = {name: counted_test(test) for name, test in TESTS.items()}
        self.globals = {
            "range": self.globals["range"],
            "dict": dict,
            "namespace": Namespace,
            "cycler": Cycler,
            "joiner": Joiner,
            "raise_exception": raise_exception,
            "strftime_now": strftime_now,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for node in template.find_all(FOREIGN):
            raise jinja2.TemplateSyntaxError(
                f"{type(node).__name__} is not for chat templates", node.lineno
            )
        counted: nodes.Template = Counted().visit(template)
        return counted

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Only methods of texts and containers that change nothing, and those of jinja2's own
        objects."""
        if isinstance(obj, Namespace | LoopContext | Macro | TemplateReference):
            return not attr.startswith("_")
        methods = (names for type_, names in METHODS.items() if isinstance(obj, type_))
        return attr in next(methods, "").split()

    def is_safe_callable(self, obj: Any) -> bool:
        if isinstance(obj, BuiltinMethodType | MethodType):
            return isinstance(obj.__self__, str | dict | list | tuple | LoopContext | Cycler)
        mine = isinstance(obj, Macro | LoopContext | BlockReference | Joiner | Format | Undefined)
        return mine or any(obj is function for function in self.globals.values())

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        make = super().wrap_str_format(value)
        return Format(value.__self__, make) if make else None

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.budget.step()
        given = {k: v for k, v in kwargs.items() if k not in ("_loop_vars", "_block_vars")}
        self.budget.size(*args, *given.values())
        self.budget.enter()
        try:
            text = getattr(obj, "__self__", None)
            if isinstance(text, str) and self.is_safe_callable(obj):
                return self.budget.make(call_method(text, obj.__name__, args, given))
            return self.budget.make(super().call(context, obj, *args, **kwargs))
        finally:
            self.budget.leave()

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self.budget.step()
        self.budget.size(left, right)
        if operator == "%" and isinstance(left, str):
            return self.budget.make(percent(left, right))
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(other, int):
                    check_product(self.budget.size(one), other)
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            check_product(left.bit_length(), abs(right))
        return self.budget.make(super().call_binop(context, operator, left, right))

    def _print(self, texts: Iterable[str]) -> InputText:
        """The texts that a template printed, as one; jinja2's `concat`."""
        parts, size = [], 0
        for text in texts:
            parts.append(text)
            size += len(text)
            if size > MAX_SIZE:
                raise LimitReached(f"it prints more than {MAX_SIZE} characters")
        made: InputText = self.budget.make(input_text.concat(parts))
        return made
