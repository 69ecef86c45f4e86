"""Attention in numpy over the keys and values of a prefix, which rows of a prompt share, and each
row's own. Softmax is computed over both together, without joining them.
"""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from gentool.config.model import Arch
from gentool.runtimes.litert.kv_cache import LayerKV, PrefixCache, RowCache
from gentool.runtimes.litert.workers import PARALLEL, Workers

MASKED_SCORE = np.float32(-3e38)
SCORE_BYTES = 1 << 20  # of the scores of one block of queries, which stay in the cache
MIN_BLOCK, MAX_BLOCK = 16, 128  # queries
FIXED_BLOCKS = 32, 64  # queries of a block with a fixed place: of the first two, of the others


class ScoreParams(NamedTuple):
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
    mask: np.ndarray | None  # [n, 1, T, M] True where an own key comes after a token


class StepPlan(NamedTuple):
    """What all layers of a step share."""

    rows: np.ndarray | None  # [N] row of each slot; None where that is its number
    slots: np.ndarray | None  # [N] slot of each row
    length: np.ndarray  # [N] tokens of each slot's row before the step
    uniform: int | None  # the length, if all are of one
    keys: int  # own keys of the longest row after the step
    groups: tuple[Group, ...]


def scoring(arch: Arch, layer: int, key_size: int) -> ScoreParams:
    window = arch.window if layer in arch.window_layers else None
    scale = np.float32((arch.query_scale or key_size) ** -0.5)
    return ScoreParams(scale, arch.score_cap, window, arch.log_n)


def step_plan(cache: RowCache, positions: np.ndarray, n_head: int, workers: Workers) -> StepPlan:
    """For tokens at positions [N, T]. Rows of one prefix are a group, or one for each thread. If
    results must not depend on the batch, rows of a group have one length too, so every product has
    the shape that it has for a row alone."""
    n, t = positions.shape
    if n == 1:
        keys = cache.longest + t
        mask = None if t == 1 else ~np.tri(t, keys, cache.longest, bool)[None, None]
        prefix = cache.prefixes[int(cache.owner[0])]
        group = Group(slice(0, 1), prefix, keys, positions, mask)
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
    parts: list[slice | np.ndarray] = []
    for kind in dict.fromkeys(kinds.tolist()):
        mine = np.flatnonzero(kinds == kind)
        keys = cache.prefixes[int(owner[mine[0]])].length + cache.longest + t
        shares = workers.parts(len(mine), len(mine) * t * n_head * keys)
        parts += [_as_slice(mine[share]) for share in shares]
    for where in parts:
        mine = length[where]
        keys = int(mine.max()) + t
        mask = None
        if t > 1 or int(mine.min()) + t < keys:
            mask = np.arange(keys) > mine[:, None, None] + np.arange(t)[:, None]
            mask = mask[:, None]
        prefix = cache.prefixes[int(owner[where][0])]
        groups.append(Group(where, prefix, keys, positions[where], mask))
    keys = cache.longest + t
    return StepPlan(rows, None if ordered else slots, length, uniform, keys, tuple(groups))


def attend_rows(
    scoring: ScoreParams,
    workers: Workers,
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

        def attend(group: Group) -> None:
            context[group.slots] = _attend_group(scoring, group, cache, layer, q[group.slots])

        workers.run([functools.partial(attend, group) for group in plan.groups])
    return context if plan.slots is None else context[plan.slots]


def _attend_group(
    scoring: ScoreParams, group: Group, cache: RowCache, layer: int, q: np.ndarray
) -> np.ndarray:
    """Context [n, T, H, Ev] of q [n, T, H, E] over the prefix and the rows' own keys."""
    n, t, h, e = q.shape
    own, prefix = cache.layers[layer], group.prefix.layer(layer)
    g, p, m = prefix.keys.shape[0], group.prefix.length, group.keys
    own_keys, own_values = (x[group.slots, :, :m] for x in own)  # [n, G, M, E]
    queries = _by_group(_scaled(scoring, q, group.positions), g)  # [n, G, H/G*T, E]
    scores = np.empty((n, g, h // g * t, p + m), np.float32)
    row_by_row = cache.batch_invariant or n == 1
    if row_by_row:
        np.matmul(queries, prefix.keys.transpose(0, 2, 1), out=scores[..., :p])
    else:
        scores[..., :p] = _matmul_rows_together(queries, prefix.keys.transpose(0, 2, 1))
    np.matmul(queries, own_keys.transpose(0, 1, 3, 2), out=scores[..., p:])
    if scoring.cap is not None:
        _cap(scores, scoring.cap)
    if group.mask is not None or scoring.window is not None:
        _mask_scores(scoring, group, scores.reshape(n, h, t, p + m))
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    weights = scores[..., :p]
    multiply = np.matmul if row_by_row else _matmul_rows_together
    context = multiply(weights, prefix.values)
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


def _matmul_rows_together(x: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """x [n, G, Q, Y] times [G, Y, Z], all rows in one product for each of the G: [n, G, Q, Z]."""
    n, g, count, width = x.shape
    flat = x.transpose(1, 0, 2, 3).reshape(g, n * count, width)
    return np.matmul(flat, shared).reshape(g, n, count, -1).transpose(1, 0, 2, 3)


def _mask_scores(scoring: ScoreParams, group: Group, scores: np.ndarray) -> None:
    """Masks scores [n, H, T, P+M] of keys that come after a token, or are out of its window."""
    p = group.prefix.length
    if group.mask is not None:
        np.copyto(scores[..., p:], MASKED_SCORE, where=group.mask)
    if scoring.window is not None and p + group.keys > scoring.window:
        far = group.positions[..., None] - np.arange(p + group.keys) >= scoring.window
        np.copyto(scores, MASKED_SCORE, where=far[:, None])


def _as_slice(where: np.ndarray) -> slice | np.ndarray:
    """Increasing indices as a slice, if they are contiguous."""
    first, last = int(where[0]), int(where[-1])
    return slice(first, last + 1) if last - first + 1 == len(where) else where


def attend_prompt(
    scoring: ScoreParams,
    workers: Workers,
    kv: LayerKV,
    first: int,
    start: int,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    batch_invariant: bool = False,
) -> np.ndarray:
    """Context [Q, H, Ev] of the queries q [Q, H, E] of positions first.., after k [T, G, E] and v
    [T, G, Ev] of positions start.. are written to `kv`. It is computed in blocks of queries and of
    groups of heads, so that scores stay in the cache and take little memory beside the keys. If it
    is batch-invariant, blocks have fixed places in a text: the shapes of a query's products, its
    row in them, and so its bits, depend on its position only."""
    (count, h, _), (t, g, _) = q.shape, k.shape
    kv.keys[:, start : start + t] = k.transpose(1, 0, 2)
    kv.values[:, start : start + t] = v.transpose(1, 0, 2)
    out = np.empty((count, h, v.shape[-1]), np.float32)
    q = _scaled(scoring, q, first + np.arange(count))
    last = first + count
    if batch_invariant:
        blocks = _fixed_blocks(first, last)
    else:
        step = max(MIN_BLOCK, min(MAX_BLOCK, SCORE_BYTES // (4 * (h // g) * last)))
        blocks = [(at, min(at + step, last)) for at in range(first, last, step)]
    parallel = count * h * last >= PARALLEL
    task = functools.partial(_attend_block, scoring, kv, first, q, out, h // g)
    tasks = []
    for begin, end in blocks[::-1]:  # the longest first
        groups = max(1, SCORE_BYTES // (4 * (h // g) * (end - begin) * end))
        if parallel and len(blocks) < workers.threads:
            groups = min(groups, -(-g // workers.threads))
        for at in range(0, g, groups):
            tasks.append(functools.partial(task, begin, end, at, at + groups))
    if parallel:
        workers.run(tasks)
    else:
        for run in tasks:
            run()
    return out


def _fixed_blocks(first: int, last: int) -> list[tuple[int, int]]:
    """The blocks with positions first..last. Small ones at the start: most prompts are short."""
    small, large = FIXED_BLOCKS
    edges = [0, small, *range(large, last + large, large)]
    return [block for block in pairwise(edges) if first < block[1] and block[0] < last]


def _attend_block(
    scoring: ScoreParams,
    kv: LayerKV,
    first: int,
    q: np.ndarray,
    out: np.ndarray,
    size: int,
    begin: int,
    end: int,
    group: int,
    end_group: int,
) -> None:
    """The context of the queries of positions begin..end and the heads of some groups, `size` each,
    into `out`, whose positions are first... Those that `out` lacks are computed as zeros."""
    heads, groups = slice(group * size, end_group * size), slice(group, end_group)
    n, last = end - begin, first + len(q)
    low = 0 if scoring.window is None else max(0, begin - scoring.window + 1)
    before, after = max(0, first - begin), max(0, end - last)
    there = slice(begin + before - first, end - after - first)
    queries = _padded(q[there, heads].transpose(1, 0, 2), before, after)  # [heads, n, E]
    count, _, width = queries.shape
    queries = queries.reshape(-1, size * n, width)  # [groups, H/G*n, E]
    known = slice(low, end - after)
    keys = _padded(kv.keys[groups, known], 0, after)
    scores = np.matmul(queries, keys.transpose(0, 2, 1))  # [groups, H/G*n, keys]
    if scoring.cap is not None:
        _cap(scores, scoring.cap)
    by_head = scores.reshape(count, n, end - low)
    if scoring.window is not None:
        mine, seen = np.arange(begin, end)[:, None], np.arange(low, end)
        np.copyto(by_head, MASKED_SCORE, where=(seen > mine) | (mine - seen >= scoring.window))
    elif n > 1:
        np.copyto(by_head[..., -n:], MASKED_SCORE, where=_later(n))
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    context = np.matmul(scores, _padded(kv.values[groups, known], 0, after))
    context /= scores.sum(axis=-1, keepdims=True)
    own = context.reshape(count, n, -1)[:, before : n - after]
    out[there, heads] = own.transpose(1, 0, 2)


@functools.lru_cache(MAX_BLOCK)
def _later(n: int) -> np.ndarray:
    """[n, n] True where a key comes after a query."""
    return ~np.tri(n, dtype=bool)


def _padded(x: np.ndarray, before: int, after: int) -> np.ndarray:
    """x [H, T, E] with rows of zeros before and after it."""
    if not before and not after:
        return x
    h, t, width = x.shape
    out = np.zeros((h, before + t + after, width), x.dtype)
    out[:, before : before + t] = x
    return out


def _write(plan: StepPlan, kv: LayerKV, k: np.ndarray, v: np.ndarray) -> None:
    """Writes k and v [N, T, G, E] after the keys and values that the rows have."""
    n, t = k.shape[:2]
    if plan.uniform is None:
        slots, positions = np.arange(n)[:, None], plan.length[:, None] + np.arange(t)  # [N, T]
    for kept, new in ((kv.keys, k), (kv.values, v)):
        if plan.uniform is None:
            kept[slots, :, positions] = new
        else:
            kept[:n, :, plan.uniform : plan.keys] = new.transpose(0, 2, 1, 3)


def _scaled(scoring: ScoreParams, q: np.ndarray, positions: np.ndarray) -> np.ndarray:
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
