"""The KV cache for XLA: static shapes, updated in place. Rows are laid out in blocks, each computed
by one call of the step. All rows of a step write to the same slots; a mask says which slots hold a
row's own tokens, so rows of different lengths can be computed together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from gentool.config.model import Arch
from gentool.runtimes import memory
from gentool.runtimes.ops import Tensor
from gentool.runtimes.xla import buckets, device

KV = tuple[tuple[Tensor, Tensor], ...]  # keys and values of each layer

COMPUTE_DTYPE = tf.float32  # of the residual stream and the KV cache
FIRST_TOKENS = 1 << 14  # slots at the start at most: a folder may ask for millions of tokens


class PrefixCache(NamedTuple):
    """The KV cache of a computed prompt: keys and values [G, P, E] of each layer; the first
    `length` slots hold tokens, the others are padding."""

    kv: KV
    length: int


class Block(NamedTuple):
    """The KV cache of rows that are computed in one call: R for each of B prefixes, prefix-major,
    some of them unused."""

    owners: tuple[int, ...]  # B indexes into the prefixes
    prefix: KV  # [B*G, P, E]
    prefix_mask: Tensor  # [B, P]
    kv: KV  # variables [B*R*G, M, E]


@dataclass
class RowCache:
    """The KV cache of the rows' own tokens, after their prefixes."""

    prefixes: list[PrefixCache]
    batch_invariant: bool
    owner: np.ndarray  # [N] prefix of each row
    mask: np.ndarray  # [N, M] slots that hold tokens of the row
    slot_positions: np.ndarray  # [N, M] position of the token in each slot
    used: int  # slots taken
    blocks: list[Block]
    block_and_row: np.ndarray  # [N, 2] block of each row, and its row in there


def empty(prefixes: Sequence[PrefixCache], slots: int, batch_invariant: bool) -> RowCache:
    """A KV cache without rows, with `slots` at once if rows must not depend on when it grows."""
    slots = slots if batch_invariant else min(slots, FIRST_TOKENS)
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
    """Makes row i a copy of the former row parents[i], or a new row where that is -1, with room for
    `new_tokens` more tokens; copies memory only if necessary."""
    n, slots = len(parents), cache.mask.shape[1]
    fits = cache.used + new_tokens <= slots
    if fits and n == len(cache.owner) and np.array_equal(parents, np.arange(n)):
        return
    is_new = parents < 0
    added_slots = 0 if fits else buckets.tokens(cache.used + new_tokens) - slots
    if len(cache.owner):
        old = cache.block_and_row[parents]
        mask, positions = (a[parents] for a in (cache.mask, cache.slot_positions))
        mask[is_new] = False
    else:
        old = None
        mask, positions = np.zeros((n, slots), bool), np.zeros((n, slots), np.int32)
    cache.owner = owner
    padding = ((0, 0), (0, added_slots))
    cache.mask, cache.slot_positions = np.pad(mask, padding), np.pad(positions, padding)
    _lay_out(cache, arch, old)


def rewind(cache: RowCache, lengths: np.ndarray) -> None:
    """Drops the tokens of rows beyond `lengths` [N] tokens after their prefixes."""
    start = np.array([prefix.length for prefix in cache.prefixes])[cache.owner]
    cache.mask &= cache.slot_positions < (start + lengths)[:, None]
    cache.used = int(np.flatnonzero(cache.mask.any(axis=0)).max(initial=-1)) + 1


def row_prefix(cache: RowCache, arch: Arch, row: int, length: int) -> PrefixCache:
    """The prefix of a row and the first `length` of its own tokens, in a bucket of their number."""
    prefix = cache.prefixes[int(cache.owner[row])]
    block, row_in_block = cache.block_and_row[row]
    g = arch.n_kv_head
    heads = slice(row_in_block * g, (row_in_block + 1) * g)
    slots = np.flatnonzero(cache.mask[row])[:length]
    total = prefix.length + length
    padding = [[0, 0], [0, buckets.tokens(total) - total], [0, 0]]

    def joined(of_prefix: Tensor, of_rows: Tensor) -> Tensor:
        own = tf.gather(of_rows[heads], slots, axis=1)  # [G, length, E]
        return tf.pad(tf.concat([of_prefix[:, : prefix.length], own], axis=1), padding)

    layers = zip(prefix.kv, cache.blocks[block].kv, strict=True)
    kv = tuple((joined(k, new_k), joined(v, new_v)) for (k, v), (new_k, new_v) in layers)
    return PrefixCache(kv, total)


def kv_shape(arch: Arch, rows: int, slots: int) -> list[int]:
    """The shape of the keys, and of the values, of a layer."""
    return [rows * arch.n_kv_head, slots, arch.d_head]


def new_kv(arch: Arch, shape: list[int]) -> KV:
    """Creates variables for the keys and values of each layer. NotEnoughMemory if they do not fit;
    TensorFlow itself says that of a GPU's memory."""
    if device.kind() == "CPU":
        needed = 2 * arch.n_layer * math.prod(shape) * COMPUTE_DTYPE.size
        memory.check(needed, memory.free_bytes())
    zeros = tf.zeros(shape, COMPUTE_DTYPE)
    return tuple((tf.Variable(zeros), tf.Variable(zeros)) for _ in range(arch.n_layer))


def copy(source: KV, target: KV) -> None:
    """Copies all slots of `source` to the front of `target`."""
    for old, new in zip(source, target, strict=True):
        for a, b in zip(old, new, strict=True):
            b[:, : a.shape[1]].assign(a)


def _lay_out(cache: RowCache, arch: Arch, old: np.ndarray | None) -> None:
    """Assigns each row a block and a row in it: all rows in one block, an equal number for each
    prefix, or, if batch-invariant, the rows of each prefix in blocks of BLOCK_ROWS. Moves keys and
    values from their `old` blocks and rows [N, 2]; a single block that keeps its shape keeps its
    memory."""
    plan, block_and_row = _plan(cache.owner, cache.batch_invariant)
    stacks = {block.owners: (block.prefix, block.prefix_mask) for block in cache.blocks}
    blocks = []
    for index, (owners, size) in enumerate(plan):
        if owners not in stacks:
            stacks[owners] = _stack([cache.prefixes[owner] for owner in owners])
        prefix, prefix_mask = stacks[owners]
        shape = kv_shape(arch, size, cache.mask.shape[1])
        single = len(cache.blocks) == len(plan) == 1
        if single and cache.blocks[0].kv[0][0].shape == shape:
            kv = cache.blocks[0].kv
        else:
            kv = new_kv(arch, shape)
        if old is not None:
            rows = block_and_row[:, 0] == index
            _gather(cache.blocks, old[rows], kv, block_and_row[rows, 1], arch.n_kv_head)
        blocks.append(Block(owners, prefix, prefix_mask, kv))
    cache.blocks, cache.block_and_row = blocks, block_and_row


def _plan(
    owner: np.ndarray, batch_invariant: bool
) -> tuple[list[tuple[tuple[int, ...], int]], np.ndarray]:
    """The owners and number of rows of each block, and the block and row of each row [N, 2]."""
    owners = list(dict.fromkeys(owner.tolist()))
    block_and_row = np.zeros((len(owner), 2), int)
    rows_of_owner = [np.flatnonzero(owner == o) for o in owners]
    if batch_invariant:
        plan: list[tuple[tuple[int, ...], int]] = []
        for o, rows in zip(owners, rows_of_owner, strict=True):
            block, row_in_block = np.divmod(np.arange(len(rows)), buckets.BLOCK_ROWS)
            block_and_row[rows] = np.stack([len(plan) + block, row_in_block], axis=1)
            plan += [((o,), buckets.BLOCK_ROWS)] * (block[-1] + 1)
        return plan, block_and_row
    size = buckets.rows(max(map(len, rows_of_owner)))
    for index, rows in enumerate(rows_of_owner):
        block_and_row[rows, 1] = index * size + np.arange(len(rows))
    owners += owners[:1] * (buckets.rows(len(owners)) - len(owners))
    return [(tuple(owners), size * len(owners))], block_and_row


def _stack(prefixes: Sequence[PrefixCache]) -> tuple[KV, Tensor]:
    """Stacks prefixes to [B*G, P, E], P that of the longest, with their mask [B, P]."""
    p = max(prefix.kv[0][0].shape[1] for prefix in prefixes)
    length = np.array([prefix.length for prefix in prefixes])
    mask = tf.constant(np.arange(p) < length[:, None])
    if len(prefixes) == 1:
        return prefixes[0].kv, mask
    kv = tuple(
        tuple(
            tf.concat([_pad_slots(x, p) for x in kind], axis=0) for kind in zip(*layer, strict=True)
        )
        for layer in zip(*(prefix.kv for prefix in prefixes), strict=True)
    )
    return kv, mask


def _pad_slots(kv: Tensor, slots: int) -> Tensor:
    return tf.pad(kv, [[0, 0], [0, slots - kv.shape[1]], [0, 0]])


def _gather(blocks: list[Block], old: np.ndarray, kv: KV, rows: np.ndarray, heads: int) -> None:
    """Fills `rows` [N] of `kv` from the rows `old` [N, 2] (block, row) of `blocks`; `heads` are
    the key/value heads of a row."""
    offsets = np.cumsum([0] + [block.kv[0][0].shape[0] // heads for block in blocks])
    source_rows = np.zeros(kv[0][0].shape[0] // heads, np.int32)
    source_rows[rows] = offsets[old[:, 0]] + old[:, 1]
    source = (source_rows[:, None] * heads + np.arange(heads, dtype=np.int32)).reshape(-1)  # [N*G]
    for index, layer in enumerate(kv):
        for kind, new in enumerate(layer):
            olds = [block.kv[index][kind] for block in blocks]
            moved = tf.gather(tf.concat(olds, axis=0) if len(olds) > 1 else olds[0], source)
            if moved.shape == new.shape:
                new.assign(moved)
            else:
                new[:, : moved.shape[1]].assign(moved)
