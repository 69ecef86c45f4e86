"""The flags commands share, as literal tables under the headings of the help screens: names, range,
default and one line each; and what they mean together.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from gentool.cli.options import (
    HELP,
    Value,
    assignment,
    bias,
    number,
    one_of,
    option,
    repeated,
    switch,
    told,
    unescaped,
)
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.config.model import ModelConfig, Sampling
    from gentool.generation.request import Search

DEFAULT_MODEL = "tiny-zh"

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
CERTAIN = number(float, 0, 0.999999, above=True)
SEED = number(int, 0, 2**63 - 1)
ROW = number(int, 0, 2**32 - 1)
PRECISION = one_of("auto", "fp32", "fp16", "bf16", "int8", "int4")
COLOR = one_of("auto", "always", "never")
OWN = "the model's, else "

PROMPT = [
    option("-f --file", "FILE", "read the prompt from a file"),
    switch("--lines", "every line is a prompt and gets one line of output"),
    option("--row", "K", "draw as line K of --lines; with --lines, that line only", "0", ROW),
]

SET = repeated("--set", "KEY=VALUE", "override a dotted key of its YAML", Value(assignment))
STORED = option("--precision", "NAME", "fp32, fp16, bf16, or auto: as it is", "auto", PRECISION)

MODEL = [
    option("-m --model", "MODEL", "a name, a folder or a YAML file", DEFAULT_MODEL),
    SET,
    option("--precision", "NAME", "auto, fp32, fp16 or bf16", OWN + "auto", PRECISION),
    switch("--xla/--no-xla", "compile all, or nothing", "what is fastest"),
    switch("--batch-invariant", "a row's bits do not depend on its neighbours; slower"),
]

SAMPLES = option("-n --n", "N", "samples of each prompt", "1", COUNT)
STRATIFIED = switch("--stratified", "spread the samples of a prompt evenly over its distribution")

SAMPLING = [
    option("--temperature --temp", "X", "divide the logits; 0 is greedy", OWN + "1", REAL),
    option("--top-k", "K", "keep the K likeliest tokens and ties; 0 is all", OWN + "0", NATURAL),
    option("--top-p", "P", "then the likeliest that together reach P; 1 is all", OWN + "1", SHARE),
    option("--min-p", "P", "then those of P times the likeliest or more", OWN + "0", PART),
    option("--typical-p", "P", "then the most typical that reach P; 1 is all", OWN + "1", SHARE),
    option("--repetition-penalty", "X", "divide logits of tokens in the text", OWN + "1", POSITIVE),
    option("--presence-penalty", "X", "subtract X for tokens in the output", OWN + "0", ANY),
    option("--frequency-penalty", "X", "subtract X for each time they are", OWN + "0", ANY),
    option("--no-repeat-ngram-size", "N", "no N tokens twice; 0 is off", OWN + "0", NATURAL),
    repeated("--logit-bias", "ID:X", "add X to the logit of token ID", Value(bias)),
    repeated("--ban", "TEXT", "TEXT never appears; escapes as in --stop", Value(unescaped)),
    option("--seed", "N", "the same seed gives the same text", "random", SEED),
]

GRAMMAR = [
    option("--regex", "REGEX", "the whole continuation matches"),
    option("--json-schema", "SCHEMA", "it is JSON of this schema: text or FILE"),
]

SEARCH = [
    STRATIFIED,
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
    repeated("--choice", "TEXT", "draw one of these texts, by probability", Value(unescaped)),
    *GRAMMAR,
]

MIN_TOKENS = option("--min-tokens", "N", "forbid an end before N tokens", OWN + "0", NATURAL)

LENGTH = [
    option("--max-tokens --max-new-tokens", "N", "end after N tokens", OWN + "64", COUNT),
    MIN_TOKENS,
    repeated("--stop", "TEXT", r"end before TEXT; \n \t \r \\ \uXXXX work", Value(unescaped)),
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
    told(switch("-q --quiet", "say nothing but errors on stderr")),
    told(switch("-v --verbose", "say on stderr what is done and how fast")),
    told(option("--color", "WHEN", "colour stderr: auto, always or never", "auto", COLOR)),
    told(switch("--debug", "show the traceback of an error")),
    HELP,
]


def sampling(config: ModelConfig, flags: Any) -> Sampling:
    """The model's own law, with what the flags say instead."""
    from gentool.config.model import Sampling
    from gentool.config.schema import parse

    given: dict[str, Any] = {name: getattr(flags, name, None) for name in Sampling.model_fields}
    said = {name: value for name, value in given.items() if value not in (None, ())}
    said |= {name: list(said[name]) for name in ("stop", "ban") if name in said}
    if "logit_bias" in said:
        said["logit_bias"] = dict(said["logit_bias"])
    source = " ".join(f"--{name.replace('_', '-')}" for name in said) or config.name
    return parse(Sampling, config.sampling.model_dump() | said, source)


def check_grammars(flags: Any) -> None:
    """What is wrong with a grammar is found before a model is opened."""
    if flags.regex is None and flags.json_schema is None:
        return
    from gentool.decoding import constraints

    if flags.regex is not None:
        constraints.regex(flags.regex)
    if flags.json_schema is not None:
        constraints.json_schema(flags.json_schema)


def search(flags: Any) -> Search:
    """How to look for texts, as the flags say; two ways at once are refused."""
    from gentool.generation import request

    ways = {
        name: getattr(flags, name) for name in ("beams", "penalty_alpha", "alternatives", "choice")
    }
    asked = [name for name, value in ways.items() if value not in (None, ())]
    both = [*asked, "stratified"] if flags.stratified else asked
    if len(both) > 1:
        first, second = (f"--{name.replace('_', '-')}" for name in both[:2])
        raise UsageError(f"{first} and {second} are two ways to search", "drop one")
    if asked and flags.lookup:
        raise UsageError(f"--lookup is {flags.lookup}, which is for samples", "drop it")
    for name in ("regex", "json_schema", "ban"):
        if flags.choice and getattr(flags, name):
            spelt = name.replace("_", "-")
            raise UsageError(f"--choice and --{spelt} restrict the same text", "drop one")
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
    return request.Sampled(bool(flags.stratified), flags.lookup or 0)
