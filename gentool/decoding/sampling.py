"""Sampling: filtered logits to token ids, by inversion of the cumulative distribution, summed in
float64 on the host. Random numbers are a function of their keys; ids are 0-based.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from gentool.config.sampling import SamplingParams
from gentool.decoding.filters import keeps_logits, weigh
from gentool.decoding.philox import uniform
from gentool.errors import ModelError

BELOW_ONE = 1 - 2.0**-53  # the largest float64 below 1
LOGITS_PER_THREAD = 1 << 19  # with fewer, handing them to a thread costs more than it saves
CODE_POINT_BITS = 40.0  # bits of a code point that draws may use up: it is one float64, of 53
BLOCK = 128  # weights summed at once
ROUNDING = 1e-10  # of a total: more than two orders of summation differ by
STEPS_AHEAD = 16  # random numbers of a row that are made at once: 16 cost little more than 1
SHIFT_KEY = (2**32 - 1, 2**32 - 1)  # sample and step of the number that shifts a prompt's strata


class Draws(NamedTuple):
    """Drawn ids [N], and the interval `low` to `high` [N] of each in the cumulative distribution of
    its row; log-probabilities [N] where the distribution is the softmax of the logits, else NaN."""

    ids: np.ndarray
    low: np.ndarray
    high: np.ndarray
    logprobs: np.ndarray


def draw(cumulated: np.ndarray, u: float) -> int:
    """The first id whose cumulative weight [V] exceeds u * total, so never one of weight 0."""
    return int(np.searchsorted(cumulated, u * cumulated[-1], side="right"))


def draw_once(weight: np.ndarray, u: float) -> int:
    """draw(cumsum(weight), u), which it computes only where rounding could decide: sums of blocks
    of weights [V] find the block, and a sum within it finds the id, four times as fast."""
    starts = _block_starts(len(weight))
    ends = np.cumsum(np.add.reduceat(weight, starts))
    target = u * ends[-1]
    block = int(np.searchsorted(ends, target, side="right"))
    first = int(starts[block])
    mass = np.cumsum(weight[first : first + BLOCK])
    mass += ends[block - 1] if block else 0.0
    offset = int(np.searchsorted(mass, target, side="right"))
    margin = ROUNDING * ends[-1]
    low = mass[offset - 1] if offset else ends[block - 1] if block else 0.0
    if offset == len(mass) or mass[offset] - target < margin or target - low < margin:
        return draw(np.cumsum(weight), u)
    return first + offset


@functools.lru_cache(maxsize=8)
def _block_starts(length: int) -> np.ndarray:
    return np.arange(0, length, BLOCK)


def pick(
    logits: np.ndarray, sampling: SamplingParams, u: np.ndarray, intervals: bool = True
) -> Draws:
    """Draws one id for each row of logits [N, V], by the numbers u [N] in [0, 1). The intervals of
    the draws are 0 to 1 where they are not asked for, which is faster."""
    if sampling.temperature == 0:
        ids = logits.argmax(axis=-1)  # the lowest id of the largest
        return Draws(ids, np.zeros(len(ids)), np.ones(len(ids)), np.full(len(ids), np.nan))
    softmax = keeps_logits(sampling)

    def draw_row(row: np.ndarray, u: float, buffer: np.ndarray) -> tuple[float, ...]:
        weight, mass = buffer
        weight[:] = row
        weigh(weight, sampling)
        logprob, low, high = math.nan, 0.0, 1.0
        if intervals:
            np.cumsum(weight, out=mass)  # in order of ids; numpy keeps its lock if out is the input
            id = draw(mass, u)
            low, high = mass[id - 1] / mass[-1] if id else 0.0, mass[id] / mass[-1]
        else:
            id = draw_once(weight, u)
        if softmax:
            logprob = np.float64(row[id]) - np.float64(row.max()) - np.log(weight.sum())
        return id, low, high, logprob

    ids, low, high, logprobs = _map_rows(draw_row, logits, u).T
    return Draws(ids.astype(int), low, high, logprobs)


class RandomNumbers:
    """The uniform numbers in [0, 1) that samples are drawn by: u(seed, row, sample, step).

    Stratified over n samples (`strata`), sample i of a prompt has one code point (i + s) / n
    instead. Each draw rescales it from the drawn token's interval to [0, 1); after CODE_POINT_BITS
    bits it is used up, and u takes over (arithmetic sampling, Vilnis et al. 2023)."""

    def __init__(self, seed: int, strata: int = 0) -> None:
        """`seed` and `strata` are those of samples that are added without their own."""
        self._seed, self._strata, self._stratified = seed, strata, False
        self._seeds = np.zeros(0, np.uint64)  # keys [N]
        self._rows, self._samples = np.zeros((2, 0), int)  # keys [N]
        self._drawn = np.zeros((0, STEPS_AHEAD))  # [N, STEPS_AHEAD] u of a block of steps
        self._block = np.zeros(0, int)  # [N] number of that block
        self._code_points, self._bits_left = np.zeros((2, 0))  # [N]

    def add(
        self,
        rows: Sequence[int] | np.ndarray,
        samples: Sequence[int] | np.ndarray,
        seed: int | None = None,
        strata: int | None = None,
    ) -> None:
        """Adds samples by their keys [n]."""
        rows, samples = np.asarray(rows), np.asarray(samples)
        seed = self._seed if seed is None else seed
        strata = self._strata if strata is None else strata
        code_points, bits_left = np.zeros((2, len(rows)))
        if strata:
            self._stratified = True
            shift = uniform(seed, rows, np.array(SHIFT_KEY[0]), np.array(SHIFT_KEY[1]))
            code_points = np.minimum((samples + shift) / strata, BELOW_ONE)
            bits_left[:] = CODE_POINT_BITS
        self._seeds = np.concatenate([self._seeds, np.full(len(rows), seed, np.uint64)])
        self._rows = np.concatenate([self._rows, rows])
        self._samples = np.concatenate([self._samples, samples])
        self._drawn = np.concatenate([self._drawn, np.zeros((len(rows), STEPS_AHEAD))])
        self._block = np.concatenate([self._block, np.full(len(rows), -1)])
        self._code_points = np.concatenate([self._code_points, code_points])
        self._bits_left = np.concatenate([self._bits_left, bits_left])

    def keep(self, indices: Sequence[int]) -> None:
        """Keeps the samples at `indices` [n] only, in this order."""
        kept = np.asarray(indices, int)
        self._seeds, self._rows = self._seeds[kept], self._rows[kept]
        self._samples, self._block = self._samples[kept], self._block[kept]
        self._drawn, self._bits_left = self._drawn[kept], self._bits_left[kept]
        self._code_points = self._code_points[kept]

    def at(self, indices: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The numbers [n] of the samples at `indices` [n] for their steps [n]."""
        block, offset = np.divmod(steps, STEPS_AHEAD)
        stale = indices[self._block[indices] != block]
        if len(stale):
            self._block[indices] = block
            ahead = self._block[stale, None] * STEPS_AHEAD + np.arange(STEPS_AHEAD)
            rows, samples = self._rows[stale, None], self._samples[stale, None]
            self._drawn[stale] = uniform(self._seeds[stale, None], rows, samples, ahead)
        fresh = self._drawn[indices, offset]
        if not self._stratified:
            return fresh
        return np.where(self._bits_left[indices] > 0, self._code_points[indices], fresh)

    def rescale(self, indices: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Rescales the code points of samples that have drawn within low to high [n]."""
        if not self._stratified:
            return
        code_points = (self._code_points[indices] - low) / (high - low)
        self._code_points[indices] = np.clip(code_points, 0.0, BELOW_ONE)
        self._bits_left[indices] += np.log2(high - low)


def finite(logits: np.ndarray) -> np.ndarray:
    """Returns the logits [..., V]; ModelError unless each row has a finite maximum."""
    if not np.isfinite(logits.max(axis=-1)).all():
        raise ModelError(
            "the model's logits are not numbers",
            "its weights may be broken, or too large for this precision: try fp32",
        )
    return logits


def log_probabilities(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The model's own log p(id) [N], before any filter, of logits [N, V]; natural, float64; equal
    to those of `normalized`, bit for bit."""

    def row_log_probability(row: np.ndarray, id: int, buffer: np.ndarray) -> float:
        shifted = np.subtract(row, np.float64(row.max()), out=buffer[0])
        chosen = shifted[id]
        return float(chosen - np.log(np.exp(shifted, out=shifted).sum()))

    return _map_rows(row_log_probability, logits, ids)


def normalized(logits: np.ndarray) -> np.ndarray:
    """Log-softmax: log p [..., V] of logits [..., V]; natural, float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _map_rows(function: Callable[..., Any], logits: np.ndarray, operands: np.ndarray) -> np.ndarray:
    """Calls function(row [V], operand, buffer) for each row of logits [N, V] and its element of
    `operands` [N]. The buffer, float64 [2, V], is reused: new memory for each row costs more than
    the arithmetic. Many rows are shared among the cores: numpy holds no lock while it computes."""

    def map_part(rows: np.ndarray, part_operands: np.ndarray) -> list[Any]:
        buffer = np.empty((2, rows.shape[-1]))
        pairs = zip(rows, part_operands, strict=True)
        return [function(row, operand, buffer) for row, operand in pairs]

    parts = logits.size // LOGITS_PER_THREAD
    if parts < 2:
        return np.array(map_part(logits, operands))
    parts = min(os.cpu_count() or 1, parts)
    cut = (np.array_split(x, parts) for x in (logits, operands))
    return np.array([value for part in _threads().map(map_part, *cut) for value in part])


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="draws")


def top_k_ids(row: np.ndarray, count: int) -> np.ndarray:
    """Ids of the `count` largest numbers of row [V], largest first, of equal ones the lowest id
    first."""
    top = np.argpartition(-row, count - 1)[:count] if count < len(row) else np.arange(len(row))
    top = np.flatnonzero(row >= row[top].min())
    return top[np.argsort(-row[top], kind="stable")][:count]
