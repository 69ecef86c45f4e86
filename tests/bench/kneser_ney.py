"""A character n-gram model with interpolated modified Kneser-Ney smoothing (S. F. Chen, J. Goodman,
"An empirical study of smoothing techniques for language modeling", Computer Speech and Language 13,
1999), the yardstick beside the neural models.

The n-grams of one length are one level of a trie: a sorted array of keys, key = index of the
context in the level above * symbols + last symbol. That fits 64 bits for any alphabet and order.
Each document stands between BEGIN and END and no n-gram crosses one; n-grams that start with BEGIN
have no left neighbour and keep their plain counts at every length (K. Heafield et al., "Scalable
modified Kneser-Ney language model estimation", 2013).

The distribution is over END and all of Unicode: characters seen in training are symbols of their
own; OTHER, which only the uniform distribution at the bottom knows, stands for the rest and divides
its probability evenly among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

BEGIN, END, OTHER, FIRST = 0, 1, 2, 3  # the symbols; FIRST is the first character of the alphabet
UNICODE = 0x110000 - 0x800  # code points that are not surrogates


class Level(NamedTuple):
    """p(symbol | context) = probability + backoff[context] * p(symbol | shorter context)."""

    keys: np.ndarray  # int64 [grams]
    probability: np.ndarray  # float64 [grams], discounted count over the context's total
    backoff: np.ndarray  # float64 [contexts], what the discounts of a context freed


class Model(NamedTuple):
    alphabet: np.ndarray  # the code points seen in training, ascending
    levels: tuple[Level, ...]  # contexts of 0, 1, … characters

    @property
    def symbols(self) -> int:
        return FIRST + len(self.alphabet)


def train(texts: Sequence[str], order: int = 5) -> Model:
    """The model of `texts`, one document each."""
    alphabet = _alphabet(texts)
    symbols = FIRST + len(alphabet)
    stream = _stream(texts, alphabet)
    levels: list[Level] = []
    contexts, nodes, keys = 1, stream, np.arange(symbols)
    plain = np.bincount(stream, minlength=symbols)
    plain[BEGIN] = 0  # never predicted
    opens = keys == BEGIN  # whether the n-gram starts with BEGIN
    for length in range(2, order + 1):
        # positions where an n-gram of this length starts: one shorter does, and it does not end
        last = len(stream) - length + 1
        fits = (nodes[:last] >= 0) & (stream[length - 2 : -1] != END)
        starts = np.flatnonzero(fits).astype(np.int32)
        longer = nodes[starts].astype(np.int64) * symbols + stream[starts + (length - 1)]
        by_key = np.argsort(longer)
        longer, starts = longer[by_key], starts[by_key]
        new = np.ones(len(longer), bool)
        new[1:] = longer[1:] != longer[:-1]
        firsts = np.flatnonzero(new)
        suffix = nodes[starts[firsts] + 1]
        neighbours = np.bincount(suffix, minlength=len(keys))  # distinct left neighbours
        levels.append(_level(keys, np.where(opens, plain, neighbours), symbols, contexts))
        nodes = np.full(last, -1, np.int32)
        nodes[starts] = np.cumsum(new, dtype=np.int32) - 1
        contexts, keys, plain = len(keys), longer[firsts], np.diff(firsts, append=len(longer))
        opens = opens[keys // symbols]
        del longer, by_key  # the two that a large text feels
    levels.append(_level(keys, plain, symbols, contexts))
    return Model(alphabet, tuple(levels))


def log2_probabilities(model: Model, text: str) -> np.ndarray:
    """log2 p of each character of a document given those before it, and of END after them."""
    stream = _stream([text], model.alphabet)
    p = np.full(len(stream), 1 / (model.symbols - 1))  # all symbols but BEGIN
    nodes = np.zeros(len(stream), np.int64)  # where in the level each context starting here is
    for length, level in enumerate(model.levels, 1):
        contexts = nodes[: len(stream) - length + 1]
        if not len(contexts):
            break
        keys = contexts * model.symbols + stream[length - 1 :]
        at = np.minimum(np.searchsorted(level.keys, keys), len(level.keys) - 1)
        known = contexts >= 0
        known_keys = known & (level.keys[at] == keys)
        p[length - 1 :] *= np.where(known, level.backoff[contexts], 1.0)
        p[length - 1 :] += np.where(known_keys, level.probability[at], 0.0)
        nodes = np.where(known_keys, at, -1)
    p[stream == OTHER] /= UNICODE - len(model.alphabet)
    return np.log2(p[1:])


def discounts(counts: np.ndarray) -> np.ndarray:
    """What to take off a count of 0, 1, 2 and of 3 or more (Chen & Goodman, equation 26); where a
    text is too small to estimate that, the customary 0.5, 1 and 1.5."""
    n1, n2, n3, n4 = (np.bincount(counts, minlength=5)[1:5]).tolist()
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        taken = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if np.all(taken[1:] > 0):
            return taken
    return np.array([0.0, 0.5, 1.0, 1.5])


def _level(keys: np.ndarray, counts: np.ndarray, symbols: int, contexts: int) -> Level:
    context = keys // symbols
    taken = discounts(counts)[np.minimum(counts, 3)]
    total = np.bincount(context, counts, contexts)
    freed = np.bincount(context, taken, contexts)
    backoff = np.divide(freed, total, out=np.ones(contexts), where=total > 0)
    return Level(keys, (counts - taken) / total[context], backoff)


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _alphabet(texts: Iterable[str]) -> np.ndarray:
    seen = np.zeros(0x110000, bool)
    for text in texts:
        seen[_points(text)] = True
    return np.flatnonzero(seen)


def _stream(texts: Iterable[str], alphabet: np.ndarray) -> np.ndarray:
    """All documents as int32 symbols, each between BEGIN and END."""
    symbol = np.full(0x110000, OTHER, np.int32)
    symbol[alphabet] = np.arange(FIRST, FIRST + len(alphabet))
    begin, end = np.array([BEGIN], np.int32), np.array([END], np.int32)
    return np.concatenate([part for t in texts for part in (begin, symbol[_points(t)], end)])
