"""A vote's samples as a tree: the texts of independent rows, by as few prefixes as there are."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY, make_engine, random_weights

from gentool.config.sampling import SamplingParams
from gentool.decoding import loop, tree
from gentool.decoding.filters import adjusted

PROMPTS = [[5, 9, 5, 9, 5], list(range(20)), [7]]
END = frozenset({3, 40})
MOST = 5


@cache
def model(seed):
    """One of them compiled."""
    return replace(make_engine(TINY, random_weights(TINY, seed)), batch_invariant=True)


def stops(ids):
    """A text-level stop: two tokens that together end a text."""
    return len(ids) > 1 and (ids[-2] + ids[-1]) % 7 == 0


def root(engine, ids, params, row=0, max_new_tokens=MOST, stops=stops):
    prefix, logits = engine.prefill(ids)

    def adjust(scores, prompts, outputs):
        return adjusted(scores, params, [ids] * len(outputs), outputs)

    return tree.Root(prefix, logits[0], row, adjust, stops, max_new_tokens)


def options(params, min_new_tokens=0, end=END, max_new_tokens=MOST):
    return tree.TreeOptions(params, end, min_new_tokens, max_new_tokens)


def texts(leaves):
    """Sample -> its ids, of one root."""
    return {sample: leaf.ids for leaf in leaves for sample in leaf.samples}


def drawn(engine, roots, samples, options, seed=1, strata=0, closed=None, **more):
    levels = tree.sample(engine, roots, samples, options, seed, strata, closed or set(), **more)
    return list(levels)


def independent(engine, prompt, row, n, params, seed, strata, min_new_tokens):
    """The same samples by the decode loop, a row each."""
    prefix, logits = engine.prefill(prompt)
    options = loop.DecodeOptions(params, seed, MOST, min_new_tokens, END, strata)
    decoding = loop.DecodeLoop(engine, options)
    decoding.add(
        loop.Prompt(np.array(prompt), prefix, logits[0], MOST),
        [loop.Sample(row, sample) for sample in range(n)],
    )
    actual = [[] for _ in range(n)]
    while not decoding.done:
        for token in decoding.step():
            actual[token.row].append(token.id)
            if stops(actual[token.row]):
                decoding.stop(token.row)
    return {sample: tuple(ids) for sample, ids in enumerate(actual)}


PARAMS = st.builds(
    lambda **fields: SamplingParams(**fields),  # what is not named keeps its default
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 2, 5]),
    top_p=st.sampled_from([1.0, 0.8]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    no_repeat_ngram_size=st.sampled_from([0, 2]),
)


@settings(max_examples=25)
@given(
    weights=st.integers(0, 2),
    prompt=st.sampled_from(PROMPTS),
    row=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
    seed=st.integers(0, 2**63 - 1),
    params=PARAMS,
    stratified=st.booleans(),
    min_new_tokens=st.sampled_from([0, 3]),
)
def test_the_texts_are_those_of_independent_rows(
    weights, prompt, row, n, seed, params, stratified, min_new_tokens
):
    engine, strata = model(weights), n if stratified else 0
    levels = drawn(
        engine,
        [root(engine, prompt, params, row)],
        range(n),
        options(params, min_new_tokens),
        seed,
        strata,
    )
    leaves = [leaf for level in levels for leaf in level.leaves]
    actual = texts(leaves)
    expected = independent(engine, prompt, row, n, params, seed, strata, min_new_tokens)
    assert actual == expected
    assert len({leaf.ids for leaf in leaves}) == len(leaves)  # a text is one leaf


@settings(max_examples=15)
@given(n=st.integers(1, 60), seed=st.integers(0, 99), wide=st.booleans())
def test_extend_computes_the_distinct_unfinished_prefixes(n, seed, wide):
    engine, params = model(0), SamplingParams(2.0 if wide else 0.5)
    computed = []
    extend = engine.extend

    def counted(prefixes, tail, owner, parents, tokens, **more):
        computed.append(len(tokens))
        return extend(prefixes, tail, owner, parents, tokens, **more)

    engine.extend = counted
    try:
        levels = drawn(engine, [root(engine, PROMPTS[0], params)], range(n), options(params), seed)
    finally:
        del engine.extend
    samples = texts(leaf for level in levels for leaf in level.leaves).values()
    distinct = {ids[:end] for ids in samples for end in range(1, len(ids))}
    assert sum(computed) == len(distinct) == sum(int(level.nodes[0]) for level in levels)
    assert sum(int(level.rows[0]) for level in levels) == sum(len(ids) - 1 for ids in samples)


def test_masses_are_those_of_the_sampling_distribution():
    """A leaf's mass is the product of the shares its tokens have; those of all texts sum to 1."""
    engine, params = model(1), SamplingParams(1.0, top_k=2)
    levels = drawn(engine, [root(engine, PROMPTS[2], params)], range(400), options(params), 5)
    leaves = [leaf for level in levels for leaf in level.leaves]
    assert sum(leaf.mass for leaf in leaves) == pytest.approx(1, abs=0.02)  # few texts are missed
    for leaf in leaves:
        share = len(leaf.samples) / 400
        assert abs(share - leaf.mass) < 5 * np.sqrt(leaf.mass * (1 - leaf.mass) / 400) + 1e-9


def test_samples_of_a_prompt_do_not_depend_on_the_batch():
    engine, params = model(2), SamplingParams(1.0)
    roots = [root(engine, ids, params, row) for row, ids in enumerate(PROMPTS)]
    together = drawn(engine, roots, range(10), options(params))
    for index, one in enumerate(roots):
        mine = [leaf for level in together for leaf in level.leaves if leaf.root == index]
        alone = drawn(engine, [one], range(10), options(params))
        assert texts(mine) == texts(leaf for level in alone for leaf in level.leaves)


def test_a_closed_prompt_is_computed_no_further():
    engine, params, closed = model(2), SamplingParams(1.5), set()
    roots = [root(engine, ids, params, row) for row, ids in enumerate(PROMPTS[:2])]
    levels = []
    for level in tree.sample(engine, roots, range(20), options(params), 1, 0, closed):
        levels.append(level)
        closed.add(0)
    assert all(level.nodes[0] == 0 for level in levels[1:])
    assert sum(len(leaf.samples) for level in levels for leaf in level.leaves if leaf.root) == 20


def test_samples_begin_with_their_forced_prefixes():
    engine, params = model(0), SamplingParams(1.0)
    given = [(9, 8), (9, 8), (50,), (3,)]  # the last is an end
    one = root(engine, PROMPTS[0], params, stops=lambda ids: False)
    levels = drawn(engine, [one], range(4), options(params), forced=tree.ForcedPrefixes(given))
    actual = [leaf for level in levels for leaf in level.leaves]
    for leaf in actual:
        for sample in leaf.samples:
            assert leaf.ids[: len(given[sample])] == given[sample]
    ended = next(leaf for leaf in actual if leaf.samples == (3,))
    assert ended.ids == (3,) and ended.finished and ended.mass == 1.0


def test_excluded_tokens_are_not_drawn():
    """After just these tokens; what others are given there is not touched."""
    engine, params = model(0), SamplingParams(1.0, top_k=3)
    one = root(engine, PROMPTS[0], params, stops=lambda ids: False)
    first = drawn(engine, [one], range(50), options(params))
    allowed = sorted({ids[0] for ids in texts(x for lv in first for x in lv.leaves).values()})
    excluded = {(): np.array(allowed[:1])}
    forced = tree.ForcedPrefixes([()] * 49 + [(allowed[0],)], excluded)
    levels = drawn(engine, [one], range(50), options(params), forced=forced)
    actual = texts(leaf for level in levels for leaf in level.leaves)
    assert {ids[0] for sample, ids in actual.items() if sample < 49} == set(allowed[1:])
    assert actual[49][0] == allowed[0]


def test_a_prefix_without_allowed_tokens_is_an_unfinished_leaf():
    engine, params = model(1), SamplingParams(1.0)

    def adjust(scores, prompts, outputs):
        return np.full_like(scores, -np.inf) if outputs[0] else scores

    one = root(engine, PROMPTS[0], params)._replace(adjust=adjust, stops=lambda ids: False)
    levels = drawn(engine, [one], range(8), options(params, end=frozenset()))
    leaves = [leaf for level in levels for leaf in level.leaves]
    assert all(len(leaf.ids) == 1 and not leaf.finished for leaf in leaves)
    assert sum(len(leaf.samples) for leaf in leaves) == 8
