"""Confidence intervals of a proportion of independent samples."""

from __future__ import annotations

import math
from functools import lru_cache

from gentool.errors import UsageError


@lru_cache(maxsize=1 << 12)  # many answers have few votes
def clopper_pearson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of p for `count` of n samples (Clopper and Pearson 1934): outside it, as
    many or more, or as few or fewer, have probability below (1 - confidence) / 2."""
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence}", "it lies between 0 and 1: try 0.95")
    tail = (1 - confidence) / 2
    return _lowest(count, n, tail), 1 - _lowest(n - count, n, tail)


def _lowest(count: int, n: int, tail: float) -> float:
    """The p with P(Bin(n, p) >= count) = `tail` <= 1/2, by bisection to the last bit. It lies below
    count / n, the p whose median is `count`."""
    if count == 0:
        return 0.0
    ways = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    low, high = 0.0, count / n
    while low < (p := (low + high) / 2) < high:
        first = ways + count * math.log(p) + (n - count) * math.log1p(-p)
        if first + math.log(_series(count, n, p / (1 - p))) < math.log(tail):
            low = p
        else:
            high = p
    return low


def _series(count: int, n: int, odds: float) -> float:
    """P(X >= count) / P(X = count) of a binomial X whose mean is at most `count`: terms fall."""
    term = total = 1.0
    for k in range(count, n):
        term *= (n - k) / (k + 1) * odds
        total += term
        if term < 1e-17 * total:
            break
    return total
