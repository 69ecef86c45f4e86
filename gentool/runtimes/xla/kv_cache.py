"""KV caches as XLA needs them: static shapes, updated in place. Rows are laid out in blocks,
each one call of the step; slots are counted alike for all rows, and a mask says which hold a row's
own tokens, so that rows of different lengths live side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from gentool.config.model import Arch
from gentool.runtimes.ops import Tensor
from gentool.runtimes.xla import buckets

KV = tuple[tuple[Tensor, Tensor], ...]  # keys and values of each layer

COMPUTE = tf.float32  # of the residual stream and the KV cache


class PrefixCache(NamedTuple):
    """A computed prompt: keys and values [G, P, E] of each layer, of which the first `length` are
    of tokens."""

    kv: KV
    length: int


class Block(NamedTuple):
    """Rows computed in one call: R for each of B prefixes, prefix-major, some of them unused."""

    owners: tuple[int, ...]  # B indexes into the prefixes
    prefix: KV  # [B*G, P, E]
    prefix_mask: Tensor  # [B, P]
    kv: KV  # variables [B*R*G, M, E]


@dataclass
class RowCache:
    """What rows have beyond their prefixes."""

    prefixes: list[PrefixCache]
    batch_invariant: bool
    owner: np.ndarray  # [N] prefix of each row
    mask: np.ndarray  # [N, M] slots that hold tokens of the row
    slot_positions: np.ndarray  # [N, M] position of the token in each slot
    used: int  # slots taken
    blocks: list[Block]
    place: np.ndarray  # [N, 2] block of each row, and its row in there


def empty(prefixes: Sequence[PrefixCache], slots: int, batch_invariant: bool) -> RowCache:
    """A cache without rows."""
    return RowCache(
        list(prefixes),
        batch_invariant,
        np.zeros(0, int),
        np.zeros((0, buckets.tokens(slots)), bool),
        np.zeros((0, buckets.tokens(slots)), np.int32),
        0,
        [],
        np.zeros((0, 2), int),
    )


def move(
    cache: RowCache, arch: Arch, owner: np.ndarray, parents: np.ndarray, new_tokens: int
) -> None:
    """Row i becomes a copy of the former row parents[i], or a new one where that is -1, with room
    for `new_tokens` more; moves memory only if it must."""
    n, slots = len(parents), cache.mask.shape[1]
    fits = cache.used + new_tokens <= slots
    if fits and n == len(cache.owner) and np.array_equal(parents, np.arange(n)):
        return
    joined = parents < 0
    more = 0 if fits else buckets.tokens(cache.used + new_tokens) - slots
    if len(cache.owner):
        old = cache.place[parents]
        mask, positions = (a[parents] for a in (cache.mask, cache.slot_positions))
        mask[joined] = False
    else:
        old = None
        mask, positions = np.zeros((n, slots), bool), np.zeros((n, slots), np.int32)
    cache.owner = owner
    cache.mask, cache.slot_positions = (np.pad(a, ((0, 0), (0, more))) for a in (mask, positions))
    _lay_out(cache, arch, old)


def rewind(cache: RowCache, lengths: np.ndarray) -> None:
    """Forgets what rows have beyond `lengths` [N] tokens after their prefixes."""
    start = np.array([prefix.length for prefix in cache.prefixes])[cache.owner]
    cache.mask &= cache.slot_positions < (start + lengths)[:, None]
    cache.used = int(np.flatnonzero(cache.mask.any(axis=0)).max(initial=-1)) + 1


def kv_shape(arch: Arch, rows: int, slots: int) -> list[int]:
    return [rows * arch.n_kv_head, slots, arch.d_head]


def new_kv(arch: Arch, shape: list[int]) -> KV:
    """Variables for keys and values of each layer."""
    zeros = tf.zeros(shape, COMPUTE)
    return tuple((tf.Variable(zeros), tf.Variable(zeros)) for _ in range(arch.n_layer))


def copy(source: KV, target: KV) -> None:
    """Copies all slots of `source` to the front of `target`."""
    for old, new in zip(source, target, strict=True):
        for a, b in zip(old, new, strict=True):
            b[:, : a.shape[1]].assign(a)


def _lay_out(cache: RowCache, arch: Arch, old: np.ndarray | None) -> None:
    """Gives each row its place: all rows in one block, an equal number for each prefix, or, to be
    batch-invariant, each prefix in blocks of BLOCK_ROWS. Moves keys and values from `old` places
    [N, 2], within the same memory where one block becomes one of its shape."""
    plan, place = _plan(cache.owner, cache.batch_invariant)
    stacks = {block.owners: (block.prefix, block.prefix_mask) for block in cache.blocks}
    blocks = []
    for index, (owners, size) in enumerate(plan):
        if owners not in stacks:
            stacks[owners] = _stack([cache.prefixes[owner] for owner in owners])
        prefix, prefix_mask = stacks[owners]
        shape = kv_shape(arch, size, cache.mask.shape[1])
        alone = len(cache.blocks) == len(plan) == 1
        if alone and cache.blocks[0].kv[0][0].shape == shape:
            kv = cache.blocks[0].kv
        else:
            kv = new_kv(arch, shape)
        if old is not None:
            rows = place[:, 0] == index
            _gather(cache.blocks, old[rows], kv, place[rows, 1], arch.n_kv_head)
        blocks.append(Block(owners, prefix, prefix_mask, kv))
    cache.blocks, cache.place = blocks, place


def _plan(
    owner: np.ndarray, batch_invariant: bool
) -> tuple[list[tuple[tuple[int, ...], int]], np.ndarray]:
    """The owners and rows of each block, and the place of each row [N, 2]."""
    owners = list(dict.fromkeys(owner.tolist()))
    place = np.zeros((len(owner), 2), int)
    rows = [np.flatnonzero(owner == o) for o in owners]
    if batch_invariant:
        plan: list[tuple[tuple[int, ...], int]] = []
        for o, mine in zip(owners, rows, strict=True):
            block, at = np.divmod(np.arange(len(mine)), buckets.BLOCK_ROWS)
            place[mine] = np.stack([len(plan) + block, at], axis=1)
            plan += [((o,), buckets.BLOCK_ROWS)] * (block[-1] + 1)
        return plan, place
    size = buckets.rows(max(map(len, rows)))
    for index, mine in enumerate(rows):
        place[mine, 1] = index * size + np.arange(len(mine))
    owners += owners[:1] * (buckets.rows(len(owners)) - len(owners))
    return [(tuple(owners), size * len(owners))], place


def _stack(prefixes: Sequence[PrefixCache]) -> tuple[KV, Tensor]:
    """Prefixes side by side: [B*G, P, E], P that of the longest, and their mask [B, P]."""
    p = max(prefix.kv[0][0].shape[1] for prefix in prefixes)
    length = np.array([prefix.length for prefix in prefixes])
    mask = tf.constant(np.arange(p) < length[:, None])
    if len(prefixes) == 1:
        return prefixes[0].kv, mask
    kv = tuple(
        tuple(tf.concat([_widen(x, p) for x in kind], axis=0) for kind in zip(*layer, strict=True))
        for layer in zip(*(prefix.kv for prefix in prefixes), strict=True)
    )
    return kv, mask


def _widen(kv: Tensor, slots: int) -> Tensor:
    return tf.pad(kv, [[0, 0], [0, slots - kv.shape[1]], [0, 0]])


def _gather(blocks: list[Block], old: np.ndarray, kv: KV, at: np.ndarray, heads: int) -> None:
    """Fills rows `at` of `kv` from places `old` [N, 2] of `blocks`, each row so many heads."""
    offsets = np.cumsum([0] + [block.kv[0][0].shape[0] // heads for block in blocks])
    rows = np.zeros(kv[0][0].shape[0] // heads, np.int32)
    rows[at] = offsets[old[:, 0]] + old[:, 1]
    source = (rows[:, None] * heads + np.arange(heads, dtype=np.int32)).reshape(-1)  # [N*G]
    for index, layer in enumerate(kv):
        for kind, new in enumerate(layer):
            olds = [block.kv[index][kind] for block in blocks]
            moved = tf.gather(tf.concat(olds, axis=0) if len(olds) > 1 else olds[0], source)
            if moved.shape == new.shape:
                new.assign(moved)
            else:
                new[:, : moved.shape[1]].assign(moved)
