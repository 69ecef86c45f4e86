"""Sampling parameters: how tokens are drawn and where a text ends. A field of `SamplingParams` is
the one place that says the parameter's name in YAML and in Python, its type, range and default, and
its flag with a line of help. Imports neither pydantic nor numpy, so that `--help` stays light.

To add a filter of probabilities, such as top_p: a field here, its line in `SamplingArguments`, and
the function of the field's name in `gentool.decoding.filters`. Its flag, its line of help, its key
in YAML and its argument in Python follow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    TypedDict,
    get_type_hints,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_TOKENS = 1 << 24  # no context is longer
MAX_BAN = 1 << 27  # bytes of banned texts, squared: every beginning of one is kept
MAX_BANS = 10_000  # each is looked for in all pieces of the vocabulary
MAX_CHANGE = 1e9  # of a logit, by a bias or a penalty: more than any model's, and sums stay finite

Stage = Literal["distribution", "logits", "length"]


class Range(NamedTuple):
    """A finite number from `low`, or `above` it, to `high`. pydantic asks for its schema."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        limits = {"gt" if self.above else "ge": self.low, "le": self.high}
        return handler(source) | {k: v for k, v in limits.items() if math.isfinite(v)}


class NotEmpty(NamedTuple):
    """A text of one character at least."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        return handler(source) | {"min_length": 1}


class AsTuple(NamedTuple):
    """A list of YAML, kept as a tuple."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        return handler(source) | {"strict": False}


class Flag(NamedTuple):
    """How a field is typed: its names, what its value is called, one line of help. Filters of the
    stage `distribution` narrow the distribution that a token is drawn from; those of `logits`
    change the model's scores before that; `length` says where a text ends."""

    names: str
    metavar: str | None  # None: on or off
    help: str
    stage: Stage = "distribution"


NonNegative = Annotated[float, Range(0, 1e9)]
Factor = Annotated[float, Range(1e-9, 1e9)]
Change = Annotated[float, Range(-MAX_CHANGE, MAX_CHANGE)]
Natural = Annotated[int, Range(0, 10**9)]
Fraction = Annotated[float, Range(0, 1)]
Mass = Annotated[float, Range(0, 1, above=True)]
Texts = Annotated[tuple[Annotated[str, NotEmpty()], ...], AsTuple()]


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn and where a text ends. Temperature 0 is greedy; the defaults of the
    other filters keep every token as it is. Biases are by token id."""

    temperature: Annotated[
        NonNegative, Flag("--temperature --temp", "X", "divide the logits; 0 is greedy")
    ] = 1.0
    top_k: Annotated[
        Natural, Flag("--top-k", "K", "keep the K most probable and ties; 0 keeps all")
    ] = 0
    top_p: Annotated[Mass, Flag("--top-p", "P", "then the smallest set of mass P; 1 keeps all")] = (
        1.0
    )
    min_p: Annotated[
        Fraction, Flag("--min-p", "P", "then those of P times the largest or more")
    ] = 0.0
    typical_p: Annotated[
        Mass, Flag("--typical-p", "P", "then the typical set of mass P; 1 keeps all")
    ] = 1.0
    repetition_penalty: Annotated[
        Factor,
        Flag("--repetition-penalty", "X", "divide logits of tokens in the text", "logits"),
    ] = 1.0
    presence_penalty: Annotated[
        Change,
        Flag("--presence-penalty", "X", "subtract X for tokens in the output", "logits"),
    ] = 0.0
    frequency_penalty: Annotated[
        Change,
        Flag("--frequency-penalty", "X", "subtract X for each time they occur", "logits"),
    ] = 0.0
    no_repeat_ngram_size: Annotated[
        Natural, Flag("--no-repeat-ngram-size", "N", "no N tokens twice; 0 is off", "logits")
    ] = 0
    logit_bias: Annotated[
        Mapping[Natural, Change],
        Flag("--logit-bias", "ID:X", "add X to the logit of token ID", "logits"),
    ] = field(default_factory=dict)
    ban: Annotated[
        Texts, Flag("--ban", "TEXT", "TEXT never appears; escapes as in --stop", "logits")
    ] = ()
    max_tokens: Annotated[
        Annotated[int, Range(1, MAX_TOKENS)],
        Flag("--max-tokens --max-new-tokens", "N", "end after N tokens", "length"),
    ] = 64
    min_tokens: Annotated[
        Natural, Flag("--min-tokens", "N", "forbid an end before N tokens", "length")
    ] = 0
    stop: Annotated[
        Texts, Flag("--stop", "TEXT", r"end before TEXT; \n \t \r \\ \uXXXX work", "length")
    ] = ()
    include_stop: Annotated[
        bool, Flag("--include-stop/--no-include-stop", None, "keep the stop text", "length")
    ] = False

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "strict": True,
        "allow_inf_nan": False,
    }

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        return handler(source) | {
            "strict": False
        }  # a mapping of YAML will do; its values are strict

    def __post_init__(self) -> None:
        squares = sum(len(text.encode("utf-8", "replace")) ** 2 for text in self.ban)
        if squares > MAX_BAN or len(self.ban) > MAX_BANS:
            size = sum(map(len, self.ban))
            raise ValueError(f"ban has {len(self.ban)} texts of {size} characters, too many")
        if self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens {self.min_tokens} is more than max_tokens {self.max_tokens}"
            )


class SamplingArguments(TypedDict, total=False):
    """The same as arguments of Python calls; what is left out, or None, is
    as the model's YAML says."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    no_repeat_ngram_size: int | None
    logit_bias: Mapping[int, float] | None
    ban: str | Sequence[str] | None
    max_tokens: int | None
    min_tokens: int | None
    stop: str | Sequence[str] | None
    include_stop: bool | None


class Parameter(NamedTuple):
    """What a field of `SamplingParams` says: its type (int, float, bool, a tuple of texts or a
    mapping of ids), range, flag and default."""

    name: str
    type: Any
    range: Range
    flag: Flag
    default: Any


@functools.cache
def parameters() -> tuple[Parameter, ...]:
    """The sampling parameters in the order of their fields, which is that of the filters."""
    hints = get_type_hints(SamplingParams, include_extras=True)
    defaults = SamplingParams()
    made = []
    for name in [item.name for item in fields(SamplingParams)]:
        notes = {type(note): note for note in hints[name].__metadata__}
        limits, flag = notes.get(Range, Range()), notes[Flag]
        made.append(Parameter(name, hints[name].__origin__, limits, flag, getattr(defaults, name)))
    return tuple(made)
