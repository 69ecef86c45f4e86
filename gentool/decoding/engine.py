"""The one engine under every decoder. `prefill` computes a prompt into a prefix, which has no row
axis; `extend` computes new tokens of many rows that continue prefixes. Nobody else knows of caches.

On a CPU one layer is compiled once, as a function of its weights and cells, and called L times
inside one graph, so compiling costs the same whatever the depth; or, where oneDNN multiplies faster
(see paths.py), only what lies between the products is. What changes between two calls of a bucket
is a traced value: lengths, slots, masks, owners.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from gentool.config.model import Arch
from gentool.models.transformer import Params, forward
from gentool.runtimes.xla import backend as paths
from gentool.runtimes.xla import buckets
from gentool.runtimes.xla import ops as layers
from gentool.runtimes.xla.attention import attend, log_n, write_cells
from gentool.runtimes.xla.backend import Path, Rules
from gentool.runtimes.xla.ops import Tensor

Cells = tuple[tuple[Tensor, Tensor], ...]  # keys and values of each layer

COMPUTE = tf.float32  # of the stream; weights stored in 16 bits are cast inside their products


class Prefix(NamedTuple):
    """What prefill leaves: `cells` [G, P, E] a layer, of which the first `length` exist."""

    cells: Cells
    length: int


class _Place(NamedTuple):
    """Where the tokens [N, T] of a step stand for one layer: their positions [N, T]; the cells of
    their rows, the slot their own go to, the positions `held` [N, M] in the slots and which of them
    each token has `seen` [N, T, M]; the shared prefix, whose cells hold 0 to P, if there is one;
    how far back the layer sees."""

    positions: Tensor
    slot: Tensor
    held: Tensor
    seen: Tensor
    cells: tuple[tf.Variable, tf.Variable]
    shared: tuple[Tensor, Tensor, Tensor] | None
    window: Tensor | None


class _Block(NamedTuple):
    """Rows computed in one call: R for each of B prefixes, prefix-major, some of them unused."""

    owners: tuple[int, ...]  # B indexes into the tail's prefixes
    prefix: Cells  # [B*G, P, E]
    exists: Tensor  # [B, P] which prefix cells exist
    cells: Cells  # variables [B*R*G, M, E]


@dataclass
class Tail:
    """The rows of the last `extend`. Slots are counted alike for all rows; `seen` says which hold
    a row's own tokens, so that rows of different lengths can live side by side."""

    prefixes: tuple[Prefix, ...]
    owner: np.ndarray  # [N] prefix of each row
    seen: np.ndarray  # [N, M]
    position: np.ndarray  # [N, M] of the token in each slot
    length: np.ndarray  # [N] tokens of each row beyond its prefix
    used: int  # slots taken
    blocks: list[_Block]
    place: np.ndarray  # [N, 2] block of each row, and its row in there

    def rewind(self, lengths: np.ndarray) -> None:
        """Forgets what rows have beyond `lengths` [N] tokens after their prefixes."""
        self.length = np.minimum(self.length, lengths).astype(np.int32)
        start = np.array([prefix.length for prefix in self.prefixes])[self.owner]
        self.seen &= self.position < (start + self.length)[:, None]
        self.used = int(np.flatnonzero(self.seen.any(axis=0)).max(initial=-1)) + 1


class Engine:
    """Weights and the functions over them: a compiled layer, and steps through all layers, to the
    logits or to the hidden states before them, computed by `rules`."""

    def __init__(self, family: ModuleType, arch: Arch, params: Params, rules: Rules) -> None:
        self.family, self.arch, self.params, self.rules = family, arch, params, rules
        whole = rules[0].path is paths.STEP
        self.layer = layers.compiled(functools.partial(self._layer, paths.LAYER))
        self.attention = layers.compiled(self._attention)
        self.compiled_head = layers.compiled(functools.partial(self._head, paths.LAYER))
        self.step = tf.function(self._step, jit_compile=whole, autograph=False)
        self.hidden_step = tf.function(self._hidden_step, jit_compile=whole, autograph=False)
        self.head = tf.function(self._logits, jit_compile=whole, autograph=False)
        self._steps: dict[tuple[object, ...], Any] = {}  # concrete functions by shapes

    def prefill(
        self,
        ids: Sequence[int],
        prefix: Prefix | None = None,
        every: bool = False,
        hidden: bool = False,
    ) -> tuple[Prefix, np.ndarray]:
        """Computes ids [T] after `prefix`; gives the longer prefix and float32 logits [1, V] after
        the last id, or [T, V] after each of them when `every`; the `hidden` states [1 or T, D] that
        those come from instead, if asked for. They are the engine's: not to be written."""
        start, count = prefix.length if prefix else 0, len(ids)
        t = buckets.tokens(count)
        p = buckets.tokens(start + t)
        cells = self._new_cells(self._cells_shape(1, p))
        if prefix:
            _copy(prefix.cells, cells)
        padded = np.zeros((1, t), np.int32)
        padded[0, :count] = ids
        positions = start + np.arange(t, dtype=np.int32)[None]
        seen = np.arange(p) <= positions[..., None]  # [1, T, P]
        wanted = np.arange(t) if every else np.array([count - 1])
        held = np.arange(p)[None]
        out = self._run(padded, positions, start, seen, held, cells, None, wanted, hidden)
        frozen = tuple((tf.identity(k), tf.identity(v)) for k, v in cells)
        return Prefix(frozen, start + count), out[0, : count if every else 1]

    def extend(
        self,
        prefixes: Sequence[Prefix],
        tail: Tail | None,
        owner: Sequence[int] | np.ndarray,
        parents: Sequence[int] | np.ndarray,
        tokens: np.ndarray,
        room: int = 0,
        batch_invariant: bool = False,
        hidden: bool = False,
    ) -> tuple[Tail, np.ndarray]:
        """Row i continues row parents[i] of `tail`, or, where there is no tail yet, prefix
        owner[i] of `prefixes` (a tail remembers its own), by tokens[i]: tokens [N, T] to the new
        tail and float32 logits [N, T, V], or the `hidden` states [N, T, D] that those come from.
        `tail` is consumed: its cells are updated in place; what is given is not to be written. A
        first call names the `room`, the tokens a row may come to. Under `batch_invariant` rows are
        computed in blocks of one fixed shape with one prefix, so that a row's bits do not depend on
        its neighbours."""
        owner = np.asarray(owner)
        n, t = tokens.shape
        if tail is None:
            seen = np.zeros((n, buckets.tokens(max(room, t))), bool)
            length = np.zeros(n, np.int32)
            position = np.zeros(seen.shape, np.int32)
            place = np.zeros((n, 2), int)
            tail = Tail(tuple(prefixes), owner, seen, position, length, 0, [], place)
            self._lay_out(tail, None, batch_invariant)
        else:
            self._rearrange(tail, owner, np.asarray(parents), t, batch_invariant)
        slots, steps = np.arange(tail.seen.shape[1]), np.arange(t)
        fresh = (slots >= tail.used) & (slots - tail.used <= steps[:, None])  # [T, M]
        start = np.array([p.length for p in tail.prefixes])[owner] + tail.length  # [N]
        tail.position[:, tail.used : tail.used + t] = start[:, None] + steps
        found = []
        for index, block in enumerate(tail.blocks):
            mine = np.flatnonzero(tail.place[:, 0] == index)
            at = tail.place[mine, 1]
            size = block.cells[0][0].shape[0] // self.arch.n_kv_head
            ids, positions = np.zeros((2, size, t), np.int32)
            held = np.zeros((size, len(slots)), np.int32)  # position of each slot
            held[at] = tail.position[mine]
            ids[at] = tokens[mine]
            positions[at] = start[mine, None] + steps
            seen = np.repeat(fresh[None], size, axis=0)  # [B*R, T, M]
            seen[at] |= tail.seen[mine, None]
            shared = (block.prefix, block.exists)
            inputs = (ids, positions, tail.used, seen, held, block.cells, shared, steps, hidden)
            found.append((mine, taken(self._run(*inputs), at)))
        tail.seen[:, tail.used : tail.used + t] = True
        tail.length += t
        tail.used += t
        if len(found) == 1:
            return tail, found[0][1]
        out = np.empty((n, *found[0][1].shape[1:]), np.float32)
        for mine, rows in found:
            out[mine] = rows
        return tail, out

    def logits(self, hidden: np.ndarray, batch_invariant: bool = False) -> np.ndarray:
        """float32 logits [N, V] of hidden states [N, D]."""
        n = len(hidden)
        size = buckets.BLOCK_ROWS if batch_invariant else buckets.rows(n)
        padded = np.zeros((-(-n // size) * size, hidden.shape[1]), np.float32)
        padded[:n] = hidden
        parts = [self.head(tf.constant(padded[at : at + size])).numpy() for at in range(0, n, size)]
        return np.concatenate(parts)[:n]

    def _rearrange(
        self, tail: Tail, owner: np.ndarray, parents: np.ndarray, t: int, batch_invariant: bool
    ) -> None:
        """Makes `tail` hold rows `parents` with room for t more tokens, moving only if it must."""
        n, m = len(parents), tail.seen.shape[1]
        fits = tail.used + t <= m
        if not np.array_equal(owner, tail.owner[parents]):
            raise ValueError(f"owner {owner} is not that of parents {parents}")
        if fits and n == len(tail.owner) and np.array_equal(parents, np.arange(n)):
            return
        old = tail.place[parents]
        tail.owner, tail.length = owner, tail.length[parents]
        more = 0 if fits else buckets.tokens(tail.used + t) - m
        tail.seen, tail.position = (
            np.pad(a[parents], ((0, 0), (0, more))) for a in (tail.seen, tail.position)
        )
        self._lay_out(tail, old, batch_invariant)

    def _lay_out(self, tail: Tail, old: np.ndarray | None, batch_invariant: bool) -> None:
        """Gives each row its place: all rows in one block, an equal number for each prefix, or, to
        be invariant, each prefix in blocks of BLOCK_ROWS. Moves cells from `old` places [N, 2],
        within the same memory where one block becomes one of its shape."""
        owners = list(dict.fromkeys(tail.owner.tolist()))
        place = np.zeros((len(tail.owner), 2), int)
        plan: list[tuple[tuple[int, ...], int]] = []  # owners and rows of each block
        rows = [np.flatnonzero(tail.owner == o) for o in owners]
        if batch_invariant:
            for o, mine in zip(owners, rows, strict=True):
                block, at = np.divmod(np.arange(len(mine)), buckets.BLOCK_ROWS)
                place[mine] = np.stack([len(plan) + block, at], axis=1)
                plan += [((o,), buckets.BLOCK_ROWS)] * (block[-1] + 1)
        else:
            most = buckets.rows(max(map(len, rows)))
            for index, mine in enumerate(rows):
                place[mine, 1] = index * most + np.arange(len(mine))
            owners += owners[:1] * (buckets.rows(len(owners)) - len(owners))
            plan = [(tuple(owners), most * len(owners))]
        stacks = {block.owners: (block.prefix, block.exists) for block in tail.blocks}
        blocks = []
        for index, (owned, size) in enumerate(plan):
            if owned not in stacks:
                stacks[owned] = _stack([tail.prefixes[o] for o in owned])
            prefix, exists = stacks[owned]
            shape = self._cells_shape(size, tail.seen.shape[1])
            alone = len(tail.blocks) == len(plan) == 1
            if alone and tail.blocks[0].cells[0][0].shape == shape:
                cells = tail.blocks[0].cells
            else:
                cells = self._new_cells(shape)
            if old is not None:
                mine = place[:, 0] == index
                _gather(tail.blocks, old[mine], cells, place[mine, 1], self.arch.n_kv_head)
            blocks.append(_Block(owned, prefix, exists, cells))
        tail.blocks, tail.place = blocks, place

    def _cells_shape(self, rows: int, slots: int) -> list[int]:
        return [rows * self.arch.n_kv_head, slots, self.arch.d_head]

    def _new_cells(self, shape: list[int]) -> Cells:
        zeros = tf.zeros(shape, COMPUTE)
        return tuple((tf.Variable(zeros), tf.Variable(zeros)) for _ in range(self.arch.n_layer))

    def _run(
        self,
        ids: np.ndarray,
        positions: np.ndarray,
        slot: int,
        seen: np.ndarray,
        held: np.ndarray,
        cells: Cells,
        shared: tuple[Cells, Tensor] | None,
        wanted: np.ndarray,
        hidden: bool,
    ) -> np.ndarray:
        """One step with everything that varies passed as an array, so that nothing is retraced. The
        function of these shapes is looked up and called here: tf.function's own way to find it
        takes milliseconds, and to bind some fifty arguments another."""
        prefix, exists = shared or (None, None)
        arrays = [tf.constant(a, tf.int32) for a in (ids, positions, slot, wanted, held)]
        inputs = (*arrays, tf.constant(seen), cells, prefix, exists)
        shapes = (seen.shape, len(wanted), None if exists is None else exists.shape, hidden)
        if shapes not in self._steps:
            step = self.hidden_step if hidden else self.step
            self._steps[shapes] = step.get_concrete_function(*inputs)
        step = self._steps[shapes]
        flat = [x.handle if isinstance(x, tf.Variable) else x for x in tf.nest.flatten(inputs)]
        args = [x for x in flat if x is not None] + step.captured_inputs
        (out,) = tf.raw_ops.StatefulPartitionedCall(args=args, Tout=[tf.float32], f=step)
        return np.asarray(memoryview(out))  # where it lies, and not to be written

    def _step(self, *inputs: Any) -> Tensor:
        """As `_hidden_step`, to float32 logits [N, W, V]."""
        return self._logits(self._hidden_step(*inputs))

    def _logits(self, hidden: Tensor) -> Tensor:
        """float32 [..., V] of hidden states [..., D]."""
        path = self._path(hidden)
        head = self.compiled_head if path is paths.LAYER else functools.partial(self._head, path)
        return head(self.params.top, hidden)

    def _head(self, path: Path, top: dict[str, Tensor], hidden: Tensor) -> Tensor:
        return tf.cast(self.family.head(path.ops, self.arch, top, hidden), tf.float32)

    def _path(self, x: Tensor) -> Path:
        """How to compute on x [..., D]."""
        return paths.path(self.rules, math.prod(x.shape[:-1]))

    def _hidden_step(
        self,
        ids: Tensor,
        positions: Tensor,
        slot: Tensor,
        wanted: Tensor,
        held: Tensor,
        seen: Tensor,
        cells: Cells,
        prefix: Cells | None,
        exists: Tensor | None,
    ) -> Tensor:
        """ids, positions [N, T] to hidden states [N, W, D] at the `wanted` [W] of the T."""

        def block(index: int, weights: dict[str, Tensor], x: Tensor) -> Tensor:
            shared = None if prefix is None else (*prefix[index], exists)
            window = None
            if self.arch.window is not None:  # a traced number, so that all layers stay one program
                narrow = index in self.arch.window_layers
                window = tf.constant(self.arch.window if narrow else tf.int32.max)
            path = self._path(x)
            layer = self.layer if path is paths.LAYER else functools.partial(self._layer, path)
            place = _Place(positions, slot, held, seen, cells[index], shared, window)
            return layer(weights, x, place)

        x = forward(self.family, self.arch, self.params, ids, positions, COMPUTE, block)
        x = tf.gather(x, wanted, axis=1)  # [N, W, D]
        ops = layers.plain if self.rules[0].path is paths.GRAPH else layers.fused
        return self.family.final(ops, self.arch, self.params.top, x)

    def _layer(self, path: Path, weights: dict[str, Tensor], x: Tensor, place: _Place) -> Tensor:
        """x [N, T, D] through one layer."""
        q, k, v = self.family.qkv(path.ops, self.arch, weights, x, place.positions)
        attention = self.attention if path is paths.PIECES else self._attention
        context = attention(q, k, v, place, path is not paths.GRAPH)
        return self.family.merge(path.ops, self.arch, weights, x, context)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, place: _Place, xla: bool) -> Tensor:
        """Context [N, T, H*E] of q [N, T, H, E], after k and v [N, T, G, E] went into the cells."""
        positions, slot, held, seen, cells, shared, window = place
        if self.arch.log_n is not None:
            q *= log_n(self.arch.log_n, positions, window)[..., None, None]
        for variable, new in zip(cells, (k, v), strict=True):
            write_cells(variable, new, slot, xla)
        if window is not None:
            seen &= positions[..., None] - held[:, None] < window
        prefix = None
        if shared is not None:
            keys, values, exists = shared
            n, (b, p) = q.shape[0], exists.shape
            rows = tf.broadcast_to(tf.reshape(exists, [b, 1, p]), [b, n // b, p])
            rows = tf.reshape(rows, [n, 1, p])
            if window is not None:
                rows &= positions[..., None] - tf.range(p) < window  # [N, T, P]
            prefix = keys, values, rows
        return attend(self.arch, q, prefix, (*cells, seen))


def _copy(source: Cells, target: Cells) -> None:
    """Puts all slots of `source` at the front of `target`."""
    for old, new in zip(source, target, strict=True):
        for a, b in zip(old, new, strict=True):
            b[:, : a.shape[1]].assign(a)


def _stack(prefixes: Sequence[Prefix]) -> tuple[Cells, Tensor]:
    """Prefixes side by side: cells [B*G, P, E], P that of the longest, and which exist [B, P]."""
    p = max(prefix.cells[0][0].shape[1] for prefix in prefixes)
    length = np.array([prefix.length for prefix in prefixes])
    exists = tf.constant(np.arange(p) < length[:, None])
    if len(prefixes) == 1:
        return prefixes[0].cells, exists
    cells = tuple(
        tuple(tf.concat([_widen(x, p) for x in same], axis=0) for same in zip(*layer, strict=True))
        for layer in zip(*(prefix.cells for prefix in prefixes), strict=True)
    )
    return cells, exists


def _widen(cells: Tensor, slots: int) -> Tensor:
    return tf.pad(cells, [[0, 0], [0, slots - cells.shape[1]], [0, 0]])


def taken(x: np.ndarray, places: Sequence[int] | np.ndarray) -> np.ndarray:
    """x[places], which is no copy where they are the first of all."""
    first = len(places)
    return x[:first] if np.array_equal(places, np.arange(first)) else x[places]


def _gather(
    blocks: list[_Block], old: np.ndarray, cells: Cells, at: np.ndarray, heads: int
) -> None:
    """Fills rows `at` of `cells` from places `old` [N, 2] of `blocks`, each row so many heads."""
    offsets = np.cumsum([0] + [block.cells[0][0].shape[0] // heads for block in blocks])
    rows = np.zeros(cells[0][0].shape[0] // heads, np.int32)
    rows[at] = offsets[old[:, 0]] + old[:, 1]
    source = (rows[:, None] * heads + np.arange(heads, dtype=np.int32)).reshape(-1)  # [N*G]
    for index, layer in enumerate(cells):
        for kind, new in enumerate(layer):
            olds = [block.cells[index][kind] for block in blocks]
            moved = tf.gather(tf.concat(olds, axis=0) if len(olds) > 1 else olds[0], source)
            if moved.shape == new.shape:
                new.assign(moved)
            else:
                new[:, : moved.shape[1]].assign(moved)
