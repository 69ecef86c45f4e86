"""Tokens whose embedding looks as if it was never trained (Land & Bartolo, Fishing for Magikarp:
Automatically Detecting Under-trained Tokens in Large Language Models, EMNLP 2024). That paper's
indicators are the norm of the embedding where the head is a matrix of its own, and the distance to
the rows that have no piece where they are one. Its last step, to prompt the model, is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gentool.inspection.output_layer import ROW_BLOCK
from gentool.inspection.proofs import lowest_equal

DEVIATIONS = 6.0  # robust standard deviations of log norms below their median
NORMAL = 1.4826  # standard deviation of a normal distribution, over its median absolute deviation
MIN_UNUSED = 2  # rows without a piece, to compare with
ALIKE = 0.5  # cosine distance that these have at most to their mean, if they are comparable


class Untrained(NamedTuple):
    """Tokens with a score [V] below `limit`, and those whose row equals another one."""

    criterion: str
    scores: np.ndarray
    limit: float
    low: tuple[int, ...]  # lowest score first
    equal: tuple[int, ...]


def untrained(embedding: np.ndarray, tied: bool, unused: tuple[int, ...]) -> Untrained:
    """Of an embedding [V, D] whose rows `unused` have no piece. These are not reported."""
    lowest = lowest_equal(embedding, np.zeros(len(embedding)))
    _, group, sizes = np.unique(lowest, return_inverse=True, return_counts=True)
    distances = _distances(embedding, unused) if tied and len(unused) >= MIN_UNUSED else None
    by_distance = distances is not None and distances[list(unused)].max() <= ALIKE
    if distances is not None and by_distance:
        scores, limit = distances, float(distances[list(unused)].max())
        criterion = "as near to the mean row without a piece as these rows are"
    else:
        scores = _norms(embedding)
        limit = _low(scores)
        criterion = f"log norm {DEVIATIONS:g} robust standard deviations under the median"
    reported = np.ones(len(embedding), bool)
    reported[list(unused)] = False
    low = np.flatnonzero(reported & ((scores <= limit) if by_distance else (scores < limit)))
    equal = np.flatnonzero(reported & (sizes[group] > 1))
    ordered = low[np.argsort(scores[low], kind="stable")]
    return Untrained(criterion, scores, limit, tuple(ordered.tolist()), tuple(equal.tolist()))


def _norms(embedding: np.ndarray) -> np.ndarray:
    """Euclidean norms [V] of rows."""
    starts = range(0, len(embedding), ROW_BLOCK)
    blocks = (embedding[start : start + ROW_BLOCK].astype(np.float32) for start in starts)
    return np.concatenate([np.linalg.norm(block, axis=1) for block in blocks]).astype(np.float64)


def _low(norms: np.ndarray) -> float:
    """The norm below which a row is an outlier."""
    logs = np.log(np.maximum(norms, np.finfo(np.float32).tiny))
    middle = np.median(logs)
    spread = NORMAL * np.median(np.abs(logs - middle))
    return float(np.exp(middle - DEVIATIONS * spread))


def _distances(embedding: np.ndarray, unused: tuple[int, ...]) -> np.ndarray:
    """Cosine distances [V] of rows to the mean of the rows `unused`, all less the mean row: what
    rows have in common hides how they differ."""
    starts = range(0, len(embedding), ROW_BLOCK)
    width = embedding.shape[1]
    total = np.zeros(width)
    for start in starts:
        total += embedding[start : start + ROW_BLOCK].astype(np.float64).sum(axis=0)
    mean = total / len(embedding)
    reference = embedding[list(unused)].astype(np.float64).mean(axis=0) - mean
    reference /= np.linalg.norm(reference) or 1.0
    cosines = []
    for start in starts:
        block = embedding[start : start + ROW_BLOCK].astype(np.float64) - mean
        length = np.linalg.norm(block, axis=1)
        length[length == 0] = 1
        cosines.append(block @ reference / length)
    return 1 - np.concatenate(cosines)
