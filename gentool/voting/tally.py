"""Settings and results of a vote: Ballot, Answer and Tally."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gentool.errors import UsageError
from gentool.voting.answers import AnswerRule

Way = Literal["sampled", "certified", "exact", "greedy"]
Verdict = Literal["running", "decided", "certified", "undecided", "exact", "estimated"]
Bounds = Literal["", "of all n", "95 % interval", "exact"]

ROUNDING = 1e-9  # error of sums of probabilities
MAX_SAMPLES = 10**6  # of a prompt: all are kept
BUDGET = 1000  # prefixes of an exact vote


@dataclass(frozen=True)
class Ballot:
    """Settings of a vote.

    A sampled vote draws `n` samples; with `curtail` it stops when the samples left cannot change
    the winner. With a `confidence` it draws up to n samples, until an answer is certified. An
    `exact` vote draws none: it computes at most `budget` prefixes, until no other answer can have
    more probability or, if `within` is positive, until at most that much probability is unseen. A
    `greedy` vote is the one text of the most probable tokens.
    """

    n: int = 300
    curtail: bool = True
    confidence: float | None = None
    exact: bool = False
    greedy: bool = False
    budget: int = BUDGET
    within: float = 0.0
    rule: AnswerRule = AnswerRule()

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise UsageError(f"confidence is {self.confidence}", "it lies between 0 and 1")
        if self.confidence is not None and self.exact:
            raise UsageError("a vote is certified or exact, not both", "drop one")
        if not 1 <= self.n <= MAX_SAMPLES:
            raise UsageError(f"n is {self.n}", f"it can be 1 to {MAX_SAMPLES}")
        if self.budget < 1:
            raise UsageError(f"budget is {self.budget}", "give at least 1")

    @property
    def way(self) -> Way:
        if self.exact or self.greedy:
            return "exact" if self.exact else "greedy"
        return "sampled" if self.confidence is None else "certified"


@dataclass(frozen=True)
class Answer:
    """An answer and what is known of it.

    `answer` is the normal form, `text` the most frequent spelling. `share` is the fraction of the
    samples, or the best estimate of the probability in the sampling distribution (after temperature
    and filters), which lies from `low` to `high`. `mass` is the summed probability of the distinct
    texts with this answer that were seen.
    """

    answer: str
    text: str
    votes: int
    share: float
    low: float | None
    high: float | None
    mass: float


@dataclass(frozen=True)
class Tally:
    """The result of a vote, or its state while it runs.

    `answers` are best first. `tied` of them share the first place; among these the order is by
    mass, then by the first sample. `drawn` samples are counted, `invalid` of them without a valid
    answer; `unfinished` were begun and have not ended. `invalid_mass` is the probability of the
    texts seen without a valid answer, `invalid_share` the best estimate of their probability or
    fraction, `unseen` the probability that an exact vote has not seen. All probabilities are of the
    sampling distribution. The vote computed `prefixes` distinct prefixes after the prompt, `tokens`
    tokens; independent rows would have computed `tokens_of_rows`.
    """

    prompt: int
    way: Way
    verdict: Verdict
    winner: Answer | None
    answers: tuple[Answer, ...]
    tied: int
    n: int
    drawn: int
    unfinished: int
    invalid: int
    invalid_mass: float
    invalid_share: float
    unseen: float
    bounds: Bounds
    confidence: float | None
    certified_at: int | None  # samples counted, in the order of their index
    log_e: float | None  # evidence for the leader, which is certified at log_threshold
    log_threshold: float | None
    seed: int | None  # None if nothing was drawn
    prefixes: int
    tokens: int
    tokens_of_rows: int

    @property
    def certain(self) -> bool:
        """Whether the winner is known to be the most probable answer of the sampling distribution,
        certified or exact."""
        return self.verdict == "certified" or (self.verdict == "exact" and self.tied == 1)

    def mass(self, answer: str) -> tuple[float, float]:
        """Lower and upper bound of an answer's probability, in an exact vote."""
        mass = next((a.mass for a in self.answers if a.answer == answer), 0.0)
        return mass, mass + self.unseen
