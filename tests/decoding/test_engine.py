"""The laws of prefill and extend, on a random model, against a cache-free float64 reference."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import numpy_llama
from tiny import TINY, make_engine, random_weights

from gentool.runtimes.xla import backend, buckets

RNG = np.random.default_rng(5)
IDS = RNG.integers(0, TINY.n_vocab, 100)
TOLERANCE = 1e-5  # of the largest logit, fp32


@pytest.fixture(scope="module")
def reference(tiny_weights):
    return numpy_llama.logits(TINY, tiny_weights, IDS)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33, 100])
def test_prefill_equals_the_reference_whatever_the_padding(engine, reference, length):
    prefix, logits = engine.prefill(IDS[:length], all_positions=True)
    assert prefix.length == length
    assert logits.dtype == np.float32
    close(logits, reference[:length])
    close(engine.prefill(IDS[:length])[1], reference[length - 1 : length])


def test_prefill_continues_a_prefix(engine, reference):
    first, _ = engine.prefill(IDS[:21])
    second, logits = engine.prefill(IDS[21:60], first, all_positions=True)
    close(logits, reference[21:60])
    close(engine.prefill(IDS[60:61], second)[1], reference[60:61])
    close(engine.prefill(IDS[21:22], first)[1], reference[21:22])  # the first is as it was


@pytest.mark.parametrize("path", [backend.ONEDNN, backend.XLA_STEP])
def test_other_backends_equal_the_reference(tiny_weights, reference, path):
    engine = make_engine(TINY, tiny_weights, path)
    prefix, logits = engine.prefill(IDS[:20], all_positions=True)
    close(logits, reference[:20])
    tail, logits = engine.extend([prefix], None, [0, 0], [0, 0], np.stack([IDS[20:22]] * 2), 4)
    close(logits[1], reference[20:22])
    _, logits = engine.extend([prefix], tail, [0, 0], [1, 0], np.stack([IDS[22:24]] * 2))
    close(logits[0], reference[22:24])


@pytest.mark.parametrize("path", [backend.ONEDNN, backend.XLA_STEP])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_products_round_their_inputs_too(tiny_weights, reference, path, dtype):
    logits = make_engine(TINY, tiny_weights, path, dtype).prefill(IDS[:40], all_positions=True)[1]
    off = np.abs(logits - reference[:40]).max() / np.abs(reference[:40]).max()
    assert off < {"float16": 0.01, "bfloat16": 0.05}[dtype]


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("steps", [(1,) * 12, (5, 1, 5, 1)])
def test_extend_equals_the_reference_in_any_chunks(engine, reference, steps, batch_invariant):
    prefix, _ = engine.prefill(IDS[:20])
    at, tail = 20, None
    for size in steps:
        tail, logits = replace(engine, batch_invariant=batch_invariant).extend(
            [prefix], tail, [0], [0], IDS[None, at : at + size], 12
        )
        close(logits[0], reference[at : at + size])
        at += size


def test_the_kv_cache_of_rows_grows(engine, reference):
    prefix, _ = engine.prefill(IDS[:20])
    tail, _ = engine.extend([prefix], None, [0], [0], IDS[None, 20:30], max_new_tokens=10)
    _, logits = engine.extend([prefix], tail, [0], [0], IDS[None, 30:50])
    close(logits[0], reference[30:50])


@settings(max_examples=25)
@given(data=st.data())
def test_rows_of_any_owner_continue_any_parents(plain, tiny_weights, data):
    """Two generations: rows on three prefixes, then rows that pick parents among them."""
    prompts = [IDS[:9], IDS[30:51], IDS[60:76]]
    prefixes = [plain.prefill(p)[0] for p in prompts]
    token = st.integers(0, TINY.n_vocab - 1)
    owner = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=6))
    first = data.draw(st.lists(token, min_size=len(owner), max_size=len(owner)))
    parents = data.draw(st.lists(st.integers(0, len(owner) - 1), min_size=1, max_size=6))
    second = data.draw(st.lists(token, min_size=len(parents), max_size=len(parents)))
    engine = replace(plain, batch_invariant=data.draw(st.booleans()))
    tail, logits = engine.extend(
        prefixes, None, owner, [0] * len(owner), np.array(first)[:, None], 2
    )
    for o, a, row in zip(owner, first, logits, strict=True):
        close(row[0], numpy_llama.logits(TINY, tiny_weights, [*prompts[o], a])[-1])
    owners = [owner[p] for p in parents]
    _, logits = engine.extend(prefixes, tail, owners, parents, np.array(second)[:, None], 2)
    for o, p, b, row in zip(owners, parents, second, logits, strict=True):
        close(row[0], numpy_llama.logits(TINY, tiny_weights, [*prompts[o], first[p], b])[-1])


def test_window_attention_does_not_depend_on_chunks(plain, tiny_weights):
    """Layer 0 sees five positions: a prompt at once, a prefix continued, single tokens, several at
    a time, and rows that were reordered give the same logits."""
    arch = TINY.model_copy(update={"window": 5, "window_layers": [0], "score_cap": 3.0})
    engine = make_engine(arch, tiny_weights)
    _, whole = engine.prefill(IDS[:40], all_positions=True)
    assert np.abs(whole - plain.prefill(IDS[:40], all_positions=True)[1]).max() > 1
    first, _ = engine.prefill(IDS[:18])
    close(engine.prefill(IDS[18:30], first, all_positions=True)[1], whole[18:30])
    tail, logits = engine.extend([first], None, [0, 0], [0, 0], np.stack([IDS[18:21]] * 2), 22)
    close(logits[1], whole[18:21])
    for at in range(21, 40):
        parents = [1, 0] if at % 2 else [0, 1]
        tokens = np.full((2, 1), IDS[at])
        tail, logits = engine.extend([first], tail, [0, 0], parents, tokens)
        close(logits[0], whole[at : at + 1])


def test_logits_are_the_runtimes_memory(engine):
    prefix, logits = engine.prefill(IDS[:5])
    _, rows = engine.extend([prefix], None, [0, 0, 0], [0, 0, 0], np.array([[1], [2], [3]]))
    assert not logits.flags.owndata and not rows.flags.owndata


@settings(max_examples=25)
@given(data=st.data())
def test_rows_join_between_steps(plain, tiny_weights, data):
    """Rows of old and new prompts join rows that have tokens already; some of these leave."""
    prompts = [IDS[:9], IDS[30:51], IDS[60:76]]
    prefixes = [plain.prefill(p)[0] for p in prompts]
    token = st.integers(0, TINY.n_vocab - 1)
    engine = replace(plain, batch_invariant=data.draw(st.booleans()))
    texts = [(o, [data.draw(token)]) for o in data.draw(st.lists(st.integers(0, 1), min_size=1))]
    rows, _ = engine.extend(
        prefixes[:2], None, [o for o, _ in texts], [], np.array([t for _, t in texts]), 1
    )
    for _ in range(3):
        old = st.integers(0, len(texts) - 1)
        parents = data.draw(st.lists(st.one_of(st.just(-1), old), min_size=1, max_size=5))
        new = [(data.draw(st.integers(0, 2)), []) if p < 0 else texts[p] for p in parents]
        texts = [(o, [*ids, data.draw(token)]) for o, ids in new]
        tokens = np.array([ids[-1:] for _, ids in texts])
        rows, logits = engine.extend(prefixes, rows, [o for o, _ in texts], parents, tokens)
        for (o, ids), row in zip(texts, logits, strict=True):
            close(row[0], numpy_llama.logits(TINY, tiny_weights, [*prompts[o], *ids])[-1])


def test_a_row_keeps_the_owner_of_its_parent(engine):
    prefixes = [engine.prefill(IDS[:5])[0], engine.prefill(IDS[:6])[0]]
    tail, _ = engine.extend(prefixes, None, [0, 1], [0, 0], np.ones((2, 1), int), 4)
    with pytest.raises(ValueError, match="owner"):
        engine.extend(prefixes, tail, [1, 0], [0, 1], np.ones((2, 1), int))


def test_rows_are_batch_invariant(engine):
    """--batch-invariant: one row, then the same row at each place among 1 to 17 others."""
    engine = replace(engine, batch_invariant=True)
    prefix, _ = engine.prefill(IDS[:20])

    def run(rows, at):
        tokens = RNG.integers(0, TINY.n_vocab, (rows, 4))
        tokens[at] = [3, 1, 4, 1]
        tail, out = None, []
        for step in range(4):
            tail, logits = engine.extend(
                [prefix], tail, [0] * rows, range(rows), tokens[:, step : step + 1], 4
            )
            out.append(logits[at, 0])
        return np.array(out)

    alone = run(1, 0)
    for rows in (2, 8, 17):
        for at in range(rows):
            np.testing.assert_array_equal(run(rows, at), alone)


def test_rows_are_batch_invariant_beside_other_prompts(engine):
    engine = replace(engine, batch_invariant=True)
    prefixes = [engine.prefill(IDS[:n])[0] for n in (20, 7, 50)]
    _, alone = engine.extend(prefixes, None, [0], [0], np.array([[3]]), 4)
    for owner in ([0, 1], [2, 1, 0], [1, 2, 2, 0, 0]):
        tokens = np.full((len(owner), 1), 3)
        _, logits = engine.extend(prefixes, None, owner, owner, tokens, 4)
        np.testing.assert_array_equal(logits[owner.index(0)], alone[0])


def test_nothing_is_retraced_between_steps_or_prompts_of_a_bucket(tiny_weights):
    engine = make_engine(TINY, tiny_weights, backend.XLA_LAYER)

    def run(length, rows):
        prefix, _ = engine.prefill(IDS[:length])
        tail = None
        for step in range(5):
            tokens = np.full((rows, 1), step)
            tail, _ = engine.extend([prefix], tail, [0] * rows, range(rows), tokens, 10)

    def traces():
        return [
            f.experimental_get_tracing_count()
            for f in (engine.runtime.layer.program, engine.runtime.logits_step)
        ]

    run(17, 3)
    before = traces()
    assert before == [2, 2]  # one shape of prefill, one of extend
    run(20, 4)
    run(32, 3)
    assert traces() == before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("path", [backend.XLA_LAYER, backend.GRAPH])
def test_16_bit_weights_are_summed_in_fp32(tiny_weights, reference, dtype, path):
    """The only error left is that of rounding the weights."""
    engine = make_engine(TINY, tiny_weights, path, dtype)
    rounded = {n: engine_dtype_round(w, dtype) for n, w in tiny_weights.items()}
    _, logits = engine.prefill(IDS[:40], all_positions=True)
    assert np.isfinite(logits).all()
    close(logits, numpy_llama.logits(TINY, rounded, IDS[:40]))


def engine_dtype_round(array, dtype):
    import tensorflow as tf

    return tf.cast(tf.cast(array, dtype), tf.float32).numpy()


@pytest.mark.parametrize(
    ("kv", "tied", "path"),
    [
        (1, True, backend.XLA_LAYER),
        (1, False, backend.GRAPH),
        (4, True, backend.GRAPH),
        (4, False, backend.XLA_LAYER),
    ],
)
def test_other_shapes_of_the_family(kv, tied, path):
    arch = TINY.model_copy(update={"n_kv_head": kv, "tied_head": tied, "n_layer": 3})
    arrays = random_weights(arch, seed=kv)
    _, logits = make_engine(arch, arrays, path).prefill(IDS[:30], all_positions=True)
    close(logits, numpy_llama.logits(arch, arrays, IDS[:30]))


def test_buckets_cover_and_are_few():
    assert all(buckets.tokens(n) >= n and buckets.rows(n) >= n for n in range(1, 2000))
    assert len({buckets.tokens(n) for n in range(1, 1025)}) == 7
    assert buckets.rows(300) == 320


@settings(max_examples=15)
@given(data=st.data())
def test_a_row_becomes_a_prefix_and_a_prefix_is_cut(plain, tiny_weights, data):
    """Of rows of two prompts, after some have left and drafts were dropped."""
    prompts = [IDS[:9], IDS[30:51]]
    prefixes = [plain.prefill(ids)[0] for ids in prompts]
    engine = replace(plain, batch_invariant=data.draw(st.booleans()))
    new = np.array(data.draw(st.lists(st.integers(0, 95), min_size=12, max_size=12)))
    rows, _ = engine.extend(prefixes, None, [0, 1, 1], [0, 0, 0], new[:9].reshape(3, 3), 4)
    engine.rewind(rows, np.array([2, 3, 1]))
    rows, _ = engine.extend(prefixes, rows, [1, 0], [2, 0], new[9:11].reshape(2, 1), 4)
    texts = [[*prompts[1], new[6], new[9]], [*prompts[0], new[0], new[1], new[10]]]
    for row, text in enumerate(texts):
        length = data.draw(st.integers(0, 2 + row))
        prefix = engine.row_prefix(rows, row, length)
        ids = text[: prefix.length]
        assert prefix.length == len(prompts[1 - row]) + length
        next_ids = IDS[60:63]
        expected = numpy_llama.logits(TINY, tiny_weights, [*ids, *next_ids])[-3:]
        close(engine.prefill(next_ids, prefix, all_positions=True)[1], expected)
        _, logits = engine.extend([prefix], None, [0], [0], next_ids[None], 3)
        close(logits[0], expected)
        cut = engine.crop(prefix, data.draw(st.integers(1, prefix.length)))
        expected = numpy_llama.logits(TINY, tiny_weights, [*ids[: cut.length], *next_ids])[-1:]
        close(engine.prefill(next_ids, cut)[1], expected)
