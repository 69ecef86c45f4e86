"""Logits to token ids: pure filters in Hugging Face's order (temperature, top-k, top-p), then the
inversion of the cumulative distribution. All in float64 on the host; ids are 0-based.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Law(NamedTuple):
    """What a sample is drawn by. temperature 0 is greedy; top_k 0 and top_p 1 filter nothing."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


def weights(logits: np.ndarray, law: Law) -> np.ndarray:
    """Unnormalised probabilities of logits [..., V] under a law of positive temperature, float64
    [..., V], 0 where a filter removed the token."""
    scaled = logits.astype(np.float64)
    scaled -= scaled.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore"):  # to -inf, which is right
        scaled /= law.temperature
    if 0 < law.top_k < scaled.shape[-1]:
        scaled = top_k(scaled, law.top_k)
    w = np.exp(scaled)
    return top_p(w, law.top_p) if law.top_p < 1 else w


def top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Logits [..., V] with all below the k-th largest at -inf; ties of the k-th are kept."""
    kth = np.partition(logits, -k, axis=-1)[..., -k, None]
    return np.where(logits < kth, -np.inf, logits)


def top_p(w: np.ndarray, p: float) -> np.ndarray:
    """Weights [..., V] with those outside the smallest set of mass >= p at 0: the token that
    crosses p is kept, of equal ones the lowest ids (Holtzman et al. 2020)."""
    kept = np.zeros_like(w)
    for index in np.ndindex(w.shape[:-1]):
        ids = _nucleus(w[index], p * w[index].sum())
        kept[index][ids] = w[index][ids]
    return kept


def _nucleus(w: np.ndarray, mass: float) -> np.ndarray:
    """Ids of the fewest largest weights [V] that reach `mass`; sorts only as many as it must."""
    head = 64
    while True:
        least = np.partition(w, -head)[-head] if head < len(w) else 0.0
        ids = np.flatnonzero(w >= least)
        ids = ids[np.argsort(-w[ids], kind="stable")]
        reached = np.cumsum(w[ids])
        if reached[-1] >= mass or head >= len(w):
            return ids[: np.searchsorted(reached, mass) + 1]
        head *= 8


def cumulative(logits: np.ndarray, law: Law) -> np.ndarray:
    """The cumulative weights [..., V] that `draw` inverts, summed in float64 in order of ids."""
    return np.cumsum(weights(logits, law), axis=-1)


def draw(cumulated: np.ndarray, u: float) -> int:
    """The first id whose cumulative weight [V] exceeds u * total, so never one of weight 0."""
    return int(np.searchsorted(cumulated, u * cumulated[-1], side="right"))


def pick(logits: np.ndarray, law: Law, u: np.ndarray) -> np.ndarray:
    """One id for each row of logits [N, V], by the random numbers u [N]."""
    if law.temperature == 0:
        return logits.argmax(axis=-1)  # the lowest id of the largest
    rows = zip(cumulative(logits, law), u, strict=True)
    return np.array([draw(cumulated, x) for cumulated, x in rows])


def log_probabilities(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The model's own log p(id) [N], before any filter, of logits [N, V]; natural, float64."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=-1, keepdims=True)
    return exact[np.arange(len(ids)), ids] - np.log(np.exp(exact).sum(axis=-1))
