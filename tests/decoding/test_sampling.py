"""Filters on distributions worked out by hand, and against plain definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gentool.decoding.sampling import Law, draw, log_probabilities, pick, top_p, weights

logits = arrays(np.float32, st.integers(1, 300), elements=st.floats(-20, 20, width=32))
LAST = 1 - 2.0**-53


def test_temperature_divides_before_the_filters():
    w = weights(np.log([0.5, 0.25, 0.25]).astype(np.float32), Law(temperature=0.5))
    np.testing.assert_allclose(w / w.sum(), [4 / 6, 1 / 6, 1 / 6], rtol=1e-6)


def test_top_k_keeps_ties_of_the_kth():
    assert weights(np.float32([3, 1, 2, 2]), Law(top_k=2)).astype(bool).tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("p", "kept"),
    [(0.3, [0, 1, 0, 0]), (0.5, [0, 1, 0, 0]), (0.51, [0, 1, 1, 0]), (0.9, [0, 1, 1, 1])],
)
def test_top_p_keeps_the_token_that_crosses(p, kept):
    assert top_p(np.array([0.05, 0.5, 0.3, 0.15]), p).astype(bool).tolist() == kept


def test_top_p_takes_the_lower_id_of_equals():
    assert top_p(np.full(4, 0.25), 0.5).tolist() == [0.25, 0.25, 0, 0]


@given(logits, st.floats(0.01, 0.999))
def test_top_p_is_the_smallest_set_that_reaches_p(values, p):
    w = weights(values, Law())
    kept = top_p(w, p)
    mass, need = kept.sum(), p * w.sum()
    assert mass >= need * (1 - 1e-12)
    assert mass - kept[kept > 0].min() < need * (1 + 1e-12)
    assert kept[kept > 0].min() >= w[kept == 0].max(initial=0)


@given(logits, st.floats(0.1, 3), st.integers(0, 9), st.floats(0.01, 1))
def test_extreme_u_gives_tokens_of_positive_probability(values, temperature, k, p):
    law = Law(temperature, k, p)
    w = weights(values, law)
    for u in (0.0, LAST):
        assert w[draw(np.cumsum(w), u)] > 0
    assert draw(np.cumsum(w), 0.0) == np.flatnonzero(w)[0]


def test_the_smallest_temperature_is_nearly_greedy():
    for temperature in (5e-324, 1e-310, 1e-5):
        assert pick(np.float32([[1, 3, 2]]), Law(temperature), np.array([0.9])) == [1]


@given(logits)
def test_top_p_one_and_top_k_off_change_nothing(values):
    plain = np.exp(values.astype(np.float64) - values.max())
    np.testing.assert_allclose(weights(values, Law()), plain, rtol=1e-12)


@given(logits)
def test_top_k_one_is_greedy_where_the_maximum_is_unique(values):
    if (values == values.max()).sum() == 1:
        assert pick(values[None], Law(top_k=1), np.array([0.7]))[0] == values.argmax()


def test_temperature_zero_takes_the_lowest_id_of_the_largest():
    logits = np.float32([[1, 3, 3], [2, 2, 1]])
    assert pick(logits, Law(temperature=0), np.array([0.9, 0.9])).tolist() == [1, 0]


def test_draws_follow_the_distribution():
    law = Law(temperature=0.7, top_k=3)
    values = np.float32([0.1, 1.0, 0.5, -1.0, 0.7])
    w = weights(values, law)
    u = (np.arange(10000) + 0.5) / 10000
    counts = np.bincount([draw(np.cumsum(w), x) for x in u], minlength=5)
    np.testing.assert_allclose(counts / 10000, w / w.sum(), atol=1e-4)


def test_log_probability_is_the_models_own():
    values = np.log(np.float32([0.2, 0.3, 0.5]))
    found = log_probabilities(np.stack([values, values + 5]), np.array([1, 2]))
    np.testing.assert_allclose(found, np.log([0.3, 0.5]), atol=1e-6)
