"""The counting of a vote: what is asked of it, who leads, and what is known of each answer. Sampled
votes, certified and exact ones are counted here alike.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from gentool.errors import UsageError
from gentool.voting.answers import Rule
from gentool.voting.certificate import Certificate
from gentool.voting.intervals import clopper_pearson

Way = Literal["sampled", "certified", "exact", "greedy"]
Verdict = Literal["running", "decided", "certified", "undecided", "exact", "estimated"]
Bounds = Literal["", "of all n", "95 % interval", "exact"]

ROUNDING = 1e-9  # of sums of masses
BUDGET = 1000


@dataclass(frozen=True)
class Ballot:
    """How a vote is held: `n` samples, fewer where `curtail` may end it once the others could not
    change the winner; or, with a `confidence`, up to n until one is certified; or `exact`, without
    samples, by at most `budget` prefixes. An exact vote is over when its winner is sure, or,
    where `within` is positive, when no more mass than that is unseen. `greedy` is one text, of the
    likeliest tokens."""

    n: int = 300
    curtail: bool = True
    confidence: float | None = None
    exact: bool = False
    greedy: bool = False
    budget: int = BUDGET
    within: float = 0.0
    rule: Rule = Rule()

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise UsageError(f"confidence is {self.confidence}", "it lies between 0 and 1")
        if self.confidence is not None and self.exact:
            raise UsageError("a vote is certified or exact, not both", "drop one")
        if self.n < 1:
            raise UsageError(f"n is {self.n}", "give at least 1")
        if self.budget < 1:
            raise UsageError(f"budget is {self.budget}", "give at least 1")

    @property
    def way(self) -> Way:
        if self.exact or self.greedy:
            return "exact" if self.exact else "greedy"
        return "sampled" if self.confidence is None else "certified"


@dataclass(frozen=True)
class Answer:
    """An answer. `text` is how it was mostly written; `share` is its part of the samples, or the
    best estimate of its probability under the law, which lies from `low` to `high`; `mass` is the
    summed probability under the law of the distinct texts that were found to give it."""

    answer: str
    text: str
    votes: int
    share: float
    low: float | None
    high: float | None
    mass: float


@dataclass(frozen=True)
class Tally:
    """A vote as it stands. `answers` are best first; `tied` is how many share the first place (the
    order among them is by mass, then by the sample that came first). `drawn` samples are over, of
    which `invalid` gave no answer; `invalid_mass` is the probability of the texts that gave none,
    `invalid_share` the best estimate of that, and `unseen` what an exact vote has not looked at.
    Distinct `prefixes` were computed after the prompt, as so many `tokens`, where independent rows
    would have taken `tokens_of_rows`."""

    prompt: int
    way: Way
    verdict: Verdict
    winner: Answer | None
    answers: tuple[Answer, ...]
    tied: int
    n: int
    drawn: int
    invalid: int
    invalid_mass: float
    invalid_share: float
    unseen: float
    bounds: Bounds
    confidence: float | None
    certified_at: int | None  # samples, in order of their index, that it took
    log_e: float | None  # of the leader; its certificate needs log_threshold
    log_threshold: float | None
    seed: int | None  # None: nothing was drawn
    prefixes: int
    tokens: int
    tokens_of_rows: int

    @property
    def certain(self) -> bool:
        """Whether the winner is known to be the law's most probable answer, or at least that to
        the confidence asked for."""
        return self.verdict == "certified" or (self.verdict == "exact" and self.tied == 1)

    def mass(self, answer: str) -> tuple[float, float]:
        """Between what the probability of an answer lies, of an exact vote."""
        found = next((one.mass for one in self.answers if one.answer == answer), 0.0)
        return found, found + self.unseen


@dataclass
class _Kept:
    """What is known of one answer so far."""

    votes: int = 0
    mass: float = 0.0
    estimate: float = 0.0  # of the part of its mass that is unseen
    first: float = math.inf  # sample
    texts: dict[str, float] = field(default_factory=lambda: defaultdict(float))


class Count:
    """Counts one prompt's texts as they are found."""

    def __init__(self, prompt: int, ballot: Ballot, seed: int, independent: bool) -> None:
        self.ballot = ballot
        self.prefixes = self.tokens = self.tokens_of_rows = 0
        self.unseen = 1.0 if ballot.exact else 0.0
        self.prompt = prompt
        self._seed, self._independent = seed, independent
        self._kept: dict[str, _Kept] = {}
        self._texts: set[tuple[int, ...]] = set()
        self._drawn = self._invalid = 0
        self._invalid_mass = 0.0
        self._certificate = None if ballot.confidence is None else Certificate(ballot.confidence)
        self._waiting: dict[int, tuple[str | None, str]] = {}  # by sample, before its turn

    def add(
        self,
        ids: tuple[int, ...],
        answer: str | None,
        text: str,
        mass: float,
        samples: Sequence[int],
    ) -> None:
        """A text's tokens, what it says, how probable the law finds it, and the samples that gave
        it. It may come again with other samples; it is as probable as before."""
        mass = 0.0 if ids in self._texts else mass
        self._texts.add(ids)
        if answer is None:
            self._invalid_mass += mass
        else:
            self._kept.setdefault(answer, _Kept()).mass += mass
            if self.ballot.exact:
                self._kept[answer].texts[text] += mass
        if self._certificate is None:
            for sample in samples:
                self._vote(answer, text, sample)
            return
        # a certificate sees draws in the order of their index: short answers are over first
        self._waiting |= dict.fromkeys(samples, (answer, text))
        while self._drawn in self._waiting and not self._certificate.certified:
            mine, written = self._waiting.pop(self._drawn)
            self._certificate.add(mine)
            self._vote(mine, written, self._drawn)

    def _vote(self, answer: str | None, text: str, sample: int) -> None:
        self._drawn += 1
        if answer is None:
            self._invalid += 1
            return
        kept = self._kept[answer]
        kept.votes += 1
        kept.texts[text] += 1
        kept.first = min(kept.first, sample)

    def estimate(self, answer: str | None, text: str, count: int) -> None:
        """A text that `count` of the ballot's n draws from the unseen mass gave."""
        self._drawn += count
        if answer is None:
            self._invalid += count
            return
        part = count / self.ballot.n * self.unseen
        kept = self._kept.setdefault(answer, _Kept())
        kept.votes += count
        kept.estimate += part
        kept.texts[text] += part

    @property
    def certified(self) -> bool:
        return self._certificate is not None and self._certificate.certified is not None

    @property
    def over(self) -> bool:
        """Whether nothing that is to come can change the winner, or is needed."""
        if self._certificate:
            return self.certified or self._drawn == self.ballot.n
        ranks = sorted((self._weight(kept) for kept in self._kept.values()), reverse=True)
        lead = (ranks[0] if ranks else 0.0) - (ranks[1] if len(ranks) > 1 else 0.0)
        if self.ballot.exact:
            if self.ballot.within:
                return self.unseen <= self.ballot.within
            return lead > self.unseen + ROUNDING
        left = self.ballot.n - self._drawn
        return left == 0 or (self.ballot.curtail and lead > left)

    def _weight(self, kept: _Kept) -> float:
        return kept.mass + kept.estimate if self.ballot.exact else kept.votes

    def tally(self, verdict: Verdict) -> Tally:
        """The vote as it stands."""
        ranked = sorted(
            ((answer, kept) for answer, kept in self._kept.items() if self._weight(kept) > 0),
            key=lambda pair: (-self._weight(pair[1]), -pair[1].mass, pair[1].first),
        )
        certificate, ballot = self._certificate, self.ballot
        best = self._weight(ranked[0][1]) if ranked else 0.0
        slack = ROUNDING if ballot.exact else 0
        tied = sum(self._weight(kept) >= best - slack for _, kept in ranked)
        if certificate and self.certified:  # it may have fewer votes: see Certificate
            ranked.sort(key=lambda pair: pair[0] != certificate.certified)
            tied = 1
        part = self._invalid / max(1, ballot.n if ballot.exact else self._drawn)
        bounds = self._bounds()
        answers = tuple(self._answer(answer, kept, bounds) for answer, kept in ranked)
        standing = certificate.state(ranked[0][0] if ranked else None) if certificate else None
        return Tally(
            prompt=self.prompt,
            way=ballot.way,
            verdict=verdict,
            winner=answers[0] if answers else None,
            answers=answers,
            tied=tied,
            n=0 if ballot.exact and not self._drawn else ballot.n,
            drawn=self._drawn,
            invalid=self._invalid,
            invalid_mass=self._invalid_mass,
            invalid_share=self._invalid_mass + part * self.unseen if ballot.exact else part,
            unseen=self.unseen,
            bounds=bounds,
            confidence=ballot.confidence,
            certified_at=certificate.at if certificate else None,
            log_e=standing.log_e if standing else None,
            log_threshold=standing.log_threshold if standing else None,
            seed=None if ballot.exact and not self._drawn else self._seed,
            prefixes=self.prefixes,
            tokens=self.tokens,
            tokens_of_rows=self.tokens_of_rows,
        )

    def _bounds(self) -> Bounds:
        if self.ballot.exact:
            return "exact"
        if self._certificate:  # which looked at every draw: no interval of one look is right
            return ""
        if self._drawn < self.ballot.n or self.ballot.curtail:
            return "of all n"
        return "95 % interval" if self._independent else ""

    def _answer(self, answer: str, kept: _Kept, bounds: Bounds) -> Answer:
        n, left = self.ballot.n, self.ballot.n - self._drawn
        low: float | None = None
        high: float | None = None
        share = kept.votes / max(1, self._drawn)
        if bounds == "exact":
            low, high, share = kept.mass, kept.mass + self.unseen, kept.mass + kept.estimate
        elif bounds == "of all n":
            low, high = kept.votes / n, (kept.votes + left) / n
        elif bounds == "95 % interval":
            low, high = clopper_pearson(kept.votes, n)
        text = max(kept.texts, key=kept.texts.__getitem__)
        return Answer(answer, text, kept.votes, share, low, high, kept.mass)
