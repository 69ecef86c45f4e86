"""The exact vote's masses against all texts of a small vocabulary, computed one by one."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import numpy_llama
from tiny import TINY, make_engine, random_weights

from gentool.config.sampling import SamplingParams
from gentool.decoding import exact, tree
from gentool.decoding.filters import adjusted, weights

SIX = TINY.model_copy(update={"n_vocab": 6})
PROMPT = [1, 4, 2, 4]
END = frozenset({5})


@cache
def arrays(seed):
    return random_weights(SIX, seed)


@cache
def model(seed):
    return make_engine(SIX, arrays(seed))


def stops(ids):
    return ids[-2:] == (2, 2)


@cache
def after(seed, ids):
    return numpy_llama.logits(SIX, arrays(seed), [*PROMPT, *ids])[-1].astype(np.float32)


def by_hand(seed, params, min_new_tokens, max_new_tokens, ids=(), mass=1.0):
    """All texts (ids, whether they end by themselves) and their probability."""
    logits = adjusted(after(seed, ids)[None], params, [PROMPT], [ids])[0].copy()
    if len(ids) < min_new_tokens:
        logits[list(END)] = -np.inf
    w = weights(logits, params)
    leaves = {}
    for token in np.flatnonzero(w).tolist():
        text, p = (*ids, token), mass * w[token] / w.sum()
        ended = token in END or (stops(text) and len(text) >= min_new_tokens)
        if ended or len(text) == max_new_tokens:
            leaves[text, ended] = p
        else:
            leaves |= by_hand(seed, params, min_new_tokens, max_new_tokens, text, p)
    return leaves


def expansion(seed, params, min_new_tokens, max_new_tokens):
    engine = model(seed)
    prefix, logits = engine.prefill(PROMPT)

    def adjust(scores, prompts, outputs):
        return adjusted(scores, params, [PROMPT] * len(outputs), outputs)

    def over(ids):
        return stops(ids) and len(ids) >= min_new_tokens

    root = tree.Root(prefix, logits[0], 0, adjust, over, max_new_tokens)
    return exact.Expansion(root, 0, tree.TreeOptions(params, END, min_new_tokens, max_new_tokens))


@settings(max_examples=20)
@given(
    seed=st.integers(1, 2),
    temperature=st.sampled_from([0.3, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 3]),
    top_p=st.sampled_from([1.0, 0.9]),
    penalty=st.sampled_from([1.0, 1.2]),
    min_new_tokens=st.sampled_from([0, 2]),
    max_new_tokens=st.integers(1, 4),
)
def test_masses_equal_brute_force(
    seed, temperature, top_k, top_p, penalty, min_new_tokens, max_new_tokens
):
    params = SamplingParams(temperature, top_k, top_p, repetition_penalty=penalty)
    grown, leaves = expansion(seed, params, min_new_tokens, max_new_tokens), []
    while not grown.complete:
        leaves += exact.expand(model(seed), [grown], [10**6])
        # what was found and what was not is all there is, after every step
        assert sum(leaf.mass for leaf in leaves) + grown.unseen == pytest.approx(1, abs=1e-12)
        # and so is what is found and the frontier
        frontier = sum(mass for _, _, mass in grown.frontier())
        assert frontier == pytest.approx(grown.unseen, abs=1e-12)
    assert grown.unseen == pytest.approx(0, abs=1e-12)
    expected = by_hand(seed, params, min_new_tokens, max_new_tokens)
    masses = {(leaf.ids, leaf.finished): leaf.mass for leaf in leaves}
    assert len(masses) == len(leaves)
    assert masses == pytest.approx(expected, abs=2e-5, rel=2e-4)  # logits differ by 1e-5
    assert grown.computed == len({ids[:end] for ids, _ in expected for end in range(1, len(ids))})


def test_the_most_probable_comes_first():
    """Nothing that is left is more probable than what a batch could have held instead."""
    grown = expansion(1, SamplingParams(1.0), 0, 4)
    leaves = []
    while not grown.complete:
        leaves += exact.expand(model(1), [grown], [1])
    masses = [leaf.mass for leaf in leaves]
    expected = sorted(by_hand(1, SamplingParams(1.0), 0, 4).values(), reverse=True)
    assert masses == pytest.approx(expected, rel=2e-4)  # one prefix at a time: exactly in order


def test_several_prompts_grow_together():
    alone = expansion(2, SamplingParams(1.0), 0, 3)
    exact.expand(model(2), [alone], [16])
    one, other = expansion(2, SamplingParams(1.0), 0, 3), expansion(2, SamplingParams(0.5), 0, 3)
    exact.expand(model(2), [one, other], [16, 1])
    assert one.unseen == pytest.approx(alone.unseen, abs=1e-6)
    assert other.computed == 1 and one.computed == alone.computed


def test_the_mass_of_dropped_tokens_is_counted(monkeypatch):
    monkeypatch.setattr(exact, "MAX_NODE_TOKENS", 2)
    grown, leaves = expansion(3, SamplingParams(2.0), 0, 3), []
    while not grown.complete:
        leaves += exact.expand(model(3), [grown], [10**6])
    total = sum(leaf.mass for leaf in leaves)
    assert grown.unseen > 0.01
    assert total + grown.unseen == pytest.approx(1, abs=1e-12)


def test_prefixes_are_computed_in_batches(monkeypatch):
    """Also where no one of them is much more probable than the others."""
    calls = []
    extend = model(0).extend
    monkeypatch.setattr(
        model(0), "extend", lambda *args, **more: calls.append(1) or extend(*args, **more)
    )
    grown = expansion(0, SamplingParams(50.0), 0, 4)
    while not grown.complete:
        exact.expand(model(0), [grown], [10**6])
    assert grown.computed > 100 and len(calls) < grown.computed / 8


def test_a_tree_does_not_depend_on_the_other_trees():
    """To the bit, where that is asked for."""

    engine = replace(model(2), batch_invariant=True)

    def masses(*beside):
        mine = expansion(2, SamplingParams(1.0), 0, 4)
        trees = [mine, *beside]
        for index, one in enumerate(trees):
            one.index = index
        leaves = []
        while not mine.complete:
            leaves += exact.expand(engine, trees, [10**6] * len(trees))
        return [(leaf.ids, leaf.mass) for leaf in leaves if leaf.root == 0]

    assert masses() == masses(
        expansion(2, SamplingParams(0.7), 0, 3), expansion(2, SamplingParams(3.0), 2, 4)
    )


def test_a_prefix_without_allowed_tokens_is_a_leaf():
    grown = expansion(1, SamplingParams(1.0), 0, 3)

    def adjust(scores, prompts, outputs):
        return np.full_like(scores, -np.inf) if outputs[0] else scores

    grown = exact.Expansion(grown.root._replace(adjust=adjust), 0, grown.options)
    leaves = []
    while not grown.complete:
        leaves += exact.expand(model(1), [grown], [10**6])
    assert sum(leaf.mass for leaf in leaves) == pytest.approx(1, abs=1e-12)
    assert {leaf.finished for leaf in leaves if leaf.ids != (5,)} == {False}
