"""The flags commands share, as literal tables under the headings of the help screens: names, range,
default and one line each. A flag that was not given is None; its environment variable is
GENTOOL_<OPTION> in every command.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from inspect import cleandoc
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.config import ModelConfig, Sampling
    from gentool.request import Search

DEFAULT_MODEL = "tiny-zh"
HIDDEN_NAMES = {"--max-new-tokens"}
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}

Rows = Sequence[tuple[str, str]]


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
            raise UsageError(f"{spelled(param, ctx)} is '{value}'", str(instead)) from None


def spelled(param: click.Parameter | None, ctx: click.Context | None) -> str:
    """How the user named this parameter: --top-k, GENTOOL_TOP_K or RECIPE."""
    if not isinstance(param, click.Option):
        return param.human_readable_name if param else "the value"
    from_environment = ctx and ctx.get_parameter_source(param.name) is ParameterSource.ENVIRONMENT
    longest = max((name for name in param.opts if name not in HIDDEN_NAMES), key=len)
    return str(param.envvar) if from_environment else longest


def number(
    kind: type[int] | type[float], low: float, high: float = math.inf, above: bool = False
) -> Value:
    """A finite number from `low`, or `above` it, to `high`."""
    limits = f"{'>' if above else '>='} {low}"
    if high < math.inf:
        most = high if high < 2**32 - 1 else f"2^{int(high).bit_length()}-1"
        limits = f"> {low} and <= {most}" if above else f"{low} to {most}"
    limits = "" if low == -math.inf else limits

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or math.isinf(value) or (above and value == low):
            what = "whole number" if kind is int else "number"
            raise ValueError(f"give a {what} {limits}".rstrip())
        return value

    return Value(read, limits)


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
    if not id.isdecimal() or not math.isfinite(number):
        raise ValueError("write ID:X, as in 42:-5 or 42:0.5, with a finite X")
    return int(id), number


def assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError("write KEY=VALUE, as in arch.n_head=32")
    return key, value


def option(
    names: str,
    metavar: str | None,
    help: str,
    default: str = "",
    type: Value | None = None,
    required: bool = False,
) -> click.Option:
    """A row of a table below; `default` is what the help line says."""
    made = click.Option(
        names.split(),
        metavar=metavar,
        help=help,
        show_default=default,
        type=type,
        required=required,
        is_flag=None if metavar else True,
    )
    if not metavar:
        made.default = None  # neither on nor off was said
    made.envvar = f"GENTOOL_{made.name}".upper()
    return made


def switch(names: str, help: str, default: str = "") -> click.Option:
    """On, off where the names have a slash, or None: not said."""
    return option(names, None, help, default)


def _repeated(names: str, metavar: str, help: str, type: Value) -> click.Option:
    made = option(names, metavar, help, "", type)
    made.multiple, made.default = True, ()
    return made


def _told(made: click.Option) -> click.Option:
    """The option, read before all others and told to the console, so that errors heed it too."""

    def tell(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(ctx.obj, str(param.name), value)

    made.is_eager, made.expose_value, made.callback = True, False, tell
    return made


def _show_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.obj.write(ctx.get_help() + "\n")
        ctx.exit()


HELP = click.Option(
    ["-h", "--help"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_help,
    help="show this and exit",
)

COUNT = number(int, 1, 2**32 - 1)
NATURAL = number(int, 0)
REAL = number(float, 0)
POSITIVE = number(float, 0, above=True)
ANY = number(float, -math.inf)
PART = number(float, 0, 1)
LITTLE = number(int, 0, 64)
LITTLE_COUNT = number(int, 1, 512)
FEW = number(int, 1, 512)
EXPONENT = number(float, -10, 10)
RULE = one_of("hf", "bert4keras")
STOPPING = one_of("true", "false", "never")
SHARE = number(float, 0, 1, above=True)
SEED = number(int, 0, 2**63 - 1)
ROW = number(int, 0, 2**32 - 1)
PRECISION = one_of("auto", "fp32", "fp16", "bf16")
COLOR = one_of("auto", "always", "never")
OWN = "the model's, else "

PROMPT = [
    option("-f --file", "FILE", "read the prompt from a file"),
    switch("--lines", "every line is a prompt and gets one line of output"),
    option("--row", "K", "draw as line K of --lines; with --lines, that line only", "0", ROW),
]

SET = _repeated("--set", "KEY=VALUE", "override a dotted key of its YAML", Value(assignment))
STORED = option("--precision", "NAME", "fp32, fp16, bf16, or auto: as it is", "auto", PRECISION)

MODEL = [
    option("-m --model", "MODEL", "a name, a folder or a YAML file", DEFAULT_MODEL),
    SET,
    option("--precision", "NAME", "auto, fp32, fp16 or bf16", OWN + "auto", PRECISION),
    switch("--xla/--no-xla", "compile with XLA", "on"),
    switch("--batch-invariant", "a row's bits do not depend on its neighbours; slower"),
]

SAMPLING = [
    option("-n --n", "N", "samples of each prompt", "1", COUNT),
    option("--temperature --temp", "X", "divide the logits; 0 is greedy", OWN + "1", REAL),
    option("--top-k", "K", "keep the K likeliest tokens and ties; 0 is all", OWN + "0", NATURAL),
    option("--top-p", "P", "then the likeliest that together reach P; 1 is all", OWN + "1", SHARE),
    option("--min-p", "P", "then those of P times the likeliest or more", OWN + "0", PART),
    option("--typical-p", "P", "then the most typical that reach P; 1 is all", OWN + "1", SHARE),
    option("--repetition-penalty", "X", "divide logits of tokens in the text", OWN + "1", POSITIVE),
    option("--presence-penalty", "X", "subtract X for tokens in the output", OWN + "0", ANY),
    option("--frequency-penalty", "X", "subtract X for each time they are", OWN + "0", ANY),
    option("--no-repeat-ngram-size", "N", "no N tokens twice; 0 is off", OWN + "0", NATURAL),
    _repeated("--logit-bias", "ID:X", "add X to the logit of token ID", Value(bias)),
    _repeated("--ban", "TEXT", "TEXT never appears; escapes as in --stop", Value(unescaped)),
    option("--seed", "N", "the same seed gives the same text", "random", SEED),
]

SEARCH = [
    switch("--stratified", "spread the samples of a prompt evenly over its distribution"),
    option("--lookup", "N", "draft N tokens from the text so far; same text", "0", LITTLE),
    option("--beams", "N", "search with N beams instead of sampling", "off", LITTLE_COUNT),
    option("--n-best", "N", "print the N best texts of the beams", "1", LITTLE_COUNT),
    option("--beam-rule", "RULE", "hf as transformers, bert4keras as that", "hf", RULE),
    option("--length-penalty", "X", "score is logprob / tokens^X; rule hf", "1", EXPONENT),
    option("--early-stopping", "WHEN", "true, false or never; rule hf", "false", STOPPING),
    option("--beam-groups", "N", "groups that take turns; rule hf", "1", LITTLE_COUNT),
    option("--diversity-penalty", "X", "for tokens an earlier group took", "0", REAL),
    option("--penalty-alpha", "X", "contrastive search among --top-k tokens", "off", PART),
    option("--alternatives", "K", "the K likeliest first tokens, each continued", "off", FEW),
    _repeated("--choice", "TEXT", "draw one of these texts, by probability", Value(unescaped)),
    option("--regex", "REGEX", "the whole continuation matches"),
    option("--json-schema", "SCHEMA", "it is JSON of this schema: text or FILE"),
]

LENGTH = [
    option("--max-tokens --max-new-tokens", "N", "end after N tokens", OWN + "64", COUNT),
    option("--min-tokens", "N", "forbid an end before N tokens", OWN + "0", NATURAL),
    _repeated("--stop", "TEXT", r"end before TEXT; \n \t \r \\ \uXXXX work", Value(unescaped)),
    switch("--include-stop/--no-include-stop", "keep the stop text", OWN + "off"),
]

OUTPUT = [
    switch("--echo/--no-echo", "print the prompt before its continuation", "off"),
    switch("--stream/--no-stream", "print one sample while it grows", "on a terminal"),
    switch("--json", "print one object a prompt"),
    option("--logprobs", "K", "with --json: each token and the K likeliest", "off", LITTLE),
    switch("-0 --null", "end samples with NUL, escape nothing"),
    option("-o --output", "FILE", "write the result to a file", "stdout"),
]

GENERAL = [
    _told(switch("-q --quiet", "say nothing but errors on stderr")),
    _told(switch("-v --verbose", "say on stderr what is done and how fast")),
    _told(option("--color", "WHEN", "colour stderr: auto, always or never", "auto", COLOR)),
    _told(switch("--debug", "show the traceback of an error")),
    HELP,
]


class Command(click.Command):
    """A command whose help shows examples first, then its options under headings, then the rest
    of its docstring. `run` gets the console and `flags`, a frozen record of what was given."""

    def __init__(
        self,
        run: Callable[[Any, Any], None],
        flags: type[Any],
        examples: str,
        arguments: Sequence[click.Argument],
        groups: Mapping[str, Sequence[click.Option]],
    ) -> None:
        summary, _, details = cleandoc(run.__doc__ or "").partition("\n\n")
        params = [*arguments, *chain.from_iterable(groups.values())]
        super().__init__(
            run.__name__, params=params, help=summary, epilog=details, add_help_option=False
        )
        self.run, self.flags, self.examples, self.groups = run, flags, examples, groups

    def invoke(self, ctx: click.Context) -> None:
        self.run(ctx.obj, self.flags(**ctx.params))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        tables = {heading: rows_of(group) for heading, group in self.groups.items()}
        write_help(formatter, self.examples, tables)


class Group(click.Group):
    """A command of commands, from a table of where each is found and its one line of help. It
    imports one when it is called, and none to list them."""

    def __init__(
        self,
        name: str,
        help: str,
        examples: str,
        table: Mapping[str, tuple[str, str]],
        params: Sequence[click.Option],
    ) -> None:
        super().__init__(name, help=help, params=list(params), add_help_option=False)
        self.examples, self.table = examples, table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.table:
            return None
        module, attribute = self.table[name][0].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, line) for name, (_, line) in self.table.items()]
        options = [param for param in self.params if isinstance(param, click.Option)]
        write_help(formatter, self.examples, {"Commands": commands, "Options": rows_of(options)})


def rows_of(options: Sequence[click.Option]) -> Rows:
    return [(_names(option), _line(option)) for option in options]


def write_help(formatter: click.HelpFormatter, examples: str, tables: Mapping[str, Rows]) -> None:
    """Examples as they are typed, then one line a row, all in one column."""
    with formatter.section("Examples"):
        for line in examples.strip().splitlines():
            formatter.write(f"  {line}\n")
    widest = max(len(name) for rows in tables.values() for name, _ in rows)
    for heading, rows in tables.items():
        with formatter.section(heading):
            for name, text in rows:
                formatter.write(f"  {name:{widest}}  {text}\n")


def _names(option: click.Option) -> str:
    shown = [name for name in option.opts if name not in HIDDEN_NAMES]
    if option.secondary_opts:
        shown = [name.replace("--", "--[no-]", 1) for name in shown]
    return ", ".join(shown) + (f" {option.metavar}" if option.metavar else "")


def _line(option: click.Option) -> str:
    """The help of an option with what is known of it: `[repeatable; default: 1; >= 1]`."""
    known = [
        "repeatable" if option.multiple else "",
        f"default: {option.show_default}" if option.show_default else "",
        option.type.limits if isinstance(option.type, Value) else "",
    ]
    facts = "; ".join(filter(None, known))
    return f"{option.help}  [{facts}]" if facts else str(option.help)


def sampling(config: ModelConfig, flags: Any) -> Sampling:
    """The model's own law, with what the flags say instead."""
    from gentool.config import Sampling
    from gentool.schema import parse

    said = {name: getattr(flags, name) for name in Sampling.model_fields}
    said = {name: value for name, value in said.items() if value not in (None, ())}
    said |= {name: list(said[name]) for name in ("stop", "ban") if name in said}
    if "logit_bias" in said:
        said["logit_bias"] = dict(said["logit_bias"])
    source = " ".join(f"--{name.replace('_', '-')}" for name in said) or config.name
    return parse(Sampling, config.sampling.model_dump() | said, source)


def search(flags: Any) -> Search:
    """How to look for texts, as the flags say; two ways at once are refused."""
    from gentool import request

    ways = {
        name: getattr(flags, name) for name in ("beams", "penalty_alpha", "alternatives", "choice")
    }
    asked = [name for name, value in ways.items() if value not in (None, ())]
    asked += ["stratified"] if flags.stratified else []
    if len(asked) > 1:
        first, second = (f"--{name.replace('_', '-')}" for name in asked[:2])
        raise UsageError(f"{first} and {second} are two ways to search", "drop one")
    own = ("n_best", "beam_rule", "length_penalty", "early_stopping", "beam_groups")
    for name in (*own, "diversity_penalty"):
        if getattr(flags, name) is not None and not flags.beams:
            raise UsageError(f"--{name.replace('_', '-')} is for beams", "give --beams N")
    if flags.n is not None and (flags.beams or flags.alternatives):
        other = "--n-best" if flags.beams else "--alternatives"
        raise UsageError(f"--n is {flags.n}, which is for samples", f"give {other} N")
    if flags.beams:
        early: bool | Literal["never"] = flags.early_stopping == "true"
        early = "never" if flags.early_stopping == "never" else early
        return request.BeamSearch(
            width=flags.beams,
            length_penalty=1.0 if flags.length_penalty is None else flags.length_penalty,
            early_stopping=early,
            groups=flags.beam_groups or 1,
            diversity_penalty=flags.diversity_penalty or 0.0,
            rule=flags.beam_rule or "hf",
        )
    if flags.alternatives:
        return request.Alternatives()
    if flags.choice:
        return request.Choose(flags.choice)
    if flags.penalty_alpha is not None:
        return request.Contrastive(flags.penalty_alpha, flags.top_k or 4)
    return request.Draw(bool(flags.stratified), flags.lookup or 0)
