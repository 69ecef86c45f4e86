"""Log-probabilities of a text that is there already: each token predicted once, by what comes
before it in its window. A text of any length takes the memory of a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gentool.decoding.engine import Engine
from gentool.decoding.sampling import finite, log_probabilities

LOGITS = 1 << 24  # of a call: 64 MB
ROWS = 64  # whose log-probabilities are taken together


def score(engine: Engine, ids: Sequence[int], window: int, stride: int, first: int) -> np.ndarray:
    """Natural log-probabilities, float64, of `ids` but the `first`, a start that every window
    begins with. Where `first` is 0 there is no start, and the first token is not scored. A window
    is `window` tokens long and the next one begins `stride` later, so a token is predicted by all
    before it, or by at least window - stride of them."""
    start, rest = list(ids[:first]), ids[first:]
    size = max(16, 1 << (LOGITS // engine.arch.n_vocab).bit_length() - 1)  # a bucket of tokens
    found: list[np.ndarray] = [np.empty(0)]
    for at, new, end in windows(len(rest), window - first, stride, 0 if first else 1):
        inputs = [*start, *rest[at : end - 1]]
        known = first + new - at - 1  # inputs whose next token is scored already
        prefix = engine.prefill(inputs[:known])[0] if known else None
        for chunk in range(known, len(inputs), size):
            part = inputs[chunk : chunk + size]
            prefix, logits = engine.prefill(part, prefix, every=True)
            begin = at + chunk + 1 - first
            found.append(_log_probabilities(finite(logits), rest[begin : begin + len(part)]))
    return np.concatenate(found)


def windows(count: int, width: int, stride: int, first: int) -> Iterator[tuple[int, int, int]]:
    """The windows over tokens `first` to `count`: where each begins, and the first and the end of
    the tokens it predicts, which may be one more than the `width` it holds."""
    at, new, stride = 0, first, min(stride, width)
    while new < count:
        end = min(at + width + 1, count)
        yield at, new, end
        at, new = at + stride, end


def _log_probabilities(logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """As the function of that name, on a few rows of logits [T, V] at a time."""
    parts = [slice(at, at + ROWS) for at in range(0, len(ids), ROWS)]
    return np.concatenate([log_probabilities(logits[p], np.array(ids[p])) for p in parts])
