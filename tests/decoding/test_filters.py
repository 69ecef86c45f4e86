"""Filters against Hugging Face's own on the golden rows, against plain definitions that sort
everything, and on distributions worked out by hand."""

import itertools
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentool.config.sampling import SamplingParams
from gentool.decoding.filters import adjusted, top_k, top_p, typical_p, weights
from gentool.decoding.sampling import draw

GOLDEN = np.load(Path(__file__).parents[1] / "golden/sampling/hf_processors.npz")
CONFIGURATIONS = sorted({name.split("/")[0] for name in GOLDEN if "/" in name})
FIELDS = {
    "T": "temperature",
    "k": "top_k",
    "p": "top_p",
    "minp": "min_p",
    "rep": "repetition_penalty",
    "ngram": "no_repeat_ngram_size",
}
EXTREME = {  # the limits of every parameter that changes a logit or divides it
    "temperature": (5e-324, 1e9),
    "repetition_penalty": (1e-9, 1e9),
    "presence_penalty": (-1e9, 1e9),
    "frequency_penalty": (-1e9, 1e9),
    "logit_bias": ({0: -1e9}, {0: 1e9, 1: -1e9}),
}
TIES = 3  # the golden row of many equal logits
LAST = 1 - 2.0**-53


def params_of(configuration: str) -> SamplingParams:
    """T0.8_k8_p0.9 -> SamplingParams(temperature=0.8, top_k=8, top_p=0.9), in order."""
    if configuration == "none":
        return SamplingParams()
    parts = [re.fullmatch(r"([a-zT]+)([\d.]+)", part).groups() for part in configuration.split("_")]
    return SamplingParams(
        **{FIELDS[name]: type(getattr(SamplingParams(), FIELDS[name]))(x) for name, x in parts}
    )


def golden_rows(params):
    """The processed logits of all golden rows, histories split one way and the other."""
    texts = [
        ids[:length].tolist()
        for ids, length in zip(GOLDEN["history"], GOLDEN["history_len"], strict=True)
    ]
    empty = [[]] * len(texts)
    whole = adjusted(GOLDEN["logits"], params, texts, empty)
    np.testing.assert_array_equal(whole, adjusted(GOLDEN["logits"], params, empty, texts))
    return weights(whole, params)


@pytest.mark.parametrize("configuration", sorted({*CONFIGURATIONS} - {"k5_p0.9_min3"}))
def test_kept_sets_and_probabilities_are_hugging_faces(configuration):
    for index, w in enumerate(golden_rows(params_of(configuration))):
        kept = GOLDEN[f"{configuration}/{index}/kept"]
        probabilities = GOLDEN[f"{configuration}/{index}/probs"]
        if index == TIES:  # which of equals top-p keeps is ours to say
            assert (w > 0).sum() == kept.sum()
            w, probabilities = np.sort(w), np.sort(probabilities)
        else:
            np.testing.assert_array_equal(w > 0, kept)
        np.testing.assert_allclose(w / w.sum(), probabilities, rtol=2e-6)


def test_hugging_faces_min_tokens_to_keep_is_not_ours():
    # top-k 5, then top-p 0.3, in Hugging Face with min_tokens_to_keep=3
    for index, w in enumerate(golden_rows(SamplingParams(top_k=5, top_p=0.3))):
        if index != TIES:
            best = np.argsort(-GOLDEN["logits"][index], kind="stable")[:3]
            expected = np.union1d(best, np.flatnonzero(w))
            kept = np.flatnonzero(GOLDEN[f"k5_p0.9_min3/{index}/kept"])
            np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize("configuration", ["rep1.3", "rep0.8", "ngram1", "ngram2", "ngram3"])
def test_where_the_prompt_ends_does_not_matter_to_repetition(configuration):
    params = params_of(configuration)
    for index, length in enumerate(GOLDEN["history_len"]):
        text = GOLDEN["history"][index, :length].tolist()
        for split in range(length + 1):
            out = adjusted(GOLDEN["logits"][[index]], params, [text[:split]], [text[split:]])
            expected = GOLDEN[f"{configuration}/{index}/scores"]
            np.testing.assert_allclose(out[0], expected, rtol=1e-6)


# Plain definitions: one row, everything sorted, softmax after every filter.


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def without(x, removed):
    return np.where(removed, -np.inf, x)


def first_to_reach(order, p, mass):
    """How many of the probabilities p, taken in an order, reach a mass."""
    total = 0.0
    for count, id in enumerate(order, 1):
        total += p[id]
        if total >= mass:
            return count
    return len(order)


def plain_adjusted(x, params, prompt, output):
    x = x.astype(np.float64)
    text = [*prompt, *output]
    for id in set(text):
        x[id] = (
            x[id] / params.repetition_penalty if x[id] > 0 else x[id] * params.repetition_penalty
        )
    for id, count in Counter(output).items():
        x[id] -= params.presence_penalty
        x[id] -= params.frequency_penalty * count
    if n := params.no_repeat_ngram_size:
        grams = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
        context = tuple(text[len(text) - n + 1 :])
        for id in range(len(x)):
            if (*context, id) in grams:
                x[id] = -np.inf
    for id, bias in params.logit_bias.items():
        x[id] += bias
    return x


def plain_probabilities(x, params):
    x = x.astype(np.float64) / params.temperature
    if params.top_k:
        x = without(x, x < np.sort(x)[::-1][: params.top_k][-1])
    if params.top_p < 1:
        order = sorted(range(len(x)), key=lambda id: (-x[id], id))
        count = first_to_reach(order, softmax(x), params.top_p)
        x = without(x, ~np.isin(np.arange(len(x)), order[:count]))
    if params.min_p:
        p = softmax(x)
        x = without(x, p < params.min_p * p.max())
    if params.typical_p < 1:
        p = softmax(x)
        information = np.array([-math.log(y) if y else math.inf for y in p])
        entropy = sum(y * i for y, i in zip(p, information, strict=True) if y)
        distance = np.abs(information - entropy)
        order = sorted(range(len(x)), key=lambda id: distance[id])
        crossing = order[first_to_reach(order, p, params.typical_p) - 1]
        x = without(x, distance > distance[crossing] + 1e-12)
    return softmax(x)


@st.composite
def rows(draw_, sizes=(1, 2, 7, 50, 600, 3000)):
    """Logits [V] in steps of 1/8, so with ties, some -inf, at least one finite."""
    size = draw_(st.sampled_from(sizes))
    rng = np.random.default_rng(draw_(st.integers(0, 2**32)))
    x = np.round(rng.normal(size=size) * draw_(st.sampled_from([0.05, 1, 4, 30])) * 8) / 8
    x[rng.random(size) < draw_(st.sampled_from([0, 0.3, 0.99]))] = -np.inf
    x[rng.integers(size)] = 1
    return x.astype(np.float32)


shares = st.integers(0, 99).map(lambda x: (x + 1 / math.pi) / 100)  # no sum lies exactly on one
temperatures = st.sampled_from([0.3, 0.7, 1.0, 1.7])
filters = st.tuples(
    temperatures,
    st.integers(0, 60),
    st.just(1.0) | shares,
    st.just(0.0) | shares,
    st.just(1.0) | shares,
).map(lambda values: SamplingParams(*values))  # of st.builds the fields left out would be drawn too


@given(rows(), filters)
def test_weights_are_the_plain_definitions(x, params):
    w, expected = weights(x, params), plain_probabilities(x, params)
    np.testing.assert_array_equal(w > 0, expected > 0)
    np.testing.assert_allclose(w / w.sum(), expected, rtol=1e-9)


@given(
    st.lists(st.integers(0, 6), max_size=12),
    st.lists(st.integers(0, 6), max_size=12),
    st.tuples(
        st.sampled_from([0.8, 1.0, 1.3]),
        st.sampled_from([-1.0, 0.0, 0.5]),
        st.sampled_from([-0.5, 0.0, 2.0]),
        st.integers(0, 4),
        st.dictionaries(st.integers(0, 6), st.floats(-100, 100), max_size=3),
    ).map(lambda values: SamplingParams(1.0, 0, 1.0, 0.0, 1.0, *values)),
    rows([7]),
)
def test_adjusted_is_the_plain_definition(prompt, output, params, x):
    expected = plain_adjusted(x, params, prompt, output)
    if np.isfinite(expected).any():
        out = adjusted(x[None], params, [prompt], [output])[0]
        np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)


# By hand.


def test_temperature_divides_before_the_filters():
    w = weights(np.log([0.5, 0.25, 0.25]).astype(np.float32), SamplingParams(temperature=0.5))
    np.testing.assert_allclose(w / w.sum(), [4 / 6, 1 / 6, 1 / 6], rtol=1e-6)


def test_top_k_keeps_ties_of_the_kth():
    assert top_k(np.array([3.0, 1, 2, 2]), 2).tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("p", "kept"),
    [(0.3, [0, 1, 0, 0]), (0.5, [0, 1, 0, 0]), (0.51, [0, 1, 1, 0]), (0.9, [0, 1, 1, 1])],
)
def test_top_p_keeps_the_token_that_crosses(p, kept):
    assert top_p(np.array([0.05, 0.5, 0.3, 0.15]), p).astype(bool).tolist() == kept


@pytest.mark.parametrize("size", [4, 5000])
def test_top_p_takes_the_lower_ids_of_equals(size):
    assert np.flatnonzero(top_p(np.ones(size), 0.5)).tolist() == list(range(size // 2))


def test_min_p_is_relative_to_the_filtered_maximum():
    # of 0.6, 0.2, 0.15, 0.05 the first three reach 0.9; 0.15 is a quarter of 0.6
    logits = np.log([0.6, 0.2, 0.15, 0.05])
    assert weights(logits, SamplingParams(top_p=0.9, min_p=0.26)).astype(bool).tolist() == [
        1,
        1,
        0,
        0,
    ]
    assert weights(logits, SamplingParams(top_p=0.9, min_p=0.24)).astype(bool).tolist() == [
        1,
        1,
        1,
        0,
    ]


def test_typical_leaves_out_what_is_too_probable():
    # the entropy is 1.61: 0.1 (2.30) is nearer to it than 0.5 (0.69)
    w = np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert typical_p(w, 0.4).astype(bool).tolist() == [0, 1, 1, 1, 1, 1]
    assert typical_p(w, 0.6).astype(bool).tolist() == [1, 1, 1, 1, 1, 1]


def test_repetition_counts_the_prompt_and_presence_does_not():
    params = SamplingParams(repetition_penalty=2, presence_penalty=0.5, frequency_penalty=0.25)
    out = adjusted(np.float32([[4, -4, 4, 4]]), params, [[0, 0, 1]], [[2, 2, 2]])
    assert out.tolist() == [[2, -8, 2 - 0.5 - 0.75, 4]]


def test_bias_does_not_undo_a_ban():
    params = SamplingParams(no_repeat_ngram_size=1, logit_bias={0: 100.0, 2: -math.inf, 1: 2.0})
    assert adjusted(np.zeros((1, 3)), params, [[0]], [[]]).tolist() == [[-math.inf, 2, -math.inf]]


def test_a_row_that_loses_everything_keeps_its_most_probable_token():
    params = SamplingParams(no_repeat_ngram_size=1)
    out = adjusted(np.float32([[1, 3, 2], [1, 3, 2]]), params, [[0, 1], [2]], [[2], []])
    assert weights(out, params).astype(bool).tolist() == [[0, 1, 0], [1, 1, 0]]
    assert weights(np.full((1, 3), -np.inf), SamplingParams(top_k=2, top_p=0.5)).tolist() == [
        [1, 0, 0]
    ]


def test_without_penalties_the_logits_are_returned():
    logits = np.float32([[1, 2]])
    assert adjusted(logits, SamplingParams(0.5, 3, 0.9, 0.1, 0.9), [[0]], [[1]]) is logits


def test_arguments_are_not_changed():
    logits = np.array([[1.0, 2, 3]])
    weights(logits, SamplingParams(temperature=0.5, top_k=1))
    adjusted(logits, SamplingParams(repetition_penalty=2), [[0]], [[1]])
    assert logits.tolist() == [[1, 2, 3]]


# Laws.


@given(st.lists(rows([7]), min_size=2, max_size=5), filters)
def test_a_row_does_not_depend_on_the_others(some, params):
    params = replace(params, repetition_penalty=1.2, no_repeat_ngram_size=2, frequency_penalty=0.1)
    x = np.stack(some)
    prompts, outputs = [[i % 7, 1] for i in range(len(x))], [[1, i % 7, 1] for i in range(len(x))]
    w = weights(adjusted(x, params, prompts, outputs), params)
    turned = weights(adjusted(x[::-1], params, prompts[::-1], outputs[::-1]), params)
    np.testing.assert_array_equal(turned, w[::-1])
    alone = weights(adjusted(x[:1], params, prompts[:1], outputs[:1]), params)
    np.testing.assert_array_equal(alone, w[:1])


@given(rows(), temperatures)
def test_neutral_values_change_nothing(x, temperature):
    plain = np.exp((x.astype(np.float64) - x.max()) / temperature)
    for k in (0, len(x), len(x) + 1):
        np.testing.assert_array_equal(
            weights(x, SamplingParams(temperature, k, 1.0, 0.0, 1.0)), plain
        )


@given(rows())
def test_top_k_one_is_greedy_where_the_maximum_is_unique(x):
    best = np.flatnonzero(x == x.max())
    assert np.flatnonzero(weights(x, SamplingParams(top_k=1))).tolist() == best.tolist()
    assert best[0] == x.argmax()


@given(rows(), filters)
def test_each_filter_keeps_a_subset(x, params):
    steps = ["temperature", "top_k", "top_p", "min_p", "typical_p"]
    kept = np.isfinite(x)
    for count in range(1, len(steps) + 1):
        w = weights(x, SamplingParams(**{name: getattr(params, name) for name in steps[:count]}))
        assert (w >= 0).all() and w.sum() > 0
        assert not ((w > 0) & ~kept).any()
        kept = w > 0


@given(rows(), st.integers(-1000, 1000), st.integers(0, 60), shares)
def test_adding_a_constant_changes_nothing(x, constant, k, p):
    np.testing.assert_array_equal(
        weights(x, SamplingParams(top_k=k, top_p=p)),
        weights(x + np.float32(constant), SamplingParams(top_k=k, top_p=p)),
    )


@given(rows(), st.floats(0.01, 0.999))
def test_top_p_is_the_smallest_set_that_reaches_p(x, p):
    w = weights(x, SamplingParams())
    kept = top_p(w, p)
    mass, need = kept.sum(), p * w.sum()
    assert mass >= need * (1 - 1e-12)
    assert mass - kept[kept > 0].min() < need * (1 + 1e-12)
    assert kept[kept > 0].min() >= w[kept == 0].max(initial=0)


@given(rows(), filters)
def test_extreme_u_gives_tokens_of_positive_probability(x, params):
    w = weights(x, params)
    assert draw(np.cumsum(w), 0.0) == np.flatnonzero(w)[0]
    assert w[draw(np.cumsum(w), LAST)] > 0


@pytest.mark.parametrize("scale", [0.1, 2.0, 5.0])
def test_a_large_vocabulary_is_filtered_as_if_it_were_sorted(scale):
    x = (np.random.default_rng(0).normal(size=152_000) * scale).astype(np.float32)
    order = np.argsort(-x, kind="stable")
    assert sorted(order[:50]) == np.flatnonzero(weights(x, SamplingParams(top_k=50))).tolist()
    reached = np.cumsum(weights(x, SamplingParams())[order])
    count = np.searchsorted(reached, 0.9 * reached[-1]) + 1
    assert sorted(order[:count]) == np.flatnonzero(weights(x, SamplingParams(top_p=0.9))).tolist()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [*itertools.product(*EXTREME.values())], ids=str)
def test_at_the_limits_of_all_parameters_a_token_is_drawn(values: tuple[object, ...]) -> None:
    """No sum or product overflows: reported as an IndexError of the draw, with numpy's warnings."""
    params = SamplingParams(**dict(zip(EXTREME, values, strict=True)))
    logits = np.array([[30.0, -30.0, 0.0, 5.0]], np.float32)
    w = weights(adjusted(logits, params, [[0, 1, 1]], [[1, 2, 2]]), params)[0]
    assert np.isfinite(w).all() and w.max() == 1
