"""Clopper-Pearson intervals against published numbers, scipy's, and their definition in exact
fractions."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentool.errors import UsageError
from gentool.voting.intervals import clopper_pearson

PUBLISHED = [
    (682, 925, 0.7076683, 0.7654066, 7),  # the example of R's binom.test
    (81, 263, 0.2527, 0.3676, 4),  # Newcombe 1998, table I, method 5
    (15, 148, 0.0578, 0.1617, 4),
    (0, 20, 0.0000, 0.1684, 4),
    (1, 29, 0.0009, 0.1776, 4),
]

SCIPY = [  # 1.17.1: beta.ppf(tail, count, n - count + 1) and beta.isf(tail, count + 1, n - count)
    (7, 20, 0.95, 0.1539092047845412, 0.5921885345328282),
    (3, 300, 0.95, 0.0020670072350923168, 0.028944511255692605),
    (150, 300, 0.99, 0.4244724358342021, 0.575527564165798),
    (1, 10**6, 0.95, 2.53178076637942e-08, 5.571630655166939e-06),
    (500_000, 10**6, 0.95, 0.49901951919531184, 0.5009804808046882),
    (999_999, 10**6, 0.95, 0.9999944283693448, 0.9999999746821924),
]


@pytest.mark.parametrize("count, n, low, high, digits", PUBLISHED)
def test_published(count, n, low, high, digits):
    found = clopper_pearson(count, n)
    assert tuple(round(p, digits) for p in found) == (low, high)


@pytest.mark.parametrize("count, n, confidence, low, high", SCIPY)
def test_scipy(count, n, confidence, low, high):
    found = clopper_pearson(count, n, confidence)
    assert found == (pytest.approx(low, rel=1e-9), pytest.approx(high, rel=1e-9))


@pytest.mark.parametrize("n", [1, 2, 300, 10**6])
def test_none_and_all(n):
    most = -math.expm1(math.log(0.025) / n)  # (1 - p)^n = 0.025
    assert clopper_pearson(0, n) == (0, pytest.approx(most, rel=1e-9))
    assert clopper_pearson(n, n) == (pytest.approx(1 - most, rel=1e-9), 1)


def test_nothing_drawn_nothing_known():
    assert clopper_pearson(0, 0) == (0, 1)


def at_least(count, n, p):
    p = Fraction(p)
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(count, n + 1))


@given(
    st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.floats(0.01, 0.999),
)
def test_each_tail_has_half_of_what_is_left(counted, confidence):
    count, n = counted
    low, high = clopper_pearson(count, n, confidence)
    tail = pytest.approx((1 - confidence) / 2, rel=1e-10)
    if count > 0:
        assert float(at_least(count, n, low)) == tail
    if count < n:
        assert float(1 - at_least(count + 1, n, high)) == tail
    assert 0 <= low < high <= 1


@given(st.integers(0, 400), st.integers(0, 400), st.floats(0.01, 0.999))
def test_successes_and_failures_mirror(count, failures, confidence):
    low, high = clopper_pearson(count, count + failures, confidence)
    mirrored = clopper_pearson(failures, count + failures, confidence)
    assert mirrored == (pytest.approx(1 - high, abs=1e-15), pytest.approx(1 - low, abs=1e-15))


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_probability(confidence):
    with pytest.raises(UsageError, match=f"confidence is {confidence}"):
        clopper_pearson(1, 2, confidence)
