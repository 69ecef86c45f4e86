"""Masses of choices against each choice scored by itself, and against sums that must be one."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY, make_engine, random_weights

from gentool.decoding import choices, scoring
from gentool.decoding.sampling import normalized
from gentool.errors import UsageError

IDS = np.random.default_rng(11).integers(0, TINY.n_vocab, 20).tolist()
TOLERANCE = 1e-4  # 1e-5 of the largest logit, which is above 10 in these models
LAST = 1 - 2.0**-53

sets = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple),
    min_size=1,
    max_size=9,
    unique=True,
)
ends = st.none() | st.frozensets(st.integers(0, TINY.n_vocab - 1), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def prompt(engine):
    return engine.prefill(IDS)


def alone(engine, choice, end):
    """The mass of a choice by scoring prompt and choice as one text."""
    own = scoring.score(engine, [*IDS, *choice], TINY.n_ctx, 1, 0)[len(IDS) - 1 :].sum()
    if end is None:
        return own
    _, logits = engine.prefill([*IDS, *choice])
    return own + math.log(np.exp(normalized(logits[0])[sorted(end)]).sum())


@settings(max_examples=20)
@given(sets, ends, st.booleans())
def test_masses_are_those_of_each_choice_alone(plain, chosen, end, invariant):
    engine = replace(plain, batch_invariant=invariant)
    actual = choices.masses(engine, *plain.prefill(IDS), chosen, end)
    expected = [alone(plain, choice, end) for choice in chosen]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


@settings(max_examples=20)
@given(sets, ends)
def test_extend_computes_exactly_the_distinct_inner_nodes(plain, chosen, end):
    with pytest.MonkeyPatch.context() as patch:
        rows, extend = [], plain.extend

        def counted(prefixes, tail, owner, parents, tokens, **kwargs):
            rows.extend(tokens[:, 0])
            assert tokens.shape[1] == 1
            return extend(prefixes, tail, owner, parents, tokens, **kwargs)

        patch.setattr(plain, "extend", counted)
        choices.masses(plain, *plain.prefill(IDS), chosen, end)
    inner = {c[:size] for c in chosen for size in range(1, len(c) + (end is not None))}
    assert sorted(rows) == sorted(node[-1] for node in inner)


@pytest.mark.parametrize("length", [1, 2])
def test_all_continuations_of_a_length_together_are_certain(engine, prompt, length):
    every = list(itertools.product(range(TINY.n_vocab), repeat=length))
    masses = choices.masses(engine, *prompt, every)
    assert np.exp(masses).sum() == pytest.approx(1, abs=1e-9)


def test_all_continuations_of_a_small_vocabulary():
    arch = TINY.model_copy(update={"n_vocab": 7})
    engine = make_engine(arch, random_weights(arch, seed=2))
    start = engine.prefill([3, 1, 4])
    for length in (3, 4):
        every = list(itertools.product(range(7), repeat=length))
        assert np.exp(choices.masses(engine, *start, every)).sum() == pytest.approx(1, abs=1e-9)


def test_with_the_end_a_choice_and_one_it_begins_exclude_each_other():
    """Every text ends at once, after one token, or has two tokens."""
    arch = TINY.model_copy(update={"n_vocab": 9})
    engine = make_engine(arch, random_weights(arch, seed=3))
    prefix, logits = engine.prefill([3, 1, 4])
    end = frozenset({2, 5})
    others = [t for t in range(9) if t not in end]
    at_once = np.exp(normalized(logits[0])[sorted(end)]).sum()
    ended = choices.masses(engine, prefix, logits, [[t] for t in others], end)
    longer = choices.masses(engine, prefix, logits, list(itertools.product(others, repeat=2)))
    assert at_once + np.exp([*ended, *longer]).sum() == pytest.approx(1, abs=1e-9)
    both = choices.masses(engine, prefix, logits, [[4], [4, 6]], end)
    assert both[0] == pytest.approx(ended[others.index(4)], abs=TOLERANCE)
    without = choices.masses(engine, prefix, logits, [[4], [4, 6]])
    assert without[0] > both[0] and without[1] > both[1]


def test_masses_are_batch_invariant(engine, prompt):
    """--batch-invariant"""
    engine = replace(engine, batch_invariant=True)
    alone = choices.masses(engine, *prompt, [(1, 2, 3)], None)
    many = [(1, 2, 3), *itertools.product(range(4), repeat=2)]
    assert choices.masses(engine, *prompt, many, None)[0] == alone[0]


@given(st.lists(st.floats(-2000, 0), min_size=1, max_size=6))
def test_shares_are_probabilities(masses):
    p = choices.shares(masses)
    assert p.sum() == pytest.approx(1) and (p >= 0).all()
    for share, mass in zip(p, masses, strict=True):
        assert share <= p[int(np.argmax(masses))]
        assert share > 0 if mass > max(masses) - 740 else share < 1e-300


@given(st.lists(st.floats(-2000, 0), min_size=1, max_size=6))
def test_draws_follow_the_shares(masses):
    p = choices.shares(masses)
    u = (np.arange(1000) + 0.5) / 1000
    counts = np.bincount(choices.draw(masses, u), minlength=len(masses))
    assert np.abs(counts / 1000 - p).max() <= 1e-3
    for drawn in choices.draw(masses, np.array([0.0, LAST])):
        assert p[drawn] > 0


def test_a_choice_beyond_the_context_is_a_usage_error(plain) -> None:
    prefix, logits = plain.prefill(IDS)
    choice = [1] * (TINY.n_ctx - len(IDS))
    assert len(choices.masses(plain, prefix, logits, [choice])) == 1
    with pytest.raises(UsageError, match="109 tokens after a prompt of 20, the context is 128"):
        choices.masses(plain, prefix, logits, [[*choice, 1]])
