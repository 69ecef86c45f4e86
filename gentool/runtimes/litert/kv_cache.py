"""KV caches without static shapes. A prefix grows at its end, so that a longer one shares the
memory of the one it continues. Rows have slots without gaps; memory doubles as rows or tokens come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FIRST_TOKENS = 16  # that a new cache has room for


class HeadShape(NamedTuple):
    """Key/value heads of a layer, and the sizes of a key and of a value."""

    heads: int
    key: int
    value: int


class LayerKV(NamedTuple):
    """Keys and values of one layer: [G, M, E] of a prefix, [N, G, M, E] of rows."""

    keys: np.ndarray
    values: np.ndarray


@dataclass
class _Memory:
    """Keys and values of a prompt and its continuations; `used` tokens are taken."""

    layers: list[LayerKV]
    used: int


class PrefixCache(NamedTuple):
    """A computed prompt: the first `length` tokens of a memory, which others may share. Memory is
    freed with the last prefix in it."""

    memory: _Memory
    length: int

    def layer(self, index: int) -> LayerKV:
        """Keys [G, length, E] and values of a layer."""
        keys, values = self.memory.layers[index]
        return LayerKV(keys[:, : self.length], values[:, : self.length])


def extend_prefix(
    shapes: Sequence[HeadShape], prefix: PrefixCache | None, new_tokens: int
) -> PrefixCache:
    """A prefix with room for `new_tokens` after `prefix`. It shares the memory of `prefix`, unless
    another prefix has grown there or the memory is full."""
    length = prefix.length if prefix else 0
    total = length + new_tokens
    if prefix is None:
        return PrefixCache(_Memory(_new_layers(shapes, (), total), total), total)
    memory = prefix.memory
    capacity = memory.layers[0].keys.shape[1]
    if memory.used == length and total <= capacity:
        memory.used = total
        return PrefixCache(memory, total)
    layers = _new_layers(shapes, (), max(total, 2 * length))
    for index, new in enumerate(layers):
        for to, of in zip(new, prefix.layer(index), strict=True):
            to[:, :length] = of
    return PrefixCache(_Memory(layers, total), total)


@dataclass
class RowCache:
    """The KV cache of the rows' own tokens, after their prefixes. Row i is in slot slots[i]; the
    slots of N rows are 0 to N - 1 in some order."""

    shapes: tuple[HeadShape, ...]
    batch_invariant: bool  # whether a row's bits must not depend on the others
    prefixes: list[PrefixCache]
    layers: list[LayerKV]
    owner: np.ndarray  # [N] prefix of each row
    slots: np.ndarray  # [N]
    length: np.ndarray  # [N] tokens of each row
    longest: int  # the largest of these


def empty(
    shapes: Sequence[HeadShape],
    prefixes: Sequence[PrefixCache],
    max_new_tokens: int,
    batch_invariant: bool,
) -> RowCache:
    """A cache without rows."""
    layers = _new_layers(shapes, (0,), min(max_new_tokens, FIRST_TOKENS))
    none = np.zeros(0, int)
    return RowCache(tuple(shapes), batch_invariant, list(prefixes), layers, none, none, none, 0)


def advance(cache: RowCache, tokens: int) -> None:
    """Counts `tokens` more tokens of each row, whose keys and values are written."""
    cache.length = cache.length + tokens
    cache.longest += tokens


def rewind(cache: RowCache, lengths: np.ndarray) -> None:
    """Drops the tokens of rows beyond `lengths` [N] tokens after their prefixes."""
    cache.length = np.minimum(cache.length, lengths)
    cache.longest = int(cache.length.max(initial=0))


def row_prefix(cache: RowCache, row: int, length: int) -> PrefixCache:
    """The prefix of a row and the first `length` of its own tokens. Only these are copied where the
    memory of the prefix has room for them."""
    prefix, slot = cache.prefixes[int(cache.owner[row])], cache.slots[row]
    longer = extend_prefix(cache.shapes, prefix, length)
    for index, own in enumerate(cache.layers):
        for to, of in zip(longer.layer(index), own, strict=True):
            to[:, prefix.length :] = of[slot, :, :length]
    return longer


def move(cache: RowCache, owner: np.ndarray, parents: np.ndarray, new_tokens: int) -> None:
    """Row i becomes a copy of the former row parents[i], or a new one of prefix owner[i] where that
    is -1, with room for `new_tokens` more. A row stays in its slot, unless an earlier one of the
    same parent has taken it or slots before it are empty."""
    n = len(parents)
    if n == len(cache.slots) and (parents == np.arange(n)).all():
        _grow(cache, n, cache.longest + new_tokens)
        return
    continued = np.flatnonzero(parents >= 0)
    length = np.zeros(n, int)
    length[continued] = cache.length[parents[continued]]
    _grow(cache, n, int(length.max(initial=0)) + new_tokens)
    cache.owner, cache.length = np.asarray(owner, int), length
    cache.longest = int(length.max(initial=0))
    sources = np.full(n, -1)
    sources[continued] = cache.slots[parents[continued]]
    stays = np.zeros(n, bool)
    stays[continued[np.unique(sources[continued], return_index=True)[1]]] = True
    stays &= sources < n
    free = np.setdiff1d(np.arange(n), sources[stays])
    slots = sources.copy()
    slots[~stays] = free
    moved = np.flatnonzero(~stays & (sources >= 0))
    if len(moved):
        used = int(length[moved].max())
        for keys, values in cache.layers:
            for kept in (keys, values):
                kept[slots[moved], :, :used] = kept[sources[moved], :, :used]
    cache.slots = slots


def _grow(cache: RowCache, rows: int, tokens: int) -> None:
    """Makes room for `rows` rows and `tokens` tokens; a size that is too small at least doubles."""
    old_rows, _, old_tokens, _ = cache.layers[0].keys.shape
    if rows <= old_rows and tokens <= old_tokens:
        return
    new_rows = rows if rows > old_rows else old_rows
    new_rows = max(new_rows, 2 * old_rows) if rows > old_rows and old_rows else new_rows
    new_tokens = max(tokens, 2 * old_tokens) if tokens > old_tokens else old_tokens
    used = min(cache.longest, old_tokens)
    for index, (layer, shape) in enumerate(zip(cache.layers, cache.shapes, strict=True)):
        grown = _new_layer(shape, (new_rows,), new_tokens)
        for to, of in zip(grown, layer, strict=True):
            to[:old_rows, :, :used] = of[:, :, :used]
        cache.layers[index] = grown


def _new_layers(shapes: Sequence[HeadShape], rows: tuple[int, ...], tokens: int) -> list[LayerKV]:
    return [_new_layer(shape, rows, tokens) for shape in shapes]


def _new_layer(shape: HeadShape, rows: tuple[int, ...], tokens: int) -> LayerKV:
    """Memory that is taken when it is written. Unwritten slots must be finite: a weight of 0
    does not hide NaN."""
    keys = np.zeros((*rows, shape.heads, tokens, shape.key), np.float32)
    return LayerKV(keys, np.zeros((*rows, shape.heads, tokens, shape.value), np.float32))
