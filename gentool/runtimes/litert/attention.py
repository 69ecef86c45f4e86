"""Attention in numpy over two kinds of keys and values: those of a prefix, which rows of a prompt
share, and each row's own. Softmax is computed over both together, without joining them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gentool.config.model import Arch
from gentool.runtimes.litert.kv_cache import LayerKV, PrefixCache, RowCache

HIDDEN = np.float32(-3e38)  # the score of a key that a query does not see
SCORE_BYTES = 1 << 21  # of the scores of one block of queries, which stay in the cache
SHORT = 24  # own keys of many rows up to which a loop is faster than many small BLAS calls


class Scoring(NamedTuple):
    """How a layer scores: queries times `scale`, capped, within `window` positions, times log-n."""

    scale: np.float32
    cap: float | None
    window: int | None
    log_n: int | None


class Group(NamedTuple):
    """Slots whose rows share a prefix."""

    slots: slice | np.ndarray
    prefix: PrefixCache


class StepPlan(NamedTuple):
    """What all layers of a step of N rows and T tokens share; arrays are in the order of slots."""

    rows: np.ndarray | None  # [N] row of each slot; None where that is its number
    slots: np.ndarray | None  # [N] slot of each row
    length: np.ndarray  # [N] tokens of each row before the step
    uniform: int | None  # the length, if all are of one
    start: np.ndarray  # [N] tokens of each prefix
    positions: np.ndarray  # [N, T]
    keys: int  # M: own keys of the longest row after the step
    hidden: np.ndarray | None  # [N, T, M] own keys that come after a token
    groups: tuple[Group, ...]


def scoring(arch: Arch, layer: int, key_size: int) -> Scoring:
    window = arch.window if layer in arch.window_layers else None
    scale = np.float32((arch.query_scale or key_size) ** -0.5)
    return Scoring(scale, arch.score_cap, window, arch.log_n)


def rotated(x: np.ndarray, cosines: np.ndarray, sines: np.ndarray) -> np.ndarray:
    """x [R, H, E] with the halves of each head rotated by cosines and sines [R, 1, E] that are
    doubled, the first half of the sines negated."""
    half = x.shape[-1] // 2
    y = x * cosines
    swapped = np.concatenate([x[..., half:], x[..., :half]], axis=-1)
    swapped *= sines
    y += swapped
    return y


def step_plan(cache: RowCache, positions: np.ndarray) -> StepPlan:
    n, t = positions.shape
    slots = cache.slots
    ordered = np.array_equal(slots, np.arange(n))
    rows = None if ordered else np.argsort(slots)
    owner = cache.owner if rows is None else cache.owner[rows]
    length = cache.length if rows is None else cache.length[rows]
    positions = positions if rows is None else positions[rows]
    uniform = int(length[0]) if (length == length[0]).all() else None
    keys = int(length.max()) + t
    hidden = None
    if t > 1 or uniform is None:
        hidden = np.arange(keys) > length[:, None, None] + np.arange(t)[:, None]
    groups = []
    for index in dict.fromkeys(owner.tolist()):
        where = np.flatnonzero(owner == index)
        first, last = int(where[0]), int(where[-1])
        run = last - first + 1 == len(where)
        prefix = cache.prefixes[index]
        groups.append(Group(slice(first, last + 1) if run else where, prefix))
    starts = np.array([prefix.length for prefix in cache.prefixes])[owner]
    return StepPlan(
        rows,
        None if ordered else slots,
        length,
        uniform,
        starts,
        positions,
        keys,
        hidden,
        tuple(groups),
    )


def attend_rows(
    scoring: Scoring,
    plan: StepPlan,
    cache: RowCache,
    layer: int,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
) -> np.ndarray:
    """Context [N, T, H, Ev] of q [N, T, H, E], after k [N, T, G, E] and v [N, T, G, Ev] are written
    to the cache."""
    if plan.rows is not None:
        q, k, v = q[plan.rows], k[plan.rows], v[plan.rows]
    n, t, h, e = q.shape
    g = k.shape[2]
    keys, values = _write(plan, cache.layers[layer], k, v)  # [N, G, M, E]
    q = _scaled(scoring, q, plan.positions)
    queries = np.ascontiguousarray(
        q.reshape(n, t, g, h // g, e).transpose(2, 0, 3, 1, 4)
    )  # [G, N, H/G, T, E]
    own = _own_scores(queries.reshape(g, n, h // g * t, e), keys.transpose(1, 0, 2, 3))
    own = _capped(own, scoring.cap).reshape(g, n, h // g, t, plan.keys)
    hidden = plan.hidden
    if scoring.window is not None:
        near = plan.start[:, None] + np.arange(plan.keys)  # [N, M] positions
        far = plan.positions[..., None] - near[:, None] >= scoring.window
        hidden = far if hidden is None else hidden | far
    if hidden is not None:
        np.copyto(own, HIDDEN, where=hidden[:, None])
    largest = own.max(axis=-1, keepdims=True)  # [G, N, H/G, T, 1]
    shared = []
    for where, prefix in plan.groups:
        if prefix.length == 0:
            continue
        positions = plan.positions[where]
        scores = _prefix_scores(scoring, queries[:, where], positions, prefix.layer(layer).keys)
        shared.append((where, prefix, scores))
        largest[:, where] = np.maximum(largest[:, where], scores.max(axis=-1, keepdims=True))
    own -= largest
    np.exp(own, out=own)
    total = own.sum(axis=-1, keepdims=True)
    context = _own_context(
        own.reshape(g, n, h // g * t, plan.keys), values.transpose(1, 0, 2, 3)
    ).reshape(g, n, h // g, t, -1)
    for where, prefix, scores in shared:
        scores -= largest[:, where]
        np.exp(scores, out=scores)
        total[:, where] += scores.sum(axis=-1, keepdims=True)
        rows = scores.shape[1]
        flat = scores.reshape(g, -1, scores.shape[-1])  # [G, n*H/G*T, P]
        part = np.matmul(flat, prefix.layer(layer).values)
        context[:, where] += part.reshape(g, rows, h // g, t, -1)
    context /= total
    context = context.transpose(1, 3, 0, 2, 4).reshape(n, t, h, -1)
    return context if plan.slots is None else context[plan.slots]


def attend_prompt(
    scoring: Scoring,
    kv: LayerKV,
    first: int,
    start: int,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
) -> np.ndarray:
    """Context [Q, H, Ev] of the queries q [Q, H, E] of positions first.., after k [T, G, E] and v
    [T, G, Ev] of positions start.. are written to `kv`. Queries are computed in blocks, so that
    their scores take memory that does not grow with T."""
    (count, h, e), (t, g, _) = q.shape, k.shape
    kv.keys[:, start : start + t] = k.transpose(1, 0, 2)
    kv.values[:, start : start + t] = v.transpose(1, 0, 2)
    out = np.empty((count, h, v.shape[-1]), np.float32)
    positions = first + np.arange(count)
    q = _scaled(scoring, q, positions)
    step = max(16, SCORE_BYTES // (4 * h * (first + count)))
    for at in range(0, count, step):
        block = q[at : at + step]
        n, last = len(block), first + min(at + step, count)  # keys before `last` are seen
        low = 0 if scoring.window is None else max(0, first + at - scoring.window + 1)
        queries = block.reshape(n, g, h // g, e).transpose(1, 2, 0, 3).reshape(g, -1, e)
        scores = np.matmul(queries, kv.keys[:, low:last].transpose(0, 2, 1))
        scores = _capped(scores, scoring.cap).reshape(g, h // g, n, last - low)
        mine = positions[at : at + n, None]
        if scoring.window is not None:
            there = np.arange(low, last)
            hidden = (there > mine) | (mine - there >= scoring.window)
            np.copyto(scores, HIDDEN, where=hidden)
        elif n > 1:
            np.copyto(scores[..., -n:], HIDDEN, where=~np.tri(n, dtype=bool))
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        total = scores.sum(axis=-1, keepdims=True)
        context = np.matmul(scores.reshape(g, -1, last - low), kv.values[:, low:last])
        context = context.reshape(g, h // g, n, -1)
        context /= total
        out[at : at + n] = context.transpose(2, 0, 1, 3).reshape(n, h, -1)
    return out


def _write(plan: StepPlan, kv: LayerKV, k: np.ndarray, v: np.ndarray) -> LayerKV:
    """Writes k and v [N, T, G, E] behind what rows have; gives views [N, G, M, E] of all of it."""
    n, t = k.shape[:2]
    for kept, new in ((kv.keys, k), (kv.values, v)):
        if plan.uniform is not None:
            kept[:n, :, plan.uniform : plan.keys] = new.transpose(0, 2, 1, 3)
        else:
            # a slot between a row's end and the longest row's is hidden, but must be a number
            for slot, end in enumerate(plan.length.tolist()):
                kept[slot, :, end : end + t] = new[slot].transpose(1, 0, 2)
                kept[slot, :, end + t : plan.keys] = 0
    return LayerKV(kv.keys[:n, :, : plan.keys], kv.values[:n, :, : plan.keys])


def _scaled(scoring: Scoring, q: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Queries q [..., H, E] of positions [...] times what their scores are multiplied by. Log-n is
    log(max(n, 16)) / log(base) where a query sees n keys (Su 2021, kexue.fm 8823)."""
    if scoring.log_n is None:
        return q * scoring.scale
    seen = positions + 1 if scoring.window is None else np.minimum(positions + 1, scoring.window)
    factor = np.log(np.maximum(seen, 16).astype(np.float32)) / math.log(scoring.log_n)
    return q * (factor.astype(np.float32) * scoring.scale)[..., None, None]


def _prefix_scores(
    scoring: Scoring, queries: np.ndarray, positions: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    """Scores [G, n, H/G, T, P] of queries [G, n, H/G, T, E] at positions [n, T]."""
    g, e, p = len(queries), queries.shape[-1], keys.shape[1]
    scores = np.matmul(queries.reshape(g, -1, e), keys.transpose(0, 2, 1))
    scores = _capped(scores, scoring.cap).reshape(*queries.shape[:-1], p)
    if scoring.window is not None:
        far = positions[..., None] - np.arange(p) >= scoring.window  # [n, T, P]
        np.copyto(scores, HIDDEN, where=far[:, None])
    return scores


def _own_scores(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """[G, N, Q, M] of queries [G, N, Q, E] and keys [G, N, M, E]."""
    if keys.shape[1] > 1 and keys.shape[2] <= SHORT:
        return np.einsum("gnqe,gnme->gnqm", queries, keys)
    return np.matmul(queries, keys.transpose(0, 1, 3, 2))


def _own_context(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[G, N, Q, Ev] of weights [G, N, Q, M] and values [G, N, M, Ev]."""
    if values.shape[1] > 1 and values.shape[2] <= SHORT:
        return np.einsum("gnqm,gnme->gnqe", weights, values)
    return np.matmul(weights, values)


def _capped(scores: np.ndarray, cap: float | None) -> np.ndarray:
    """cap * tanh(scores / cap) in place."""
    if cap is not None:
        scores /= np.float32(cap)
        np.tanh(scores, out=scores)
        scores *= np.float32(cap)
    return scores
