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

from gentool.decoding import exact, tree
from gentool.decoding.filters import Law, adjusted, weights
from gentool.runtimes.xla import backend

SIX = TINY.model_copy(update={"n_vocab": 6})
PROMPT = [1, 4, 2, 4]
END = frozenset({5})


@cache
def arrays(seed):
    return random_weights(SIX, seed)


@cache
def model(seed):
    return make_engine(SIX, arrays(seed), backend.GRAPH)


def stops(ids):
    return ids[-2:] == (2, 2)


@cache
def after(seed, ids):
    return numpy_llama.logits(SIX, arrays(seed), [*PROMPT, *ids])[-1].astype(np.float32)


def by_hand(seed, law, least, most, ids=(), mass=1.0):
    """All texts (ids, whether they end by themselves) and their probability."""
    logits = adjusted(after(seed, ids)[None], law, [PROMPT], [ids])[0].copy()
    if len(ids) < least:
        logits[list(END)] = -np.inf
    w = weights(logits, law)
    found = {}
    for token in np.flatnonzero(w).tolist():
        text, p = (*ids, token), mass * w[token] / w.sum()
        ended = token in END or (stops(text) and len(text) >= least)
        if ended or len(text) == most:
            found[text, ended] = p
        else:
            found |= by_hand(seed, law, least, most, text, p)
    return found


def expansion(seed, law, least, most):
    engine = model(seed)
    prefix, logits = engine.prefill(PROMPT)

    def adjust(scores, prompts, outputs):
        return adjusted(scores, law, [PROMPT] * len(outputs), outputs)

    def over(ids):
        return stops(ids) and len(ids) >= least

    root = tree.Root(prefix, logits[0], 0, adjust, over, most)
    return exact.Expansion(root, 0, tree.TreeOptions(law, END, least, most))


@settings(max_examples=20)
@given(
    seed=st.integers(1, 2),
    temperature=st.sampled_from([0.3, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 3]),
    top_p=st.sampled_from([1.0, 0.9]),
    penalty=st.sampled_from([1.0, 1.2]),
    least=st.sampled_from([0, 2]),
    most=st.integers(1, 4),
)
def test_masses_equal_brute_force(seed, temperature, top_k, top_p, penalty, least, most):
    law = Law(temperature, top_k, top_p, repetition_penalty=penalty)
    grown, found = expansion(seed, law, least, most), []
    while not grown.complete:
        found += exact.expand(model(seed), [grown], [10**6])
        # what was found and what was not is all there is, after every step
        assert sum(leaf.mass for leaf in found) + grown.unseen == pytest.approx(1, abs=1e-12)
        # and so is what is found and the frontier
        frontier = sum(mass for _, _, mass in grown.frontier())
        assert frontier == pytest.approx(grown.unseen, abs=1e-12)
    assert grown.unseen == pytest.approx(0, abs=1e-12)
    wanted = by_hand(seed, law, least, most)
    masses = {(leaf.ids, leaf.finished): leaf.mass for leaf in found}
    assert len(masses) == len(found)
    assert masses == pytest.approx(wanted, abs=2e-5, rel=2e-4)  # logits differ by 1e-5
    assert grown.computed == len({ids[:end] for ids, _ in wanted for end in range(1, len(ids))})


def test_the_most_probable_comes_first():
    """Nothing that is left is more probable than what a batch could have held instead."""
    grown = expansion(1, Law(1.0), 0, 4)
    found = []
    while not grown.complete:
        found += exact.expand(model(1), [grown], [1])
    masses = [leaf.mass for leaf in found]
    wanted = sorted(by_hand(1, Law(1.0), 0, 4).values(), reverse=True)
    assert masses == pytest.approx(wanted, rel=2e-4)  # one prefix at a time: exactly in order


def test_several_prompts_grow_together():
    alone = expansion(2, Law(1.0), 0, 3)
    exact.expand(model(2), [alone], [16])
    one, other = expansion(2, Law(1.0), 0, 3), expansion(2, Law(0.5), 0, 3)
    exact.expand(model(2), [one, other], [16, 1])
    assert one.unseen == pytest.approx(alone.unseen, abs=1e-6)
    assert other.computed == 1 and one.computed == alone.computed


def test_a_large_vocabulary_keeps_count_of_what_it_forgets(monkeypatch):
    monkeypatch.setattr(exact, "MAX_NODE_TOKENS", 2)
    grown, found = expansion(3, Law(2.0), 0, 3), []
    while not grown.complete:
        found += exact.expand(model(3), [grown], [10**6])
    total = sum(leaf.mass for leaf in found)
    assert grown.unseen > 0.01
    assert total + grown.unseen == pytest.approx(1, abs=1e-12)


def test_prefixes_are_computed_in_batches(monkeypatch):
    """Also where no one of them is much more probable than the others."""
    calls = []
    extend = model(0).extend
    monkeypatch.setattr(
        model(0), "extend", lambda *args, **more: calls.append(1) or extend(*args, **more)
    )
    grown = expansion(0, Law(50.0), 0, 4)
    while not grown.complete:
        exact.expand(model(0), [grown], [10**6])
    assert grown.computed > 100 and len(calls) < grown.computed / 8


def test_a_tree_does_not_depend_on_those_beside_it():
    """To the bit, where that is asked for."""

    engine = replace(model(2), batch_invariant=True)

    def masses(*beside):
        mine = expansion(2, Law(1.0), 0, 4)
        trees = [mine, *beside]
        for index, one in enumerate(trees):
            one.index = index
        found = []
        while not mine.complete:
            found += exact.expand(engine, trees, [10**6] * len(trees))
        return [(leaf.ids, leaf.mass) for leaf in found if leaf.root == 0]

    assert masses() == masses(expansion(2, Law(0.7), 0, 3), expansion(2, Law(3.0), 2, 4))


def test_what_nothing_may_follow_gives_its_mass_back():
    grown = expansion(1, Law(1.0), 0, 3)

    def adjust(scores, prompts, outputs):
        return np.full_like(scores, -np.inf) if outputs[0] else scores

    grown = exact.Expansion(grown.root._replace(adjust=adjust), 0, grown.options)
    found = []
    while not grown.complete:
        found += exact.expand(model(1), [grown], [10**6])
    assert sum(leaf.mass for leaf in found) == pytest.approx(1, abs=1e-12)
    assert {leaf.finished for leaf in found if leaf.ids != (5,)} == {False}
