"""Request and response types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gentool.config.sampling import SamplingParams
from gentool.decoding.beam_search import BeamSearch as BeamSearch
from gentool.errors import UsageError
from gentool.voting.tally import MAX_SAMPLES

Finish = Literal["eos", "stop", "length"]
Ends = int | Sequence[int] | None | Literal["default"]


@dataclass(frozen=True)
class TokenLogprob:
    """A candidate token of a step, and its natural log-probability under the model itself."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Step:
    """The drawn token of a step, and the most probable tokens, best first."""

    chosen: TokenLogprob
    top_logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class Sample:
    """A continuation; without a tokenizer its text is empty. `ids` are all its tokens, including
    an end token and those of a stop string; `logprob` is their summed natural log-probability under
    the model itself, before any filter; samples are ordered by `score`: `logprob`, or the score of
    a beam. `steps` is empty unless log-probabilities are requested."""

    text: str
    ids: tuple[int, ...]
    logprob: float
    score: float
    finish: Finish
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Sampled:
    """Sampling: independent samples, or `stratified` ones, which are spread evenly over a prompt's
    distribution. `lookup` tokens are drafted from the text so far, which only changes the speed."""

    stratified: bool = False
    lookup: int = 0


@dataclass(frozen=True)
class Alternatives:
    """The most probable first tokens, each continued greedily."""


@dataclass(frozen=True)
class Contrastive:
    """Contrastive search (Su et al. 2022) among the k most probable tokens; see
    `gentool.decoding.contrastive`."""

    alpha: float
    k: int


@dataclass(frozen=True)
class Choose:
    """Draws among these texts by their probabilities; with `end`, each followed by an end token."""

    texts: tuple[str, ...]
    end: bool = False


Search = Sampled | Alternatives | BeamSearch | Contrastive | Choose


@dataclass(frozen=True)
class Request:
    """Prompts and how to continue each: `n` samples by the parameters `sampling`, random numbers
    keyed by seed (below 2^64) and the `rows` of the prompts (below 2^32). `eos` is the model's own
    end tokens, none, or ids. With `logprobs` each sample has its steps, with so many most probable
    tokens. A continuation matches `regex` completely, or is JSON of `json_schema`."""

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
        limits = {"n": (self.n, 1, MAX_SAMPLES + 1), "seed": (self.seed, 0, 2**64)}
        limits |= {f"row {row}": (row, 0, 2**32) for row in self.rows}
        for name, (value, low, high) in limits.items():
            if not low <= value < high:
                raise UsageError(f"{name} is {value}", f"it can be {low} to {high - 1}")
        if isinstance(self.search, Contrastive) and self.n > 1:
            raise UsageError(f"n is {self.n}", "a contrastive search gives one text")
        if isinstance(self.search, BeamSearch) and self.n > self.search.width:
            raise UsageError(
                f"{self.n} texts are requested of {self.search.width} beams", "give as many beams"
            )


@dataclass(frozen=True)
class Chunk:
    """New text of sample `sample` of prompt `prompt`; the last chunk of a sample has `done`."""

    prompt: int
    sample: int
    text: str
    done: Sample | None = None
