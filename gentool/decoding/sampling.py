"""Filtered logits to token ids: the inversion of the cumulative distribution, summed in float64 on
the host, at points that are a function of their keys; ids are 0-based.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from gentool.decoding.filters import Law, weigh
from gentool.decoding.philox import uniform
from gentool.errors import GentoolError

LAST = 1 - 2.0**-53  # the largest number below 1
PART = 1 << 19  # logits for which a thread is worth its hand-over
BITS = 40.0  # that a code point is good for: it is one float64 of 53
SHIFT = (2**32 - 1, 2**32 - 1)  # sample and step of the number that shifts the strata of a prompt


class Draws(NamedTuple):
    """What rows drew: ids [N], and where each lies in its distribution, `low` to `high` [N]."""

    ids: np.ndarray
    low: np.ndarray
    high: np.ndarray


def draw(cumulated: np.ndarray, u: float) -> int:
    """The first id whose cumulative weight [V] exceeds u * total, so never one of weight 0."""
    return int(np.searchsorted(cumulated, u * cumulated[-1], side="right"))


def pick(logits: np.ndarray, law: Law, u: np.ndarray) -> Draws:
    """One id for each row of logits [N, V], by the numbers u [N] in [0, 1)."""
    if law.temperature == 0:
        ids = logits.argmax(axis=-1)  # the lowest id of the largest
        return Draws(ids, np.zeros(len(ids)), np.ones(len(ids)))

    def one(row: np.ndarray, point: float, room: np.ndarray) -> tuple[float, float, float]:
        weight, mass = room
        weight[:] = row
        weigh(weight, law)
        np.cumsum(weight, out=mass)  # in order of ids; numpy keeps its lock where they are one
        id = draw(mass, point)
        low = mass[id - 1] if id else 0.0
        return id, low / mass[-1], mass[id] / mass[-1]

    ids, low, high = _rows(one, logits, u).T
    return Draws(ids.astype(int), low, high)


class Points:
    """The numbers that samples are drawn by: u(seed, row, sample, step). Stratified over n samples,
    a prompt's sample i has one code point (i + s) / n instead, which each draw spreads over the
    whole again; after BITS bits it is used up, and u goes on (arithmetic sampling, Vilnis et al.
    2023)."""

    def __init__(self, seed: int, strata: int = 0) -> None:
        self._seed, self._strata = seed, strata
        self._rows, self._samples = np.zeros((2, 0), int)  # keys [N]
        self._code, self._left = np.zeros((2, 0))  # code point, and its bits that are left [N]

    def add(self, rows: Sequence[int] | np.ndarray, samples: Sequence[int] | np.ndarray) -> None:
        """Adds samples by their keys [n]."""
        rows, samples = np.asarray(rows), np.asarray(samples)
        code, left = np.zeros((2, len(rows)))
        if self._strata:
            shift = uniform(self._seed, rows, np.array(SHIFT[0]), np.array(SHIFT[1]))
            code = np.minimum((samples + shift) / self._strata, LAST)
            left[:] = BITS
        self._rows = np.concatenate([self._rows, rows])
        self._samples = np.concatenate([self._samples, samples])
        self._code = np.concatenate([self._code, code])
        self._left = np.concatenate([self._left, left])

    def at(self, which: np.ndarray, step: np.ndarray) -> np.ndarray:
        """The numbers [n] of rows `which` [n] for their steps [n]."""
        fresh = uniform(self._seed, self._rows[which], self._samples[which], step)
        return np.where(self._left[which] > 0, self._code[which], fresh)

    def spread(self, which: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Tells that rows `which` have drawn within low to high."""
        code = (self._code[which] - low) / (high - low)
        self._code[which] = np.clip(code, 0.0, LAST)
        self._left[which] += np.log2(high - low)


def finite(logits: np.ndarray) -> np.ndarray:
    """The logits [..., V], each row of which has a finite maximum."""
    if not np.isfinite(logits.max(axis=-1)).all():
        raise GentoolError(
            "the model's logits are not numbers",
            "its weights may be broken, or too large for this precision: try fp32",
        )
    return logits


def log_probabilities(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The model's own log p(id) [N], before any filter, of logits [N, V]; natural, float64: those
    of `normalized`, bit for bit."""

    def one(row: np.ndarray, id: int, room: np.ndarray) -> float:
        exact = np.subtract(row, np.float64(row.max()), out=room[0])
        chosen = exact[id]
        return float(chosen - np.log(np.exp(exact, out=exact).sum()))

    return _rows(one, logits, ids)


def normalized(logits: np.ndarray) -> np.ndarray:
    """log p [..., V] of logits [..., V]; natural, float64."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=-1, keepdims=True)
    return exact - np.log(np.exp(exact).sum(axis=-1, keepdims=True))


def _rows(one: Callable[..., Any], logits: np.ndarray, of_each: np.ndarray) -> np.ndarray:
    """What `one` makes of each row of logits [N, V] and its element of `of_each` [N], given
    float64 [2, V] to compute in: memory that is new each time costs more than the arithmetic. Many
    rows are shared among the cores: numpy holds no lock while it computes."""

    def some(rows: np.ndarray, others: np.ndarray) -> list[Any]:
        room = np.empty((2, rows.shape[-1]))
        return [one(row, other, room) for row, other in zip(rows, others, strict=True)]

    parts = max(1, min(os.cpu_count() or 1, logits.size // PART))
    if parts == 1:
        return np.array(some(logits, of_each))
    cut = (np.array_split(x, parts) for x in (logits, of_each))
    return np.array([each for part in _threads().map(some, *cut) for each in part])


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="draws")


def top_k_ids(row: np.ndarray, count: int) -> np.ndarray:
    """Ids of the largest numbers [V], best first, of equal ones the lowest first."""
    few = np.argpartition(-row, count - 1)[:count] if count < len(row) else np.arange(len(row))
    few = np.flatnonzero(row >= row[few].min())
    return few[np.argsort(-row[few], kind="stable")][:count]
