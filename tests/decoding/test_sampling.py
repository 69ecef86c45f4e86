"""Draws: which id a random number picks, and the model's own probability of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gentool.config.sampling import SamplingParams
from gentool.decoding import sampling
from gentool.decoding.filters import weights
from gentool.decoding.sampling import draw, draw_once, log_probabilities, pick

logits = arrays(np.float32, st.integers(1, 300), elements=st.floats(-20, 20, width=32))
LAST = 1 - 2.0**-53


@given(logits, st.floats(0.1, 3), st.integers(0, 9), st.floats(0.01, 1))
def test_extreme_u_gives_tokens_of_positive_probability(values, temperature, k, p):
    params = SamplingParams(temperature, k, p)
    w = weights(values, params)
    for u in (0.0, LAST):
        assert w[draw(np.cumsum(w), u)] > 0
    assert draw(np.cumsum(w), 0.0) == np.flatnonzero(w)[0]


@given(st.integers(0, 99), st.integers(1, 2000), st.floats(0, LAST))
def test_sums_of_blocks_draw_what_the_whole_sum_draws(seed, size, u):
    rng = np.random.default_rng(seed)
    w = np.exp(rng.normal(0, 4, size)) * (rng.random(size) < 0.7)
    w[seed % size] = 1.0
    whole = np.cumsum(w)
    edges = whole[rng.integers(0, size, 5)] / whole[-1]  # where rounding decides
    for x in (u, 0.0, LAST, *np.minimum(edges, LAST)):
        assert draw_once(w, x) == draw(whole, x)


def test_the_smallest_temperature_is_nearly_greedy():
    for temperature in (5e-324, 1e-310, 1e-5):
        assert pick(np.float32([[1, 3, 2]]), SamplingParams(temperature), np.array([0.9])).ids == [
            1
        ]


@given(logits)
def test_top_k_one_is_greedy_where_the_maximum_is_unique(values):
    if (values == values.max()).sum() == 1:
        assert (
            pick(values[None], SamplingParams(top_k=1), np.array([0.7])).ids[0] == values.argmax()
        )


def test_temperature_zero_takes_the_lowest_id_of_the_largest():
    logits = np.float32([[1, 3, 3], [2, 2, 1]])
    assert pick(logits, SamplingParams(temperature=0), np.array([0.9, 0.9])).ids.tolist() == [1, 0]


def test_draws_follow_the_distribution():
    params = SamplingParams(temperature=0.7, top_k=3)
    values = np.float32([0.1, 1.0, 0.5, -1.0, 0.7])
    w = weights(values, params)
    u = (np.arange(10000) + 0.5) / 10000
    counts = np.bincount([draw(np.cumsum(w), x) for x in u], minlength=5)
    np.testing.assert_allclose(counts / 10000, w / w.sum(), atol=1e-4)


def test_log_probability_is_the_models_own():
    values = np.log(np.float32([0.2, 0.3, 0.5]))
    actual = log_probabilities(np.stack([values, values + 5]), np.array([1, 2]))
    np.testing.assert_allclose(actual, np.log([0.3, 0.5]), atol=1e-6)


def test_the_log_probability_of_a_draw_is_the_models_own():
    logits = np.random.default_rng(3).normal(0, 5, (20, 900)).astype(np.float32)
    drawn = pick(logits, SamplingParams(), np.linspace(0, 0.99, 20))
    assert drawn.logprobs.tolist() == log_probabilities(logits, drawn.ids).tolist()
    assert np.isnan(pick(logits, SamplingParams(0.9), np.full(20, 0.5)).logprobs).all()


@pytest.mark.parametrize(
    "params", [SamplingParams(), SamplingParams(top_k=5), SamplingParams(0.7, top_p=0.8)]
)
def test_rows_of_several_threads_are_as_alone(params, monkeypatch):
    rng = np.random.default_rng(2)
    logits, u = rng.normal(0, 3, (40, 700)).astype(np.float32), rng.random(40)
    ids = rng.integers(0, 700, 40)
    alone = [pick(logits[i : i + 1], params, u[i : i + 1]) for i in range(40)]
    logprobs = [log_probabilities(logits[i : i + 1], ids[i : i + 1]) for i in range(40)]
    monkeypatch.setattr(sampling, "LOGITS_PER_THREAD", 1000)
    monkeypatch.setattr(sampling.os, "cpu_count", lambda: 4)
    together = pick(logits, params, u)
    for actual, each in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_array_equal(actual, np.concatenate(each))
    np.testing.assert_array_equal(log_probabilities(logits, ids), np.concatenate(logprobs))
