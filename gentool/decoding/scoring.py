"""Scoring: log-probabilities of the tokens of a given text, each predicted once from the tokens
before it in its window. A text of any length takes the memory of one window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gentool.decoding.engine import Engine
from gentool.decoding.sampling import finite, log_probabilities

LOGITS_PER_CALL = 1 << 24  # 64 MB
ROWS_PER_CALL = 64  # of log-probabilities


def score(engine: Engine, ids: Sequence[int], window: int, stride: int, n_first: int) -> np.ndarray:
    """Natural log-probabilities, float64, of all `ids` but the first `n_first`, which every window
    begins with. If `n_first` is 0, windows begin with their own tokens, and the first token is not
    scored. A window is `window` tokens long and the next one begins `stride` later, so a token is
    predicted from all tokens before it, or from at least window - stride of them."""
    start, rest = list(ids[:n_first]), ids[n_first:]
    # tokens of a chunk of logits, a power of two: a bucket of the runtime
    chunk_size = max(16, 1 << (LOGITS_PER_CALL // engine.arch.n_vocab).bit_length() - 1)
    logprobs: list[np.ndarray] = [np.empty(0)]
    for begin, new, end in windows(len(rest), window - n_first, stride, 0 if n_first else 1):
        inputs = [*start, *rest[begin : end - 1]]
        n_context = n_first + new - begin - 1  # inputs whose next token is scored already
        prefix = engine.prefill(inputs[:n_context])[0] if n_context else None
        for chunk_start in range(n_context, len(inputs), chunk_size):
            chunk = inputs[chunk_start : chunk_start + chunk_size]
            prefix, logits = engine.prefill(chunk, prefix, all_positions=True)
            target = begin + chunk_start + 1 - n_first
            targets = rest[target : target + len(chunk)]
            logprobs.append(_log_probabilities(finite(logits), targets))
    return np.concatenate(logprobs)


def windows(
    count: int, width: int, stride: int, first_scored: int
) -> Iterator[tuple[int, int, int]]:
    """Yields the windows over tokens `first_scored` to `count`: the begin of each, and the first
    and the end of the tokens it predicts, up to one more than the `width` tokens it holds."""
    begin, new, stride = 0, first_scored, min(stride, width)
    while new < count:
        end = min(begin + width + 1, count)
        yield begin, new, end
        begin, new = begin + stride, end


def _log_probabilities(logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """`log_probabilities` of logits [T, V], a few rows at a time."""
    parts = [slice(at, at + ROWS_PER_CALL) for at in range(0, len(ids), ROWS_PER_CALL)]
    return np.concatenate([log_probabilities(logits[p], np.array(ids[p])) for p in parts])
