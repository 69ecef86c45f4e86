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


class Scoring(NamedTuple):
    """How a layer scores: queries times `scale`, capped, within `window` positions, times log-n."""

    scale: np.float32
    cap: float | None
    window: int | None
    log_n: int | None


class Group(NamedTuple):
    """Rows computed together: neighbouring slots, if they are a slice, that share a prefix."""

    slots: slice | np.ndarray
    prefix: PrefixCache
    keys: int  # M: own keys of the longest of them after the step
    positions: np.ndarray  # [n, T]
    hidden: np.ndarray | None  # [n, 1, T, M] own keys that come after a token


class StepPlan(NamedTuple):
    """What all layers of a step share."""

    rows: np.ndarray | None  # [N] row of each slot; None where that is its number
    slots: np.ndarray | None  # [N] slot of each row
    length: np.ndarray  # [N] tokens of each slot's row before the step
    uniform: int | None  # the length, if all are of one
    keys: int  # own keys of the longest row after the step
    groups: tuple[Group, ...]


def scoring(arch: Arch, layer: int, key_size: int) -> Scoring:
    window = arch.window if layer in arch.window_layers else None
    scale = np.float32((arch.query_scale or key_size) ** -0.5)
    return Scoring(scale, arch.score_cap, window, arch.log_n)


def step_plan(cache: RowCache, positions: np.ndarray) -> StepPlan:
    """For tokens at positions [N, T]. Rows of one prefix are a group; if rows are to be independent
    of the batch, those of one length among them: so every product has the shape that it has for a
    row alone."""
    n, t = positions.shape
    if n == 1:
        keys = cache.longest + t
        hidden = None if t == 1 else ~np.tri(t, keys, cache.longest, bool)[None, None]
        prefix = cache.prefixes[int(cache.owner[0])]
        group = Group(slice(0, 1), prefix, keys, positions, hidden)
        return StepPlan(None, None, cache.length, cache.longest, keys, (group,))
    slots = cache.slots
    ordered = np.array_equal(slots, np.arange(n))
    rows = None if ordered else np.argsort(slots)
    owner, length = cache.owner, cache.length
    if rows is not None:
        owner, length, positions = owner[rows], length[rows], positions[rows]
    uniform = int(length[0]) if (length == length[0]).all() else None
    kinds = owner
    if cache.batch_invariant and uniform is None:
        kinds = owner * (int(length.max()) + 1) + length
    groups = []
    for kind in dict.fromkeys(kinds.tolist()):
        where = _run(np.flatnonzero(kinds == kind))
        mine = length[where]
        keys = int(mine.max()) + t
        hidden = None
        if t > 1 or int(mine.min()) + t < keys:
            hidden = np.arange(keys) > mine[:, None, None] + np.arange(t)[:, None]
            hidden = hidden[:, None]
        prefix = cache.prefixes[int(owner[where][0])]
        groups.append(Group(where, prefix, keys, positions[where], hidden))
    keys = cache.longest + t
    return StepPlan(rows, None if ordered else slots, length, uniform, keys, tuple(groups))


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
    kv = cache.layers[layer]
    _write(plan, kv, k, v)
    if len(plan.groups) == 1:
        context = _attend_group(scoring, plan.groups[0], cache, layer, q)
    else:
        context = np.empty((*q.shape[:-1], v.shape[-1]), np.float32)
        for group in plan.groups:
            context[group.slots] = _attend_group(scoring, group, cache, layer, q[group.slots])
    return context if plan.slots is None else context[plan.slots]


def _attend_group(
    scoring: Scoring, group: Group, cache: RowCache, layer: int, q: np.ndarray
) -> np.ndarray:
    """Context [n, T, H, Ev] of q [n, T, H, E] over the prefix and the rows' own keys."""
    n, t, h, e = q.shape
    own, prefix = cache.layers[layer], group.prefix.layer(layer)
    g, p, m = prefix.keys.shape[0], group.prefix.length, group.keys
    own_keys, own_values = (x[group.slots, :, :m] for x in own)  # [n, G, M, E]
    queries = _by_group(_scaled(scoring, q, group.positions), g)  # [n, G, H/G*T, E]
    scores = np.empty((n, g, h // g * t, p + m), np.float32)
    shared = cache.batch_invariant or n == 1
    if shared:
        np.matmul(queries, prefix.keys.transpose(0, 2, 1), out=scores[..., :p])
    else:
        scores[..., :p] = _joint(queries, prefix.keys.transpose(0, 2, 1))
    np.matmul(queries, own_keys.transpose(0, 1, 3, 2), out=scores[..., p:])
    if scoring.cap is not None:
        _cap(scores, scoring.cap)
    if group.hidden is not None or scoring.window is not None:
        _hide(scoring, group, scores.reshape(n, h, t, p + m))
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    weights = scores[..., :p]
    context = np.matmul(weights, prefix.values) if shared else _joint(weights, prefix.values)
    context += np.matmul(scores[..., p:], own_values)  # [n, G, H/G*T, Ev]
    context /= scores.sum(axis=-1, keepdims=True)
    if t == 1:
        return context.reshape(n, 1, h, -1)
    return context.reshape(n, h, t, -1).transpose(0, 2, 1, 3)


def _by_group(q: np.ndarray, groups: int) -> np.ndarray:
    """q [n, T, H, E] as [n, G, H/G*T, E]."""
    n, t, h, e = q.shape
    if t > 1:
        q = q.transpose(0, 2, 1, 3)
    return q.reshape(n, groups, h // groups * t, e)


def _joint(x: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """x [n, G, Q, A] times [G, A, B], all rows in one product for each of the G: [n, G, Q, B]."""
    n, g, count, width = x.shape
    flat = x.transpose(1, 0, 2, 3).reshape(g, n * count, width)
    return np.matmul(flat, shared).reshape(g, n, count, -1).transpose(1, 0, 2, 3)


def _hide(scoring: Scoring, group: Group, scores: np.ndarray) -> None:
    """Hides scores [n, H, T, P+M] of keys that come after a token, or are out of its window."""
    p = group.prefix.length
    if group.hidden is not None:
        np.copyto(scores[..., p:], HIDDEN, where=group.hidden)
    if scoring.window is not None and p + group.keys > scoring.window:
        far = group.positions[..., None] - np.arange(p + group.keys) >= scoring.window
        np.copyto(scores, HIDDEN, where=far[:, None])


def _run(where: np.ndarray) -> slice | np.ndarray:
    """Rising numbers as a slice, if they leave none out."""
    first, last = int(where[0]), int(where[-1])
    return slice(first, last + 1) if last - first + 1 == len(where) else where


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
        if scoring.cap is not None:
            _cap(scores, scoring.cap)
        scores = scores.reshape(g, h // g, n, last - low)
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


def _write(plan: StepPlan, kv: LayerKV, k: np.ndarray, v: np.ndarray) -> None:
    """Writes k and v [N, T, G, E] behind what the rows of slots have."""
    n, t = k.shape[:2]
    if plan.uniform is None:
        slots, places = np.arange(n)[:, None], plan.length[:, None] + np.arange(t)  # [N, T]
    for kept, new in ((kv.keys, k), (kv.values, v)):
        if plan.uniform is None:
            kept[slots, :, places] = new
        else:
            kept[:n, :, plan.uniform : plan.keys] = new.transpose(0, 2, 1, 3)


def _scaled(scoring: Scoring, q: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Queries q [..., H, E] of positions [...] times what their scores are multiplied by. Log-n is
    log(max(n, 16)) / log(base) where a query sees n keys (Su 2021, kexue.fm 8823)."""
    if scoring.log_n is None:
        return q * scoring.scale
    seen = positions + 1 if scoring.window is None else np.minimum(positions + 1, scoring.window)
    factor = np.log(np.maximum(seen, 16).astype(np.float32)) / math.log(scoring.log_n)
    return q * (factor.astype(np.float32) * scoring.scale)[..., None, None]


def _cap(scores: np.ndarray, cap: float) -> None:
    """cap * tanh(scores / cap), in place."""
    scores /= np.float32(cap)
    np.tanh(scores, out=scores)
    scores *= np.float32(cap)
