"""Request and response types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gentool.config.sampling import SamplingParams
from gentool.errors import UsageError

Finish = Literal["eos", "stop", "length"]
Ends = int | Sequence[int] | None | Literal["default"]


@dataclass(frozen=True)
class TokenLogprob:
    """A token a step could have given, and its natural log-probability under the model itself."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Step:
    """The token of one step, and the most probable ones, best first."""

    chosen: TokenLogprob
    top_logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class Sample:
    """One continuation; without a tokenizer its text is empty. `ids` are all its tokens, an end
    token and those of a stop string included; `logprob` is their summed natural log-probability
    under the model itself, before any filter; `score` is what samples are ordered by: the same, or
    that of a beam. `steps` are there if they were asked for."""

    text: str
    ids: tuple[int, ...]
    logprob: float
    score: float
    finish: Finish
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Sampled:
    """Samples, independent or spread evenly over a prompt's distribution; `lookup` tokens are
    drafted from the text so far, which changes nothing but the speed."""

    stratified: bool = False
    lookup: int = 0


@dataclass(frozen=True)
class Alternatives:
    """The likeliest first tokens, each continued by the likeliest tokens."""


@dataclass(frozen=True)
class BeamSearch:
    """The best texts that `width` beams find; see `gentool.decoding.beam.Beams`."""

    width: int
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    groups: int = 1
    diversity_penalty: float = 0.0
    rule: Literal["hf", "bert4keras"] = "hf"
    min_ends: int = 1


@dataclass(frozen=True)
class Contrastive:
    """The one of the top k tokens that is likely and unlike the text so far (Su et al. 2022)."""

    alpha: float
    k: int


@dataclass(frozen=True)
class Choose:
    """Only these texts, drawn by their probabilities."""

    texts: tuple[str, ...]
    end: bool = False


Search = Sampled | Alternatives | BeamSearch | Contrastive | Choose


@dataclass(frozen=True)
class Request:
    """Prompts and how to continue each: `n` samples each by `sampling`, their random numbers
    keyed by seed (below 2^64) and the `rows` of the prompts (below 2^32). `eos` is the model's own
    end, none, or ids. With `logprobs` each sample has its steps, and so many likeliest tokens. The
    whole continuation matches `regex`, or is JSON of `json_schema`."""

    prompts: tuple[str | tuple[int, ...], ...]
    rows: tuple[int, ...]
    n: int
    sampling: SamplingParams
    seed: int
    eos: Ends = "default"
    batch_invariant: bool = False
    search: Search = Sampled()
    logprobs: int | None = None
    regex: str | None = None
    json_schema: str | None = None

    def __post_init__(self) -> None:
        limits = {"n": (self.n, 1, 2**32), "seed": (self.seed, 0, 2**64)}
        limits |= {f"row {row}": (row, 0, 2**32) for row in self.rows}
        for name, (value, low, high) in limits.items():
            if not low <= value < high:
                raise UsageError(f"{name} is {value}", f"it can be {low} to {high - 1}")
        if isinstance(self.search, Contrastive) and self.n > 1:
            raise UsageError(f"n is {self.n}", "a contrastive search finds one text")
        if isinstance(self.search, BeamSearch) and self.n > self.search.width:
            raise UsageError(
                f"{self.n} texts are asked of {self.search.width} beams", "give as many beams"
            )


@dataclass(frozen=True)
class Chunk:
    """Text that sample `sample` of prompt `prompt` has grown by; `done` comes with its last."""

    prompt: int
    sample: int
    text: str
    done: Sample | None = None
