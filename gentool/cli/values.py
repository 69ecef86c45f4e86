"""What the values of options may be: text to a value, or a ValueError that says what could be given
instead."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from gentool.config.sampling import MAX_CHANGE
from gentool.errors import UsageError

HIDDEN_NAMES = {"--max-new-tokens"}
FAR = 1e9  # this limit is not in the help
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


class Value(click.ParamType[Any]):
    """What `read` makes of the text given; its ValueError says what could be given instead."""

    name = "value"
    envvar_list_splitter = "\n"  # of repeatable options: a value a line

    def __init__(self, read: Callable[[str], Any], limits: str = "") -> None:
        self.read, self.limits = read, limits

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.read(value)
        except ValueError as instead:
            raise UsageError(f"{given_name(param, ctx)} is '{value}'", str(instead)) from None


def given_name(param: click.Parameter | None, ctx: click.Context | None) -> str:
    """How the user named this parameter: --top-k, GENTOOL_TOP_K or RECIPE."""
    if not isinstance(param, click.Option):
        return param.human_readable_name if param else "the value"
    from_environment = ctx and ctx.get_parameter_source(param.name) is ParameterSource.ENVIRONMENT
    longest = max((name for name in param.opts if name not in HIDDEN_NAMES), key=len)
    return str(param.envvar) if from_environment else longest


def number(
    kind: type[int] | type[float], low: float, high: float = math.inf, above: bool = False
) -> Value:
    """A finite number from `low`, or `above` it, to `high`. The help leaves out limits that nobody
    meets; who does meet one is told."""
    limits = _limits(low, high, above)

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or math.isinf(value) or (above and value == low):
            what = "whole number" if kind is int else "number"
            raise ValueError(f"give a {what} {limits}".rstrip())
        return value

    if high == FAR:
        shown = _limits(0, math.inf, low > 0 or above) if kind is float else _limits(low)
        return Value(read, "" if low < 0 else shown)
    return Value(read, limits)


def _limits(low: float, high: float = math.inf, above: bool = False) -> str:
    """The limits of a number in words; none without one."""
    if low == -math.inf:
        return ""
    if high == math.inf:
        return f"{'>' if above else '>='} {low}"
    least = f"{low:g}" if isinstance(low, float) else str(low)
    most = str(high) if high < 2**24 else f"{high:g}" if high == FAR else power(int(high))
    return f"> {low} and <= {most}" if above else f"{least} to {most}"


def power(limit: int) -> str:
    """A limit of 2^n or 2^n-1 in these words."""
    return f"2^{limit.bit_length()}-1" if limit & 1 else f"2^{limit.bit_length() - 1}"


def one_of(*words: str) -> Value:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"it can be {', '.join(words)}")
        return text

    return Value(read)


def unescaped(text: str) -> str:
    r"""`text` with \n, \t, \r, \\ and \uXXXX as the characters they stand for."""

    def character(match: re.Match[str]) -> str:
        escape = match[1]
        if escape[:1] == "u" and len(escape) == 5 and not 0xD800 <= int(escape[1:], 16) < 0xE000:
            return chr(int(escape[1:], 16))
        if escape in ESCAPES:
            return ESCAPES[escape]
        raise ValueError(rf"\{escape} is no escape; there are \n \t \r \\ and \uXXXX")

    if not text:
        raise ValueError("give text; --set 'sampling.stop=[]' removes the model's own")
    return re.sub(r"\\(u[0-9a-fA-F]{4}|.?)", character, text, flags=re.DOTALL)


def bias(text: str) -> tuple[int, float]:
    """A token id and what is added to its logit."""
    id, _, added = text.partition(":")
    try:
        number = float(added)
    except ValueError:
        number = math.nan
    if not id.isdecimal() or not abs(number) <= MAX_CHANGE:
        raise ValueError(f"write ID:X, as in 42:-5 or 42:0.5, with X of at most {MAX_CHANGE:g}")
    return int(id), number


def assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError("write KEY=VALUE, as in arch.n_head=32")
    return key, value


def variable(text: str) -> tuple[str, str]:
    """The name of a variable, and its text."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise ValueError("write NAME=TEXT, as in city=北京, with a NAME of letters, digits and _")
    return name, value
