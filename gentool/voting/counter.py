"""VoteCounter: counts the texts of one prompt into a Tally."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from gentool.voting.certificate import Certificate
from gentool.voting.intervals import clopper_pearson
from gentool.voting.tally import ROUNDING, Answer, Ballot, Bounds, Tally, Verdict


@dataclass
class _AnswerCount:
    """The votes and the probability of one answer."""

    votes: int = 0
    mass: float = 0.0
    estimate: float = 0.0  # of its probability in the unseen part
    first: float = math.inf  # its first sample
    texts: dict[str, float] = field(default_factory=lambda: defaultdict(float))


class VoteCounter:
    """Counts the finished texts of one prompt. `begun` is the number of samples begun."""

    def __init__(self, prompt: int, ballot: Ballot, seed: int, independent: bool) -> None:
        self.ballot = ballot
        self.prefixes = self.tokens = self.tokens_of_rows = self.begun = 0
        self.unseen = 1.0 if ballot.exact else 0.0
        self.prompt = prompt
        self._seed, self._independent = seed, independent
        self._answers: dict[str, _AnswerCount] = {}
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
        """Counts a text: its tokens, its answer and spelling, its probability, and its samples. A
        text may be added again with other samples; its probability counts once."""
        mass = 0.0 if ids in self._texts else mass
        self._texts.add(ids)
        if answer is None:
            self._invalid_mass += mass
        else:
            self._answers.setdefault(answer, _AnswerCount()).mass += mass
            if self.ballot.exact:
                self._answers[answer].texts[text] += mass
        if self._certificate is None:
            for sample in samples:
                self._vote(answer, text, sample)
            return
        # the certificate takes samples in the order of their index, but short answers end first
        self._waiting |= dict.fromkeys(samples, (answer, text))
        while self._drawn in self._waiting and not self._certificate.certified:
            valid, written = self._waiting.pop(self._drawn)
            self._certificate.add(valid)
            self._vote(valid, written, self._drawn)

    def _vote(self, answer: str | None, text: str, sample: int) -> None:
        self._drawn += 1
        if answer is None:
            self._invalid += 1
            return
        counted = self._answers[answer]
        counted.votes += 1
        counted.texts[text] += 1
        counted.first = min(counted.first, sample)

    def estimate(self, answer: str | None, text: str, count: int) -> None:
        """Counts a text that `count` of the n samples of the unseen probability have."""
        self._drawn += count
        if answer is None:
            self._invalid += count
            return
        part = count / self.ballot.n * self.unseen
        counted = self._answers.setdefault(answer, _AnswerCount())
        counted.votes += count
        counted.estimate += part
        counted.texts[text] += part

    @property
    def certified(self) -> bool:
        return self._certificate is not None and self._certificate.certified is not None

    @property
    def over(self) -> bool:
        """Whether the vote can stop: the samples left, or the unseen probability, cannot change the
        winner, or the winner is certified."""
        if self._certificate:
            return self.certified or self._drawn == self.ballot.n
        ranks = sorted((self._weight(counted) for counted in self._answers.values()), reverse=True)
        lead = (ranks[0] if ranks else 0.0) - (ranks[1] if len(ranks) > 1 else 0.0)
        if self.ballot.exact:
            if self.ballot.within:
                return self.unseen <= self.ballot.within
            return lead > self.unseen + ROUNDING
        left = self.ballot.n - self._drawn
        return left == 0 or (self.ballot.curtail and lead > left)

    @property
    def unfinished(self) -> int:
        """Samples begun that have not ended."""
        return max(0, self.begun - self._drawn - len(self._waiting))

    def _weight(self, counted: _AnswerCount) -> float:
        return counted.mass + counted.estimate if self.ballot.exact else counted.votes

    def tally(self, verdict: Verdict) -> Tally:
        """The current state as a Tally."""
        ranked = sorted(
            (pair for pair in self._answers.items() if self._weight(pair[1]) > 0),
            key=lambda pair: (-self._weight(pair[1]), -pair[1].mass, pair[1].first),
        )
        certificate, ballot = self._certificate, self.ballot
        best = self._weight(ranked[0][1]) if ranked else 0.0
        slack = ROUNDING if ballot.exact else 0
        tied = sum(self._weight(counted) >= best - slack for _, counted in ranked)
        if certificate and self.certified:  # another answer may have more votes: see Certificate
            ranked.sort(key=lambda pair: pair[0] != certificate.certified)
            tied = 1
        invalid = self._invalid / max(1, ballot.n if ballot.exact else self._drawn)
        bounds = self._bounds()
        answers = tuple(self._answer(answer, counted, bounds) for answer, counted in ranked)
        evidence = certificate.evidence(ranked[0][0] if ranked else None) if certificate else None
        return Tally(
            prompt=self.prompt,
            way=ballot.way,
            verdict=verdict,
            winner=answers[0] if answers else None,
            answers=answers,
            tied=tied,
            n=0 if ballot.exact and not self._drawn else ballot.n,
            drawn=self._drawn,
            unfinished=self.unfinished,
            invalid=self._invalid,
            invalid_mass=self._invalid_mass,
            invalid_share=self._invalid_mass + invalid * self.unseen if ballot.exact else invalid,
            unseen=self.unseen,
            bounds=bounds,
            confidence=ballot.confidence,
            certified_at=certificate.at if certificate else None,
            log_e=evidence.log_e if evidence else None,
            log_threshold=evidence.log_threshold if evidence else None,
            seed=None if ballot.exact and not self._drawn else self._seed,
            prefixes=self.prefixes,
            tokens=self.tokens,
            tokens_of_rows=self.tokens_of_rows,
        )

    def _bounds(self) -> Bounds:
        if self.ballot.exact:
            return "exact"
        if self._certificate:  # checks after every sample, so an interval for one check is wrong
            return ""
        if self._drawn < self.ballot.n or self.ballot.curtail:
            return "of all n"
        return "95 % interval" if self._independent else ""

    def _answer(self, answer: str, counted: _AnswerCount, bounds: Bounds) -> Answer:
        n, left = self.ballot.n, self.ballot.n - self._drawn
        low: float | None = None
        high: float | None = None
        share = counted.votes / max(1, self._drawn)
        if bounds == "exact":
            low, high = counted.mass, counted.mass + self.unseen
            share = counted.mass + counted.estimate
        elif bounds == "of all n":
            low, high = counted.votes / n, (counted.votes + left) / n
        elif bounds == "95 % interval":
            low, high = clopper_pearson(counted.votes, n)
        text = max(counted.texts, key=counted.texts.__getitem__)
        return Answer(answer, text, counted.votes, share, low, high, counted.mass)
