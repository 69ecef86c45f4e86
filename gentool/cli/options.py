"""The flags commands share: one literal table under the headings of the help screens, with names,
ranges, defaults and one line each. A flag that was not given is None; its environment variable is
GENTOOL_<OPTION> in every command.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from gentool.errors import UsageError, nearest

if TYPE_CHECKING:
    from gentool.config import ModelConfig, Sampling

WIDTH = 100
HIDDEN_NAMES = {"--max-new-tokens"}
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def spelled(param: click.Parameter | None, ctx: click.Context | None) -> str:
    """How the user named this parameter: --top-k, GENTOOL_TOP_K or RECIPE."""
    if not isinstance(param, click.Option):
        return param.human_readable_name if param else "the value"
    source = ctx.get_parameter_source(param.name) if ctx and param.name else None
    if source is ParameterSource.ENVIRONMENT and isinstance(param.envvar, str):
        return param.envvar
    return next((name for name in param.opts if name.startswith("--")), param.opts[0])


class Number(click.ParamType[Any]):
    """A finite number from `low` (or `above` it) to `high`."""

    name = "number"

    def __init__(
        self,
        kind: type[int] | type[float],
        low: float = 0,
        high: float = math.inf,
        above: bool = False,
    ) -> None:
        self.kind, self.low, self.high, self.above = kind, low, high, above

    def range(self) -> str:
        least = f"{'>' if self.above else '>='} {self.low}"
        return least if self.high == math.inf else f"{least} and <= {self.high}"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | float:
        try:
            number = self.kind(value)
        except ValueError:
            number = math.nan
        inside = self.low <= number <= self.high and not (self.above and number == self.low)
        if not (inside and math.isfinite(number)):
            what = "whole number" if self.kind is int else "number"
            raise UsageError(
                f"{spelled(param, ctx)} is {value!r}", f"give a {what} {self.range()}"
            )
        return number


class OneOf(click.ParamType[str]):
    """One of a few words."""

    name = "word"

    def __init__(self, *words: str) -> None:
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.words:
            flag = spelled(param, ctx)
            raise UsageError(f"{flag} is {value!r}", nearest(value, self.words, "it can be"))
        return value


class Stop(click.ParamType[str]):
    r"""Text in which \n, \t, \r, \\ and \uXXXX stand for characters."""

    name = "text"
    envvar_list_splitter = "\n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            raise UsageError(
                f"{spelled(param, ctx)} is empty",
                "--set 'sampling.stop=[]' removes the model's own stop texts",
            )

        def character(match: re.Match[str]) -> str:
            escape = match[1]
            code = int(escape[1:], 16) if escape.startswith("u") and escape[1:] else 0xD800
            if escape not in ESCAPES and 0xD800 <= code < 0xE000:
                raise UsageError(
                    f"{spelled(param, ctx)} has the escape \\{escape} in {value!r}",
                    r"the escapes are \n \t \r \\ and \uXXXX",
                )
            return ESCAPES.get(escape) or chr(code)

        return re.sub(r"\\(u[0-9a-fA-F]{4}|.?)", character, value, flags=re.DOTALL)


class Assignment(click.ParamType[tuple[str, str]]):
    """KEY=VALUE as a pair."""

    name = "assignment"
    envvar_list_splitter = "\n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        key, equals, text = value.partition("=")
        if not (key and equals):
            raise UsageError(
                f"{spelled(param, ctx)} is {value!r}", "write KEY=VALUE, as in arch.n_head=32"
            )
        return key, text


def _tell(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Sets an attribute of the console at once, so that a usage error is shown as asked for too."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(ctx.obj, attribute, value)

    return callback


def _help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.obj.write(ctx.get_help() + "\n")
        ctx.exit()


def _eager(names: Sequence[str], callback: Callable[..., None], **attrs: Any) -> click.Option:
    return click.Option(names, callback=callback, is_eager=True, expose_value=False, **attrs)


# fmt: off
HELP = click.Option(
    ["-h", "--help"], help="show this and exit",
    is_flag=True, is_eager=True, expose_value=False, callback=_help,
)

PROMPT = [
    click.Option(["-f", "--file"], metavar="FILE", help="read the prompt from a file"),
    click.Option(["--lines"], is_flag=True, help="every line is a prompt and gets one line of output"),
    click.Option(["--row"], type=Number(int, 0, 2**63 - 1), metavar="K", show_default="0",
                 help="draw as line K of --lines would; with --lines, only that line"),
]

MODEL = [
    click.Option(["-m", "--model"], default="tiny-zh", metavar="MODEL", show_default="tiny-zh",
                 help="a name, a folder or a YAML file"),
    click.Option(["--set"], "overrides", type=Assignment(), multiple=True, metavar="KEY=VALUE",
                 help="override a key of the YAML, dotted"),
    click.Option(["--precision"], type=OneOf("auto", "fp32", "fp16", "bf16"), metavar="NAME",
                 show_default="model's, else auto", help="auto, fp32, fp16 or bf16"),
    click.Option(["--xla/--no-xla"], default=True, show_default="xla", help="compile with XLA"),
    click.Option(["--batch-invariant"], is_flag=True,
                 help="a row's bits do not depend on its neighbours; slower"),
]
# fmt: on
