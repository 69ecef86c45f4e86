"""When a vote may stop and be sure: an anytime-valid certificate that an answer is the mode of what
is drawn. However often it is looked at, and however many answers there are, the chance that it ever
names an answer that is not the one most probable is at most 1 - confidence.

Why. Let answer i be the k-th to appear. The draws after that one do not depend on what led to it.
If i is not the only mode, some rival j has q = P(i | i or j) <= 1/2, and for any t >= 1/2 the
product of 2t for every i and 2(1 - t) for every j among them never grows on average:
2tq + 2(1 - t)(1 - q) <= 1. So neither does its mean over t uniform in [1/2, 1],

    E(a, b) = 2^(a + b + 1) * integral of t^a (1 - t)^b from 1/2 to 1,

which is 1 to begin with, and the chance that it ever reaches x is at most 1/x (Ville 1939). With
x = pi^2 k^2 / (6 alpha) these chances sum to at most alpha over all k. Which rival j is does not
matter, as i has to pass against all of them, one never seen too. Similar: CITE, arXiv 2605.05873.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import lru_cache
from typing import NamedTuple

from gentool.errors import UsageError


class Standing(NamedTuple):
    leader: str | None  # drawn most often, of equals the first seen
    log_e: float  # its E against the strongest rival
    log_threshold: float  # what that must reach


class _Seen(NamedTuple):
    number: int  # by first appearance, from 1
    draws: list[int]  # which ones gave it, from 1


class Certificate:
    """Give it the draws in the order of their sample index: in another, say of completion, they
    are not independent and nothing is certain."""

    certified: str | None = None  # once set, it stays
    at: int | None = None  # how many had been drawn then
    drawn = 0  # the invalid ones too

    def __init__(self, confidence: float) -> None:
        if not 0 < confidence < 1:
            raise UsageError(f"confidence is {confidence}", "it lies between 0 and 1: try 0.95")
        self._alpha = 1 - confidence
        self._seen: dict[str, _Seen] = {}

    def add(self, answer: str | None) -> None:
        """The next draw; None is an invalid one, which speaks for nobody."""
        self.drawn += 1
        if answer is None:
            return
        seen = self._seen.setdefault(answer, _Seen(len(self._seen) + 1, []))
        seen.draws.append(self.drawn)
        # A draw raises the E of its own answer alone and lowers or leaves those of the others, so
        # none but `answer` can pass now. That need not be the leader: what was drawn before an
        # answer first appeared does not count against it. Rivals are counted only where it would
        # pass without any.
        if self.certified is None and self._passes(seen):
            self.certified, self.at = answer, self.drawn

    def state(self, leader: str | None = None) -> Standing:
        """How far an answer is; by default the one that leads."""
        if not self._seen:
            return Standing(None, log_e(0, 0), self._threshold(1))
        if leader is None:
            leader = max(self._seen, key=lambda answer: len(self._seen[answer].draws))
        seen = self._seen[leader]
        a, b = len(seen.draws) - 1, self._against(seen)
        return Standing(leader, log_e(a, b), self._threshold(seen.number))

    def _passes(self, seen: _Seen) -> bool:
        a, needed = len(seen.draws) - 1, self._threshold(seen.number)
        return log_e(a, 0) >= needed and log_e(a, self._against(seen)) >= needed

    def _against(self, seen: _Seen) -> int:
        """How often the strongest rival was drawn since this answer first appeared. E falls as b
        grows, so this rival gives the least E, no larger than that of one never seen (b = 0)."""
        start = seen.draws[0]
        rivals = (other.draws for other in self._seen.values() if other is not seen)
        return max((len(draws) - bisect_right(draws, start) for draws in rivals), default=0)

    def _threshold(self, number: int) -> float:
        return math.log(math.pi**2 * number**2 / (6 * self._alpha))


@lru_cache(maxsize=1 << 14)
def log_e(a: int, b: int) -> float:
    """log E(a, b). E is 2^m B(a + 1, b + 1) P(Bin(m, 1/2) <= a), m = a + b + 1. Down from a the
    terms of this tail, divided by the first, are those of the hypergeometric series
    1 + a/(b + 2) + a(a - 1)/((b + 2)(b + 3)) + ..., and the first, times 2^m B, is 1/(b + 1).
    The terms fall if a <= b; if not, E is what E(b, a) leaves of the integral over [0, 1]."""
    if a > b:
        whole = (a + b + 1) * math.log(2)
        whole += math.lgamma(a + 1) + math.lgamma(b + 1) - math.lgamma(a + b + 2)
        return whole + math.log1p(-math.exp(log_e(b, a) - whole))
    term = total = 1.0
    for i in range(a):
        term *= (a - i) / (b + 2 + i)
        total += term
        if term < 1e-17 * total:
            break
    return math.log(total / (b + 1))
