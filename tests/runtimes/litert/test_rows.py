"""Rows join, leave, divide, step by several tokens and are rewound; each gets the logits of its own
text computed alone."""

import litert_models
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gentool.models import FAMILIES
from gentool.runtimes.litert import kv_cache
from gentool.runtimes.litert.runtime import CHUNK

TOLERANCE = 2e-4
FAMILY = st.sampled_from(list(FAMILIES))
RUNTIMES = {}


def runtime_of(family):
    if family not in RUNTIMES:
        RUNTIMES[family] = litert_models.random_runtime(family)[0]
    return RUNTIMES[family]


class Texts:
    """Rows as their texts, beside a runtime's cache of them."""

    def __init__(self, runtime, prompts, batch_invariant=False):
        self.runtime, self.prompts = runtime, prompts
        first, _ = runtime.prefill(prompts[0], 0, None, False, False)
        # all others continue the first
        longer = [
            runtime.prefill(ids[len(prompts[0]) :], len(prompts[0]), first, False, False)[0]
            for ids in prompts[1:]
        ]
        self.cache = runtime.rows([first, *longer], 4, batch_invariant)
        self.owner, self.rows = np.zeros(0, int), []  # tokens of each row after its prompt

    def step(self, parents, owners, tokens):
        """Parents of -1 are new rows of their owners."""
        owner = np.array(
            [
                self.owner[parent] if parent >= 0 else new
                for parent, new in zip(parents, owners, strict=True)
            ]
        )
        self.runtime.move(self.cache, owner, np.array(parents), tokens.shape[1])
        before = [self.rows[parent] if parent >= 0 else [] for parent in parents]
        self.owner = owner
        start = np.array(
            [len(self.prompts[o]) + len(b) for o, b in zip(owner, before, strict=True)]
        )
        positions = start[:, None] + np.arange(tokens.shape[1])
        logits = self.runtime.step(self.cache, tokens, positions, False)
        self.rows = [b + new.tolist() for b, new in zip(before, tokens, strict=True)]
        for o, row, got in zip(owner, self.rows, logits, strict=True):
            ids = np.array([*self.prompts[o], *row])
            _, wanted = self.runtime.prefill(ids, 0, None, True, False)
            np.testing.assert_allclose(got, wanted[-tokens.shape[1] :], rtol=0, atol=TOLERANCE)

    def as_prefix(self, row, length, then):
        """A row's prompt and its first tokens, which `then` continues; and without the last one."""
        ids = np.array([*self.prompts[self.owner[row]], *self.rows[row][:length], *then])
        start = len(ids) - len(then)
        prefix = self.runtime.row_prefix(self.cache, row, length)
        self.continues(ids, start, prefix)
        if start > 1:
            self.continues(ids, start - 1, self.runtime.crop(prefix, start - 1))

    def continues(self, ids, start, prefix):
        _, got = self.runtime.prefill(ids[start:], start, prefix, True, False)
        _, wanted = self.runtime.prefill(ids, 0, None, True, False)
        np.testing.assert_allclose(got, wanted[start:], rtol=0, atol=TOLERANCE)

    def rewind(self, lengths):
        self.rows = [row[:length] for row, length in zip(self.rows, lengths, strict=True)]
        self.runtime.rewind(self.cache, np.array(lengths))


@settings(max_examples=40)
@given(family=FAMILY, data=st.data())
def test_rows_are_as_alone(family, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    shared = rng.integers(0, 101, data.draw(st.integers(1, 6)))
    more = [
        rng.integers(0, 101, size) for size in data.draw(st.lists(st.integers(1, 7), max_size=3))
    ]
    prompts = [shared, *(np.concatenate([shared, m]) for m in more)]
    texts = Texts(runtime_of(family), prompts, data.draw(st.booleans()))
    prompt = st.integers(0, len(more))
    for _ in range(data.draw(st.integers(1, 5))):
        parents = data.draw(st.lists(st.integers(-1, len(texts.rows) - 1), min_size=1, max_size=6))
        owners = [data.draw(prompt) for _ in parents]
        size = (len(parents), data.draw(st.integers(1, 3)))
        texts.step(parents, owners, rng.integers(0, 101, size))
        if data.draw(st.booleans()):
            texts.rewind([data.draw(st.integers(0, len(row))) for row in texts.rows])
        row = data.draw(st.integers(0, len(texts.rows) - 1))
        length = data.draw(st.integers(0, len(texts.rows[row])))
        texts.as_prefix(row, length, rng.integers(0, 101, 2))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_many_rows_of_many_tokens(family):
    """More tokens than a loop over short rows takes, and memory that grows in both directions."""
    texts = Texts(runtime_of(family), [np.arange(3), np.arange(9)])
    rng = np.random.default_rng(5)
    texts.step([-1] * 3, [0, 1, 0], rng.integers(0, 101, (3, 12)))
    texts.step([2, 0, 0, -1, -1], [0, 0, 0, 1, 1], rng.integers(0, 101, (5, 14)))
    texts.step([4, 1, -1], [0, 0, 0], rng.integers(0, 101, (3, 9)))


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bits_of_a_row_do_not_depend_on_the_batch(family, precision):
    """Alone, among many, among rows of other prompts and lengths, several tokens at a time."""
    runtime, _ = litert_models.random_runtime(family, precision)
    rng = np.random.default_rng(3)
    short, _ = runtime.prefill(rng.integers(0, 101, 5), 0, None, False, False)
    long, _ = runtime.prefill(rng.integers(0, 101, 20), 0, None, False, False)
    many, few = rng.integers(0, 101, (3, 67, 2)), 4
    owner = np.arange(67) % 2
    start = np.where(owner, 20, 5)[:, None] + np.arange(2)

    def steps(rows, drop):
        """The logits of `rows`, and of those that are left when `drop` of them go."""
        cache = runtime.rows([short, long], 6, True)
        runtime.move(cache, owner[rows], np.full(len(rows), -1), 2)
        first = runtime.step(cache, many[0, rows], start[rows], False)
        left = np.arange(drop, len(rows))
        # one more joins, so that lengths differ
        runtime.move(cache, np.array([*owner[rows][left], 1]), np.array([*left, -1]), 2)
        tokens = np.concatenate([many[1, rows][left], many[2, :1]])
        positions = np.concatenate([start[rows][left] + 2, [[20, 21]]])
        return first, runtime.step(cache, tokens, positions, False)

    first, second = steps(np.arange(67), 30)
    for row in (30, 31, 66):
        alone, later = steps(np.array([row]), 0)
        np.testing.assert_array_equal(alone[0], first[row])
        np.testing.assert_array_equal(later[0], second[row - 30])
        np.testing.assert_array_equal(later[1], second[-1])
    some, later = steps(np.arange(28, 28 + few), 2)
    np.testing.assert_array_equal(some, first[28 : 28 + few])
    np.testing.assert_array_equal(later[:2], second[:2])


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bits_of_a_prompt_do_not_depend_on_its_parts(family, precision):
    """Computed at once, and in parts that continue one another."""
    runtime, _ = litert_models.random_runtime(family, precision, threads=2)
    ids = np.random.default_rng(3).integers(0, 101, 90)
    _, whole = runtime.prefill(ids, 0, None, True, False, True)
    for cuts in ([20, 21, 50], [1, 2, 3, 89], [45]):
        prefix, at = None, 0
        for end in [*cuts, len(ids)]:
            prefix, logits = runtime.prefill(ids[at:end], at, prefix, True, False, True)
            np.testing.assert_array_equal(logits, whole[at:end])
            at = end
        cut = runtime.crop(prefix, cuts[0])
        _, logits = runtime.prefill(ids[cuts[0] :], cuts[0], cut, False, False, True)
        np.testing.assert_array_equal(logits[0], whole[-1])


def test_bits_of_a_long_prompt_do_not_depend_on_the_prefix_it_continues():
    """Whose length moves the chunks that it is computed in."""
    runtime = runtime_of("llama")
    ids = np.random.default_rng(4).integers(0, 101, CHUNK + 150)
    _, whole = runtime.prefill(ids, 0, None, False, False, True)
    prefix, _ = runtime.prefill(ids[:45], 0, None, False, False, True)
    _, logits = runtime.prefill(ids[45:], 45, prefix, False, False, True)
    np.testing.assert_array_equal(logits, whole)


def test_no_rows_of_an_empty_prefix_are_copied():
    """A longer prefix is in the memory of the one it continues, as long as nobody else grew there;
    the shorter one stays as it is."""
    runtime = runtime_of("llama")
    first, _ = runtime.prefill(np.arange(10), 0, None, False, False)
    second, _ = runtime.prefill(np.arange(3), 10, first, False, False)
    third, logits = runtime.prefill(np.arange(3), 13, second, False, False)
    assert third.memory is second.memory and second.memory is not first.memory
    fork, other = runtime.prefill(np.arange(5, 8), 13, second, False, False)
    assert fork.memory is not second.memory
    again, same = runtime.prefill(np.arange(3), 13, second, False, False)
    np.testing.assert_array_equal(same, logits)
    assert np.abs(other - logits).max() > 1e-3


def test_rows_keep_their_slots():
    """Nothing is moved where rows stay, and where one leaves, only what fills its place."""
    shapes = (kv_cache.HeadShape(1, 2, 2),)
    cache = kv_cache.empty(shapes, [], 4, False)
    kv_cache.move(cache, np.zeros(4, int), np.full(4, -1), 1)
    assert cache.slots.tolist() == [0, 1, 2, 3]
    cache.layers[0].keys[:, 0, 0, 0] = np.arange(4)
    cache.length[:] = 1
    kv_cache.move(cache, np.zeros(3, int), np.array([3, 0, 2]), 1)
    assert cache.slots.tolist() == [1, 0, 2]
    assert cache.layers[0].keys[cache.slots, 0, 0, 0].tolist() == [3, 0, 2]
    kv_cache.move(cache, np.zeros(4, int), np.array([2, 2, -1, 0]), 1)
    assert sorted(cache.slots.tolist()) == [0, 1, 2, 3]
    assert cache.layers[0].keys[cache.slots, 0, 0, 0].tolist()[:2] == [2, 2]
    assert cache.layers[0].keys[cache.slots[3], 0, 0, 0] == 3
    assert cache.length.tolist() == [1, 1, 0, 1]
