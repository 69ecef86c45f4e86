"""The option groups that commands share, and what their flags mean together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from gentool.cli.inputs import ESCAPE
from gentool.cli.options import flag, repeated, switch
from gentool.cli.values import Value, assignment, number, one_of, unescaped, variable
from gentool.config.sampling import MAX_CHANGE, SamplingParams, parameters
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.cli.console import Console
    from gentool.config.model import ModelConfig
    from gentool.generation.request import Search
    from gentool.generation.session import Model

DEFAULT_MODEL = "tiny-zh"

COUNT = number(int, 1, 2**32 - 1)
SAMPLE_COUNT = number(int, 1, 10**6)  # of a prompt, all kept until it is done
NON_NEGATIVE = number(float, 0, MAX_CHANGE)
POSITIVE = number(float, 0, MAX_CHANGE, above=True)
PART = number(float, 0, 1)
UP_TO_64 = number(int, 0, 64)
UP_TO_512 = number(int, 1, 512)
EXPONENT = number(float, -10, 10)
RULE = one_of("hf", "bert4keras")
STOPPING = one_of("true", "false", "never")
SEED_NUMBER = number(int, 0, 2**63 - 1)
ROW = number(int, 0, 2**32 - 1)
PRECISION = one_of("auto", "fp32", "fp16", "bf16", "int8", "int4")
ASSIGNMENT = Value(assignment)
TEXT = Value(unescaped)
VARIABLE = Value(variable)

# of several groups: names, metavar, help, default, type
SET = ("--set", "KEY=VALUE", "override a dotted key of its YAML", ASSIGNMENT)
ADAPTER = ("--adapter", "FOLDER", "merge a PEFT adapter (LoRA) into it", Value(str))
SEED = ("--seed", "N", "the same seed gives the same text", "random", SEED_NUMBER)
STRATIFIED = ("--stratified", "spread the samples of a prompt evenly over its distribution")
OUTPUT_FILE = ("-o --output", "FILE", "write the result to a file", "stdout")
FORCE = ("--force", "begin anew, whatever the output file holds")
REGEX = ("--regex", "REGEX", "the whole continuation matches")
JSON_SCHEMA = ("--json-schema", "SCHEMA", "it is JSON of this schema: JSON text or a FILE")


@dataclass(frozen=True)
class PromptFlags:
    """Where the prompts come from."""

    file: str | None = flag("-f --file", "FILE", "read the prompt from a file")
    lines: bool | None = switch("--lines", "every line is a prompt and gets one line of output")
    escape: bool | None = switch(*ESCAPE)
    var: tuple[tuple[str, str], ...] = repeated(
        "--var", "NAME=TEXT", "put TEXT in place of {NAME} in the prompt", VARIABLE
    )
    row: int | None = flag(
        "--row", "K", "random numbers of row K; with --lines, that row only", "0", ROW
    )


@dataclass(frozen=True)
class ChatFlags:
    """How a message is put to the model."""

    system: str | None = flag("--system", "TEXT", "the system message", "none")
    chat_template: str | None = flag(
        "--chat-template", "FILE|NAME", "a template's file or known name", "the model's"
    )


@dataclass(frozen=True)
class ModelFlags:
    """Which model, and how it is opened."""

    model: str | None = flag(
        "-m --model", "MODEL", "a name, a folder or a YAML file", DEFAULT_MODEL
    )
    set: tuple[tuple[str, str], ...] = repeated(*SET)
    adapter: tuple[str, ...] = repeated(*ADAPTER)
    precision: str | None = flag(
        "--precision",
        "NAME",
        "auto, fp32, fp16, bf16, int8 or int4",
        "the model's, else auto",
        PRECISION,
    )
    threads: int | None = flag(
        "--threads", "N", "threads of LiteRT", "this process's cores", number(int, 1, 1024)
    )
    xla: bool | None = switch(
        "--xla/--no-xla", "compile every step, or none", "by dtype and batch size"
    )
    batch_invariant: bool | None = switch(
        "--batch-invariant", "bitwise-identical results whatever the batch; slower"
    )

    def config(self) -> ModelConfig:
        """The model's YAML, read and checked."""
        from gentool.config import lookup

        return lookup.load(self.model or DEFAULT_MODEL, dict(self.set), self.adapter)

    def open(self, console: Console, config: ModelConfig) -> Model:
        """Opens the model."""
        return open_model(console, config, self.precision, self.xla, self.threads)


def open_model(
    console: Console,
    config: ModelConfig,
    precision: str | None,
    xla: bool | None,
    threads: int | None,
) -> Model:
    """Opens a model; a terminal is told what is loaded, and what int8 takes where `auto` left large
    weights in 16 bits."""
    from gentool.config import generation_config
    from gentool.config.folder import is_description
    from gentool.generation import opening

    with console.loading(config.name) as progress:
        model = opening.open_model(config, precision, xla, threads, progress)
    if config.source and is_description(config.source) and config.sampling != SamplingParams():
        default = asdict(SamplingParams())
        params = asdict(config.sampling).items()
        said = ", ".join(f"{name} {value}" for name, value in params if value != default[name])
        console.detail(f"{generation_config.NAME} of {config.name}: {said}")
    auto = (precision or config.precision) == "auto" and xla is None
    if auto and model.precision in ("fp16", "bf16"):
        count = sum(math.prod(weight.shape) for weight in model.plan.values())
        console.after(
            f"{config.name} takes {2 * count / 1e9:.1f} GB in {model.precision};"
            f" with --precision int8 {count / 1e9:.1f} GB"
        )
    return model


@dataclass(frozen=True)
class DrawFlags:
    """How many samples are drawn."""

    n: int | None = flag("-n --n", "N", "samples of each prompt", "1", SAMPLE_COUNT)
    seed: int | None = flag(*SEED)


@dataclass(frozen=True)
class GrammarFlags:
    """What a continuation has to match."""

    regex: str | None = flag(*REGEX)
    json_schema: str | None = flag(*JSON_SCHEMA)

    def check(self) -> None:
        """Raises UsageError for a grammar that cannot be read, before a model is opened."""
        if self.regex is None and self.json_schema is None:
            return
        from gentool.decoding import constraints

        if self.regex is not None:
            constraints.regex(self.regex)
        if self.json_schema is not None:
            constraints.json_schema(self.json_schema)


@dataclass(frozen=True)
class SearchFlags:
    """How texts are searched."""

    stratified: bool | None = switch(*STRATIFIED)
    lookup: int | None = flag(
        "--lookup", "N", "draft N tokens by prompt lookup; the text stays the same", "0", UP_TO_64
    )
    beams: int | None = flag(
        "--beams", "N", "search with N beams instead of sampling", "off", UP_TO_512
    )
    n_best: int | None = flag(
        "--n-best", "N", "print the N best texts of the beams", "1", UP_TO_512
    )
    beam_rule: Literal["hf", "bert4keras"] | None = flag(
        "--beam-rule", "RULE", "hf as transformers, bert4keras as that", "hf", RULE
    )
    length_penalty: float | None = flag(
        "--length-penalty", "X", "score is logprob / tokens^X; rule hf", "1", EXPONENT
    )
    early_stopping: str | None = flag(
        "--early-stopping", "WHEN", "true, false or never; rule hf", "false", STOPPING
    )
    beam_groups: int | None = flag(
        "--beam-groups", "N", "diverse beam search in N groups; rule hf", "1", UP_TO_512
    )
    diversity_penalty: float | None = flag(
        "--diversity-penalty", "X", "subtract X for tokens of earlier groups", "0", NON_NEGATIVE
    )
    penalty_alpha: float | None = flag(
        "--penalty-alpha", "X", "contrastive search among --top-k tokens", "off", PART
    )
    alternatives: int | None = flag(
        "--alternatives", "K", "the K most probable first tokens, each continued", "off", UP_TO_512
    )
    choice: tuple[str, ...] = repeated(
        "--choice", "TEXT", "draw one of these texts, by probability", TEXT
    )


# A way to search -> the parameters of the sampling distribution that it uses.
USED = {
    "beams": (),
    "penalty_alpha": ("top_k",),
    "alternatives": (),
    "choice": ("temperature",),
}
BEAMS_ONLY = (
    "n_best",
    "beam_rule",
    "length_penalty",
    "early_stopping",
    "beam_groups",
    "diversity_penalty",
)


def flag_name(name: str) -> str:
    """The flag of an option's name: --top-k of top_k."""
    return f"--{name.replace('_', '-')}"


def sampling_params(config: ModelConfig, given: Mapping[str, Any]) -> SamplingParams:
    """The model's own sampling parameters, with what the flags say instead."""
    from gentool.config.schema import parse

    source = " ".join(map(flag_name, given)) or config.name
    changes = {
        name: dict(value) if name == "logit_bias" else value for name, value in given.items()
    }
    return parse(SamplingParams, asdict(config.sampling) | changes, source)


def search(
    flags: SearchFlags, n: int | None, grammar: GrammarFlags, sampling: Mapping[str, Any]
) -> Search:
    """The search that the flags ask for; two searches at once, and flags that it would not use,
    are refused. `sampling` are the sampling parameters that were given."""
    from gentool.generation import request

    way = _checked_way(flags, n, grammar, sampling)
    if way == "beams":
        early: bool | Literal["never"] = flags.early_stopping == "true"
        early = "never" if flags.early_stopping == "never" else early
        return request.BeamSearch(
            width=flags.beams or 1,
            length_penalty=1.0 if flags.length_penalty is None else flags.length_penalty,
            early_stopping=early,
            groups=flags.beam_groups or 1,
            diversity_penalty=flags.diversity_penalty or 0.0,
            rule=flags.beam_rule or "hf",
        )
    if way == "alternatives":
        return request.Alternatives()
    if way == "choice":
        return request.Choose(flags.choice)
    if flags.penalty_alpha is not None:
        return request.Contrastive(flags.penalty_alpha, sampling.get("top_k") or 4)
    return request.Sampled(bool(flags.stratified), flags.lookup or 0)


def _checked_way(
    flags: SearchFlags, n: int | None, grammar: GrammarFlags, sampling: Mapping[str, Any]
) -> str | None:
    """The flag of the search that is asked for, None for samples."""
    ways = [name for name in USED if getattr(flags, name) not in (None, ())]
    both = [*ways, "stratified"] if flags.stratified else ways
    if len(both) > 1:
        first, second = map(flag_name, both[:2])
        raise UsageError(f"{first} and {second} are two ways to search", "drop one")
    way = ways[0] if ways else None
    if way and flags.lookup:
        raise UsageError(f"--lookup is {flags.lookup}, which is for samples", "drop it")
    if way:
        for parameter in parameters():
            name = parameter.name
            unused = parameter.flag.stage == "distribution" and name not in USED[way]
            if unused and name in sampling:
                raise UsageError(
                    f"{flag_name(name)} is {sampling[name]:g}, which {flag_name(way)} does not use",
                    "drop one",
                )
    restricted = {"regex": grammar.regex, "json_schema": grammar.json_schema}
    for name, value in (restricted | {"ban": sampling.get("ban")}).items():
        if flags.choice and value:
            raise UsageError(f"--choice and {flag_name(name)} restrict the same text", "drop one")
    for name in BEAMS_ONLY:
        if getattr(flags, name) is not None and not flags.beams:
            raise UsageError(f"{flag_name(name)} is for beams", "give --beams N")
    if n is not None and way in ("beams", "alternatives"):
        other = "--n-best" if flags.beams else "--alternatives"
        raise UsageError(f"--n is {n}, which is for samples", f"give {other} N")
    return way
