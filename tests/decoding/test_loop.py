"""The one loop, over random models: rows drafted, stratified, penalised, forced or restricted."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import numpy_llama
from tiny import TINY, make_engine, random_weights

from gentool.config.sampling import SamplingParams
from gentool.decoding.filters import adjusted
from gentool.decoding.lookup import Drafter, draft
from gentool.decoding.loop import DecodeLoop, DecodeOptions, Prompt, Sample
from gentool.decoding.philox import uniform
from gentool.decoding.sampling import BELOW_ONE, RandomNumbers, normalized, pick, top_k_ids

PARAMS = SamplingParams()


@pytest.fixture(scope="module")
def small():
    """A model that repeats itself, so that drafts come true now and then."""
    return make_engine(TINY, random_weights(TINY, 3))


class Case(NamedTuple):
    """A row of a test: its prompt by index, its keys, the token it must begin with."""

    prompt: int
    row: int
    sample: int
    first: int | None = None


def run(engine, prompts, rows, params=PARAMS, max_new_tokens=12, batch_invariant=False, **more):
    """The tokens of each row."""
    engine = replace(engine, batch_invariant=batch_invariant)
    constraint = more.pop("constraint", None)
    options = DecodeOptions(params, more.pop("seed", 1), max_new_tokens, **more)
    decoding = DecodeLoop(engine, options, constraint)
    numbers = {}  # row of the loop -> row of the test
    for prompt, ids in enumerate(prompts):
        prefix, logits = engine.prefill(ids)
        mine = [index for index, row in enumerate(rows) if row.prompt == prompt]
        keys = [Sample(rows[i].row, rows[i].sample, rows[i].first) for i in mine]
        added = decoding.add(Prompt(np.array(ids), prefix, logits[0], max_new_tokens), keys)
        numbers |= dict(zip(added, mine, strict=True))
    actual = [[] for _ in rows]
    while not decoding.done:
        for token in decoding.step():
            actual[numbers[token.row]].append(token)
    return actual


def ids(actual):
    return [[token.id for token in row] for row in actual]


def rows_of(prompts, samples):
    return [Case(p, p, s) for p in range(prompts) for s in range(samples)]


PROMPTS = [[5, 9, 5, 9, 5, 9, 5], list(range(20)), [7]]


@pytest.mark.parametrize(
    "params",
    [SamplingParams(0.0), SamplingParams(0.6, top_k=2), SamplingParams(1.0, 0, 0.9)],
    ids=str,
)
@pytest.mark.parametrize("lookup", [1, 3, 8])
def test_drafts_change_no_text(small, params, lookup):
    plain = run(small, PROMPTS, rows_of(3, 2), params, max_new_tokens=24)
    drafted = run(small, PROMPTS, rows_of(3, 2), params, max_new_tokens=24, lookup=lookup)
    assert ids(plain) == ids(drafted)
    for a, b in zip(sum(plain, []), sum(drafted, []), strict=True):
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)


def test_drafts_save_steps(small, monkeypatch):
    """Where a text repeats itself, fewer steps are computed than tokens drawn."""
    calls = []
    step = small.runtime.step

    def counted(*args, **kwargs):
        calls.append(1)
        return step(*args, **kwargs)

    monkeypatch.setattr(small.runtime, "step", counted)
    bias = {5: 100.0}  # a model that says one thing
    actual = run(
        small,
        [[5, 5, 5]],
        [Case(0, 0, 0)],
        SamplingParams(0.0, logit_bias=bias),
        max_new_tokens=33,
        lookup=7,
    )
    assert ids(actual) == [[5] * 33]
    assert len(calls) == 4  # one token, then eight a step


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ([1, 2, 3, 4, 1, 2, 3], 2, [4, 1]),
        ([1, 2, 9, 2, 3, 1, 2], 1, [9]),  # two tokens were last together before 9
        ([5, 5, 5], 3, [5, 5, 5]),
        ([5, 5], 3, []),  # one token says little
        ([1, 2, 1, 2, 1], 4, [2, 1, 2, 1]),
        ([1, 2, 3], 4, []),
        ([], 4, []),
    ],
)
def test_drafts_of_examples(text, count, expected):
    assert draft(text, count) == expected


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 6))
def test_a_draft_continues_an_earlier_occurrence(text, count):
    actual = draft(text, count)
    assert len(actual) in (0, count)
    if actual:
        whole = [*text, *actual]
        at = [i for i in range(2, len(text)) if text[i - 2 : i] == text[-2:]]
        assert any(whole[i : i + count] == actual for i in at)
    else:
        assert text[-2:] not in [text[i - 2 : i] for i in range(2, len(text))]


def test_drafts_pause_after_rejections():
    drafter, copied = Drafter(3), [1, 2, 3, 1, 2]
    drafts = []
    for _ in range(40):
        drafts.append(len(drafter.draft(copied)))
        drafter.record(drafts[-1], 1)
    assert [step for step, drafted in enumerate(drafts) if drafted] == [0, 5, 22]
    drafter = Drafter(3)
    for _ in range(40):
        assert drafter.draft(copied) == [3, 1, 2]
        drafter.record(3, 2)


@pytest.fixture(scope="module")
def compiled():
    """A model as most run it, and its weights."""
    weights = random_weights(TINY, 5)
    return make_engine(TINY, weights), weights


@pytest.mark.parametrize(
    "params",
    [SamplingParams(0.0, repetition_penalty=1.7), SamplingParams(0.0, no_repeat_ngram_size=2)],
)
def test_greedy_under_filters_equals_a_run_without_a_cache(compiled, params):
    engine, weights = compiled
    text, prompt = [3, 4, 3, 4], [3, 4, 3, 4]
    for _ in range(10):
        logits = numpy_llama.logits(TINY, weights, text)[-1:]
        text.append(int(adjusted(logits, params, [prompt], [text[4:]]).argmax()))
    assert ids(run(engine, [prompt], [Case(0, 0, 0)], params, max_new_tokens=10)) == [text[4:]]


def test_recorded_tokens_are_the_most_probable(small):
    (row,) = run(small, [PROMPTS[0]], [Case(0, 0, 0)], max_new_tokens=5, top_logprobs=4)
    text = list(PROMPTS[0])
    for token in row:
        own = normalized(small.prefill(text)[1])[0]
        expected = sorted(range(TINY.n_vocab), key=lambda i: (-own[i], i))[:4]
        assert [i for i, _ in token.top_logprobs] == expected
        np.testing.assert_allclose([p for _, p in token.top_logprobs], own[expected], atol=1e-4)
        assert token.log_probability == pytest.approx(own[token.id], abs=1e-4)
        text.append(token.id)


def test_rows_begin_with_their_forced_token(small):
    rows = [Case(0, 0, i, first) for i, first in enumerate((80, 3, 41))]
    actual = run(small, [PROMPTS[1]], rows, SamplingParams(0.0), max_new_tokens=6)
    for row, one in zip(rows, ids(actual), strict=True):
        alone = run(
            small,
            [[*PROMPTS[1], row.first]],
            [Case(0, 0, 0)],
            SamplingParams(0.0),
            max_new_tokens=5,
        )
        assert one == [row.first, *ids(alone)[0]]


class Even:
    """Only even ids may follow; a text ends when it has three. A state is how many it has."""

    def start(self, prompt):
        return 0

    def allowed(self, state):
        return np.arange(TINY.n_vocab) % 2 == 0

    def after(self, state, token):
        return state + 1

    def only_ends(self, state):
        return state == 3


@pytest.mark.parametrize("lookup", [0, 4])
def test_restricted_rows(small, lookup):
    rows = rows_of(2, 3)
    actual = run(small, PROMPTS[:2], rows, constraint=Even(), lookup=lookup)
    assert all(len(row) == 3 and all(i % 2 == 0 for i in row) for row in ids(actual))
    assert all(row[-1].complete for row in actual)


def test_ends_are_forbidden_until_they_are_due(small):
    end = frozenset(range(0, 90))
    actual = run(small, PROMPTS, rows_of(3, 4), end=end, min_new_tokens=5)
    assert all(5 <= len(row) <= 12 and row[-1].ended for row in actual if len(row) < 12)
    assert all(token.id >= 90 for row in actual for token in row[:5])


# stratified draws


def numbers_of(seed, rows, samples, strata):
    numbers = RandomNumbers(seed, strata)
    numbers.add(rows, samples)
    return numbers


@settings(max_examples=50)
@given(st.lists(st.integers(1, 50), min_size=2, max_size=8), st.integers(1, 40), st.integers(0, 99))
def test_stratified_counts_are_rounded_probabilities(counts, n, seed):
    """Of n stratified first tokens each comes p n times, rounded up or down."""
    p = np.array(counts) / sum(counts)
    numbers = numbers_of(seed, np.zeros(n, int), np.arange(n), n)
    u = numbers.at(np.arange(n), np.zeros(n, int))
    drawn = pick(np.repeat(np.log(p)[None], n, axis=0), SamplingParams(), u)
    times = np.bincount(drawn.ids, minlength=len(p))
    assert np.all(np.abs(times - n * p) < 1 + 1e-9)
    numbers.rescale(np.arange(n), drawn.low, drawn.high)
    again = numbers.at(np.arange(n), np.ones(n, int))
    assert np.all((again >= 0) & (again <= BELOW_ONE))


def test_code_points_are_rescaled_and_run_out():
    n = 1000
    numbers = numbers_of(7, np.zeros(n, int), np.arange(n), n)
    logits = np.repeat(np.log([[0.5, 0.3, 0.2]]), n, axis=0)
    indices = np.arange(n)
    texts = []
    for step in range(40):
        drawn = pick(logits, SamplingParams(), numbers.at(indices, np.full(n, step)))
        numbers.rescale(indices, drawn.low, drawn.high)
        texts.append(drawn.ids)
        times = np.bincount(drawn.ids, minlength=3) / n
        if step < 5:  # while the strata part the samples: 1000 of them have ten bits
            assert np.abs(times - [0.5, 0.3, 0.2]).max() < 0.01
    pairs = np.bincount(texts[0] * 3 + texts[1], minlength=9) / n
    np.testing.assert_allclose(pairs, np.outer([0.5, 0.3, 0.2], [0.5, 0.3, 0.2]).ravel(), atol=2e-3)
    fresh = uniform(7, np.zeros(n, int), indices, np.full(n, 60))
    np.testing.assert_array_equal(numbers.at(indices, np.full(n, 60)), fresh)


def test_the_shift_of_the_strata_depends_on_the_row_and_the_seed():
    def first(seed, row):
        return numbers_of(seed, np.array([row]), np.array([0]), 10).at(
            np.array([0]), np.array([0])
        )[0]

    assert len({first(seed, row) for seed in (1, 2) for row in (0, 1)}) == 4
    assert all(0 <= first(seed, 0) < 0.1 for seed in range(20))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20), st.integers(1, 25))
def test_top_k_ids_is_a_stable_sort(values, count):
    row = np.array(values, float)
    assert top_k_ids(row, count).tolist() == np.argsort(-row, kind="stable")[:count].tolist()


# batches of prompts


@settings(max_examples=12)
@given(
    prompts=st.lists(
        st.lists(st.integers(0, TINY.n_vocab - 1), min_size=1, max_size=40), min_size=1, max_size=5
    ),
    order=st.randoms(use_true_random=False),
    samples=st.integers(1, 3),
)
def test_samples_of_a_prompt_do_not_depend_on_the_batch(small, prompts, order, samples):
    """Whatever stands beside it, however many, in any order: bit for bit under the flag, and up
    to rounding without it."""
    params = SamplingParams(0.8, top_p=0.9)
    rows = rows_of(len(prompts), samples)
    order.shuffle(rows)
    each = []
    for row in rows:
        here = [Case(0, row.row, row.sample)]
        each += run(
            small, [prompts[row.prompt]], here, params, max_new_tokens=5, batch_invariant=True
        )
    for invariant in (True, False):
        together = run(small, prompts, rows, params, max_new_tokens=5, batch_invariant=invariant)
        for actual, alone in zip(together, each, strict=True):
            pairs = list(zip(actual, alone, strict=True))
            if invariant:
                assert [(a.id, a.log_probability) for a, _ in pairs] == [
                    (b.id, b.log_probability) for _, b in pairs
                ]
            for a, b in pairs:
                if a.id != b.id:  # a draw at the very boundary of two tokens
                    break
                assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("lookup", [0, 3])
def test_rows_join_between_steps(small, batch_invariant, lookup):
    """A prompt that is added when others have begun gives what it gives alone."""
    params = SamplingParams(0.8, top_p=0.9)
    engine = replace(small, batch_invariant=batch_invariant)
    decoding = DecodeLoop(engine, DecodeOptions(params, 1, 12, lookup=lookup))
    actual, started = {}, []
    for step in range(40):
        if step in (0, 3, 5):
            prompt = len(started)
            prefix, logits = engine.prefill(PROMPTS[prompt])
            computed = Prompt(np.array(PROMPTS[prompt]), prefix, logits[0], 12)
            started.append(decoding.add(computed, [Sample(prompt, 0), Sample(prompt, 1)]))
        if not decoding.done:
            for token in decoding.step():
                actual.setdefault(token.row, []).append(token)
    assert decoding.done
    for prompt, rows in enumerate(started):
        samples = [Case(0, prompt, 0), Case(0, prompt, 1)]
        alone = run(
            small,
            [PROMPTS[prompt]],
            samples,
            params,
            batch_invariant=batch_invariant,
            lookup=lookup,
        )
        assert [[t.id for t in actual[row]] for row in rows] == ids(alone)


def alone(engine, prompt, options, max_new_tokens):
    """The tokens of sample 0 of row 0, drawn with nobody else."""
    decoding = DecodeLoop(engine, options)
    prefix, logits = engine.prefill(prompt)
    computed = Prompt(np.array(prompt), prefix, logits[0], max_new_tokens)
    decoding.add(computed, [Sample(0, 0)])
    tokens = []
    while not decoding.done:
        tokens += decoding.step()
    return [token.id for token in tokens], [token.top_logprobs for token in tokens]


def test_rows_with_options_of_their_own_join_and_leave_and_take_no_memory(small):
    """200 rows, of which a few are there at a time: each draws what it draws alone, and what has
    ended is forgotten."""
    kinds = [
        DecodeOptions(SamplingParams(0.0), 1, 12),
        DecodeOptions(SamplingParams(0.7, top_k=3, repetition_penalty=1.3), 2, 12, top_logprobs=2),
        DecodeOptions(SamplingParams(1.0), 3, 12, min_new_tokens=3, end=frozenset(range(40))),
        DecodeOptions(SamplingParams(1.0, logit_bias={7: 2.0}), 2**63, 12),
    ]
    lengths = [3, 7, 12]
    expected = {}
    for kind, options in enumerate(kinds):
        for length in lengths:
            prompt = PROMPTS[(kind + length) % 3]
            expected[kind, length] = alone(small, prompt, options, length)
    decoding, rows, actual = DecodeLoop(small, kinds[0]), {}, {}
    prefixes = [small.prefill(ids) for ids in PROMPTS]
    waiting = [(number % 4, lengths[number % 3]) for number in range(200)]
    most = 0
    while waiting or not decoding.done:
        while waiting and len(rows) - len(actual) < 6:
            kind, length = waiting.pop()
            which = (kind + length) % 3
            prefix, logits = prefixes[which]
            prompt = Prompt(np.array(PROMPTS[which]), prefix, logits[0], length)
            (row,) = decoding.add(prompt, [Sample(0, 0)], kinds[kind])
            rows[row] = kind, length, [], []
        for token in decoding.step():
            kind, length, drawn, top = rows[token.row]
            drawn.append(token.id)
            top.append(token.top_logprobs)
            if token.ended or len(drawn) == length:
                actual[token.row] = drawn
        most = max(most, len(decoding._rows), len(decoding._prompts))
    for kind, length, drawn, top in rows.values():
        ids, top_logprobs = expected[kind, length]
        assert drawn == ids
        assert [[id for id, _ in step] for step in top] == [
            [id for id, _ in step] for step in top_logprobs
        ]
    assert len(rows) == 200 and most < 100
