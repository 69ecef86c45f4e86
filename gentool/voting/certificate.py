"""Certificate that an answer is the mode of the sampling distribution, valid at any stopping time:
however often it is checked, and however many answers there are, the probability that it ever
certifies an answer that is not the most probable one is at most 1 - confidence.

Proof. Let answer i be the k-th to appear. The samples after that one do not depend on what led to
it. If i is not the only mode, some rival j has q = P(i | i or j) <= 1/2, and for any t >= 1/2 the
product of 2t for every i and 2(1 - t) for every j among them never grows on average:
2tq + 2(1 - t)(1 - q) <= 1. So neither does its mean over t uniform in [1/2, 1],

    E(a, b) = 2^(a + b + 1) * integral of t^a (1 - t)^b from 1/2 to 1,

which starts at 1, and the probability that it ever reaches x is at most 1/x (Ville 1939). With
x = pi^2 k^2 / (6 alpha) these probabilities sum to at most alpha over all k. It does not matter
which rival j is, as i has to pass against all of them, and against one not seen yet. Similar: CITE,
arXiv 2605.05873.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import lru_cache
from typing import NamedTuple

from gentool.errors import UsageError


class Evidence(NamedTuple):
    """The evidence for an answer, in natural logarithms."""

    answer: str | None
    log_e: float  # evidence against its strongest rival
    log_threshold: float  # evidence that certifies it


class _Seen(NamedTuple):
    """An answer that has appeared."""

    number: int  # order of first appearance, from 1
    samples: list[int]  # the samples that gave it, from 1


class Certificate:
    """Certifies the most probable answer from samples in the order of their index. In another
    order, such as that of completion, samples are not independent and the proof does not hold."""

    certified: str | None = None  # once set, it stays
    at: int | None = None  # samples added when it was certified
    drawn = 0  # samples added, invalid ones too

    def __init__(self, confidence: float) -> None:
        if not 0 < confidence < 1:
            raise UsageError(f"confidence is {confidence}", "it lies between 0 and 1: try 0.95")
        self._alpha = 1 - confidence
        self._seen: dict[str, _Seen] = {}

    def add(self, answer: str | None) -> None:
        """Adds the next sample; None is an invalid one, which is evidence for no answer."""
        self.drawn += 1
        if answer is None:
            return
        seen = self._seen.setdefault(answer, _Seen(len(self._seen) + 1, []))
        seen.samples.append(self.drawn)
        # A sample raises the evidence of its own answer and of no other, so only `answer` can pass
        # now. It need not be the leader: samples before an answer first appeared do not count
        # against it. Rivals are counted only if it would pass without any.
        if self.certified is None and self._passes(seen):
            self.certified, self.at = answer, self.drawn

    def evidence(self, answer: str | None = None) -> Evidence:
        """The evidence for an answer, by default for the one with most samples; of equals, for the
        first seen."""
        if not self._seen:
            return Evidence(None, log_e(0, 0), self._threshold(1))
        if answer is None:
            answer = max(self._seen, key=lambda seen: len(self._seen[seen].samples))
        seen = self._seen[answer]
        a, b = len(seen.samples) - 1, self._against(seen)
        return Evidence(answer, log_e(a, b), self._threshold(seen.number))

    def _passes(self, seen: _Seen) -> bool:
        a, needed = len(seen.samples) - 1, self._threshold(seen.number)
        return log_e(a, 0) >= needed and log_e(a, self._against(seen)) >= needed

    def _against(self, seen: _Seen) -> int:
        """Samples of the strongest rival since this answer first appeared. E falls as b grows, so
        this rival gives the smallest E, not above that of a rival never seen (b = 0)."""
        start = seen.samples[0]
        rivals = (other.samples for other in self._seen.values() if other is not seen)
        return max((len(samples) - bisect_right(samples, start) for samples in rivals), default=0)

    def _threshold(self, number: int) -> float:
        return math.log(math.pi**2 * number**2 / (6 * self._alpha))


@lru_cache(maxsize=1 << 14)
def log_e(a: int, b: int) -> float:
    """Natural logarithm of E(a, b).

    E is 2^m B(a + 1, b + 1) P(Bin(m, 1/2) <= a) with m = a + b + 1. Down from a the terms of
    this tail, divided by the first, are those of the hypergeometric series
    1 + a/(b + 2) + a(a - 1)/((b + 2)(b + 3)) + ..., and the first, times 2^m B, is 1/(b + 1).
    The terms fall if a <= b; if not, E is the integral over [0, 1] without the part of E(b, a).
    """
    if a > b:
        log_whole = (a + b + 1) * math.log(2)
        log_whole += math.lgamma(a + 1) + math.lgamma(b + 1) - math.lgamma(a + b + 2)
        return log_whole + math.log1p(-math.exp(log_e(b, a) - log_whole))
    term = total = 1.0
    for i in range(a):
        term *= (a - i) / (b + 2 + i)
        total += term
        if term < 1e-17 * total:
            break
    return math.log(total / (b + 1))
