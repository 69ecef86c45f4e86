"""Scores of texts against teacher forcing by the cache-free float64 reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import numpy_llama
from tiny import TINY, make_engine

from gentool.decoding import scoring
from gentool.decoding.sampling import normalized
from gentool.errors import GentoolError

IDS = np.random.default_rng(7).integers(0, TINY.n_vocab, 100).tolist()
TOLERANCE = 1e-4  # 1e-5 of the largest logit, which is above 10 in these models


def forced(weights, context, token):
    """log p of a token after a context, by the reference."""
    return normalized(numpy_llama.logits(TINY, weights, context)[-1])[token]


@given(data=st.data(), count=st.integers(0, 200), width=st.integers(1, 40))
def test_windows_predict_every_token_once_and_hold_no_more_than_their_width(data, count, width):
    stride, first = data.draw(st.integers(1, width)), data.draw(st.integers(0, 1))
    actual = list(scoring.windows(count, width, stride, first))
    assert [t for _, new, end in actual for t in range(new, end)] == list(range(first, count))
    for at, new, end in actual:
        assert 0 < end - 1 - at <= width or count == 1
        assert at == 0 or new - at > width - stride


@settings(max_examples=20)
@given(data=st.data(), count=st.integers(2, 50), window=st.integers(4, 30))
def test_each_token_is_predicted_by_its_window(plain, tiny_weights, data, count, window):
    first = data.draw(st.integers(0, 2))
    width = window - first
    stride = data.draw(st.integers(1, window))
    actual = scoring.score(plain, IDS[:count], window, stride, first)
    start, rest = IDS[:first], IDS[first:count]
    assert actual.dtype == np.float64 and len(actual) == max(0, len(rest) - (first == 0))
    stride = min(stride, width)
    for token, p in enumerate(actual, start=first == 0):
        at = stride * max(0, -(-(token - width) // stride))
        context = start + rest[at:token]
        assert len(context) >= min(token + first, window - stride)
        assert p == pytest.approx(forced(tiny_weights, context, rest[token]), abs=TOLERANCE)


def test_a_context_that_suffices_is_direct_scoring(engine):
    _, logits = engine.prefill(IDS[:40], all_positions=True)
    direct = normalized(logits)[np.arange(39), IDS[1:40]]
    for window, stride in ((39, 1), (40, 20), (128, 64)):
        actual = scoring.score(engine, IDS[:40], window, stride, 0)
        np.testing.assert_allclose(actual, direct, atol=TOLERANCE)


def test_logits_of_a_long_text_are_computed_in_chunks(plain, monkeypatch):
    whole = scoring.score(plain, IDS, 64, 32, 1)
    chunk_lengths, prefill = [], plain.prefill

    def watched(*args, **kwargs):
        prefix, logits = prefill(*args, **kwargs)
        chunk_lengths.append(len(logits))
        return prefix, logits

    monkeypatch.setattr(plain, "prefill", watched)
    monkeypatch.setattr(scoring, "LOGITS_PER_CALL", 20 * TINY.n_vocab)
    np.testing.assert_allclose(scoring.score(plain, IDS, 64, 32, 1), whole, atol=TOLERANCE)
    assert max(chunk_lengths) == 16
    assert sum(chunk_lengths) < 120  # those before a window's new tokens are not asked for


def test_scores_depend_on_earlier_tokens_only(engine):
    actual = scoring.score(engine, IDS[:30], 128, 64, 0)
    other = [IDS[0] + 1, *IDS[1:29], 0]
    assert np.abs(scoring.score(engine, other, 128, 64, 0)[:-1] - actual[:-1]).max() > 0.1
    last = scoring.score(engine, [*IDS[:29], 0], 128, 64, 0)
    np.testing.assert_array_equal(last[:-1], actual[:-1])


def test_weights_that_are_no_numbers_are_an_error(tiny_weights):
    broken = tiny_weights | {"final_norm": np.full_like(tiny_weights["final_norm"], np.nan)}
    with pytest.raises(GentoolError, match="not numbers"):
        scoring.score(make_engine(TINY, broken), IDS[:5], 16, 8, 0)
