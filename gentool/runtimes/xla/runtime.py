"""The TensorFlow runtime: one compiled layer, called L times in one graph.

On a CPU the layer is compiled once, as a function of its weights and its KV cache, so the time to
compile does not depend on the depth. Where oneDNN's products are faster (see backend.py), only the
operations between the products are compiled. Values that change between two calls of a bucket are
passed as tensors, so nothing is retraced: ids, positions, slots, masks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from gentool.checkpoints import TensorSource
from gentool.config.model import Arch
from gentool.models.transformer import Params, forward
from gentool.models.weights import Weight
from gentool.runtimes.ops import Tensor
from gentool.runtimes.rows import take_rows
from gentool.runtimes.xla import backend, buckets, device, kv_cache, ops, weights
from gentool.runtimes.xla.attention import attention, log_n, write_kv
from gentool.runtimes.xla.backend import Backend, BackendRules
from gentool.runtimes.xla.kv_cache import KV, PrefixCache, RowCache


class StepInputs(NamedTuple):
    """The inputs of a step. `kv` is updated in place; all others are values."""

    ids: Tensor  # [N, T]
    positions: Tensor  # [N, T]
    slot: Tensor  # the first slot that the tokens are written to
    outputs: Tensor  # [W] indices of the tokens, among the T, whose outputs are returned
    slot_positions: Tensor  # [N, M]
    mask: Tensor  # [N, T, M] slots that each token attends to
    kv: KV  # [N*G, M, E] of each layer
    prefix_kv: KV | None  # [B*G, P, E] of each layer
    prefix_mask: Tensor | None  # [B, P]


class _LayerCache(NamedTuple):
    """The KV cache of one layer, with the masks of its attention."""

    positions: Tensor  # [N, T]
    slot: Tensor
    slot_positions: Tensor  # [N, M]
    mask: Tensor  # [N, T, M]
    kv: tuple[tf.Variable, tf.Variable]
    prefix: tuple[Tensor, Tensor, Tensor] | None  # keys, values, mask
    window: Tensor | None  # number of last positions that the layer attends to


class XlaRuntime:
    """The weights, the compiled layer, and steps through all layers to the logits or to the hidden
    states before the head. `rules` choose the backend."""

    def __init__(self, family: ModuleType, arch: Arch, params: Params, rules: BackendRules) -> None:
        self.family, self.arch, self.params, self.rules = family, arch, params, rules
        compiled_step = rules[0].backend is backend.XLA_STEP
        self.layer = ops.compiled(functools.partial(self._layer, backend.XLA_LAYER))
        self.attention = ops.compiled(self._attention)
        self.compiled_head = ops.compiled(functools.partial(self._head, backend.XLA_LAYER))
        self.logits_step = tf.function(
            self._logits_step, jit_compile=compiled_step, autograph=False
        )
        self.hidden_step = tf.function(
            self._hidden_step, jit_compile=compiled_step, autograph=False
        )
        self.logits = tf.function(self._logits, jit_compile=compiled_step, autograph=False)
        self._steps: dict[tuple[object, ...], Any] = {}  # concrete functions by shapes

    def prefill(
        self,
        ids: np.ndarray,
        start: int,
        prefix: PrefixCache | None,
        all_positions: bool,
        hidden: bool,
    ) -> tuple[PrefixCache, np.ndarray]:
        """See `gentool.runtimes.Runtime`; padded to a bucket of the prompt's own length."""
        count = len(ids)
        t = buckets.tokens(count)
        p = buckets.tokens(start + t)
        kv = kv_cache.new_kv(self.arch, kv_cache.kv_shape(self.arch, 1, p))
        if prefix:
            kv_cache.copy(prefix.kv, kv)
        padded = np.zeros((1, t), np.int32)
        padded[0, :count] = ids
        positions = start + np.arange(t, dtype=np.int32)[None]
        mask = np.arange(p) <= positions[..., None]  # [1, T, P]
        outputs = np.arange(t) if all_positions else np.array([count - 1])
        slot_positions = np.arange(p)[None]
        inputs = StepInputs(padded, positions, start, outputs, slot_positions, mask, kv, None, None)
        out = self._run(inputs, hidden)
        frozen = tuple((tf.identity(k), tf.identity(v)) for k, v in kv)
        return PrefixCache(frozen, start + count), out[0, : count if all_positions else 1]

    def crop(self, prefix: PrefixCache, length: int) -> PrefixCache:
        """See `gentool.runtimes.Runtime`; cut to a bucket."""
        slots = buckets.tokens(length)
        return PrefixCache(tuple((k[:, :slots], v[:, :slots]) for k, v in prefix.kv), length)

    def rows(
        self, prefixes: Sequence[PrefixCache], max_new_tokens: int, batch_invariant: bool
    ) -> RowCache:
        """See `gentool.runtimes.Runtime`."""
        return kv_cache.empty(prefixes, max_new_tokens, batch_invariant)

    def join(self, cache: RowCache, prefixes: Sequence[PrefixCache]) -> None:
        """See `gentool.runtimes.Runtime`."""
        cache.prefixes += prefixes

    def move(
        self, cache: RowCache, owner: np.ndarray, parents: np.ndarray, new_tokens: int
    ) -> None:
        """See `gentool.runtimes.Runtime`."""
        kv_cache.move(cache, self.arch, owner, parents, new_tokens)

    def rewind(self, cache: RowCache, lengths: np.ndarray) -> None:
        """See `gentool.runtimes.Runtime`."""
        kv_cache.rewind(cache, lengths)

    def row_prefix(self, cache: RowCache, row: int, length: int) -> PrefixCache:
        """See `gentool.runtimes.Runtime`."""
        return kv_cache.row_prefix(cache, self.arch, row, length)

    def worth_shrinking(self, rows: int, wanted: int) -> bool:
        """See `gentool.runtimes.Runtime`: fewer rows may need another compiled shape."""
        return buckets.rows(wanted) * 4 <= buckets.rows(rows)

    def step(
        self, cache: RowCache, tokens: np.ndarray, positions: np.ndarray, hidden: bool
    ) -> np.ndarray:
        """See `gentool.runtimes.Runtime`; one call for each block of rows."""
        n, t = tokens.shape
        slots, steps = np.arange(cache.mask.shape[1]), np.arange(t)
        new_mask = (slots >= cache.used) & (slots - cache.used <= steps[:, None])  # [T, M]
        cache.slot_positions[:, cache.used : cache.used + t] = positions
        results = []
        for index, block in enumerate(cache.blocks):
            rows = np.flatnonzero(cache.block_and_row[:, 0] == index)
            row_in_block = cache.block_and_row[rows, 1]
            size = block.kv[0][0].shape[0] // self.arch.n_kv_head
            ids, block_positions = np.zeros((2, size, t), np.int32)
            slot_positions = np.zeros((size, len(slots)), np.int32)
            slot_positions[row_in_block] = cache.slot_positions[rows]
            ids[row_in_block] = tokens[rows]
            block_positions[row_in_block] = positions[rows]
            mask = np.repeat(new_mask[None], size, axis=0)  # [B*R, T, M]
            mask[row_in_block] |= cache.mask[rows, None]
            inputs = StepInputs(
                ids=ids,
                positions=block_positions,
                slot=cache.used,
                outputs=steps,
                slot_positions=slot_positions,
                mask=mask,
                kv=block.kv,
                prefix_kv=block.prefix,
                prefix_mask=block.prefix_mask,
            )
            results.append((rows, take_rows(self._run(inputs, hidden), row_in_block)))
        cache.mask[:, cache.used : cache.used + t] = True
        cache.used += t
        if len(results) == 1:
            return results[0][1]
        out = np.empty((n, *results[0][1].shape[1:]), np.float32)
        for rows, block_out in results:
            out[rows] = block_out
        return out

    def head(self, hidden: np.ndarray, batch_invariant: bool) -> np.ndarray:
        """See `gentool.runtimes.Runtime`."""
        n = len(hidden)
        size = buckets.BLOCK_ROWS if batch_invariant else buckets.rows(n)
        padded = np.zeros((-(-n // size) * size, hidden.shape[1]), np.float32)
        padded[:n] = hidden
        parts = [self.logits(tf.constant(padded[i : i + size])).numpy() for i in range(0, n, size)]
        return np.concatenate(parts)[:n]

    def describe(self) -> str:
        """The device and the backends, as a phrase."""
        return f"{device.describe()}: {backend.describe(self.rules)}"

    def _run(self, inputs: StepInputs, hidden: bool) -> np.ndarray:
        """Runs one step. All that varies is passed as an array, so that nothing is retraced. The
        concrete function for these shapes is looked up and called here: tf.function takes
        milliseconds to find it, and again to bind some fifty arguments."""
        # padding may have positions beyond a learned table
        positions = np.minimum(inputs.positions, self.arch.n_ctx - 1)
        step_inputs = inputs._replace(
            ids=tf.constant(inputs.ids, tf.int32),
            positions=tf.constant(positions, tf.int32),
            slot=tf.constant(inputs.slot, tf.int32),
            outputs=tf.constant(inputs.outputs, tf.int32),
            slot_positions=tf.constant(inputs.slot_positions, tf.int32),
            mask=tf.constant(inputs.mask),
        )
        mask, prefix_mask = inputs.mask, inputs.prefix_mask
        prefix_shape = None if prefix_mask is None else prefix_mask.shape
        shapes = (mask.shape, len(inputs.outputs), prefix_shape, hidden)
        if shapes not in self._steps:
            function = self.hidden_step if hidden else self.logits_step
            self._steps[shapes] = function.get_concrete_function(step_inputs)
        step = self._steps[shapes]
        flat = [x.handle if isinstance(x, tf.Variable) else x for x in tf.nest.flatten(step_inputs)]
        args = [x for x in flat if x is not None] + step.captured_inputs
        (out,) = tf.raw_ops.StatefulPartitionedCall(args=args, Tout=[tf.float32], f=step)
        return np.asarray(memoryview(out))  # the tensor's own memory: do not write to it

    def _logits_step(self, inputs: StepInputs) -> Tensor:
        """float32 logits [N, W, V] of the `outputs`."""
        return self._logits(self._hidden_step(inputs))

    def _logits(self, hidden: Tensor) -> Tensor:
        """float32 logits [..., V] of hidden states [..., D]."""
        chosen = self._backend(hidden)
        compiled = chosen is backend.XLA_LAYER
        head = self.compiled_head if compiled else functools.partial(self._head, chosen)
        return head(self.params.top, hidden)

    def _head(self, chosen: Backend, top: dict[str, Tensor], hidden: Tensor) -> Tensor:
        return tf.cast(self.family.head(chosen.ops, self.arch, top, hidden), tf.float32)

    def _backend(self, x: Tensor) -> Backend:
        """The backend for products with x [..., D]."""
        return backend.backend_for(self.rules, math.prod(x.shape[:-1]))

    def _hidden_step(self, inputs: StepInputs) -> Tensor:
        """Hidden states [N, W, D] of the `outputs`."""
        window, prefix_kv = self.arch.window, inputs.prefix_kv

        def run_layer(index: int, weights: dict[str, Tensor], x: Tensor, positional: Any) -> Tensor:
            limit = None
            if window is not None:  # a tensor, so that all layers share one program
                limit = tf.constant(window if index in self.arch.window_layers else tf.int32.max)
            cache = _LayerCache(
                inputs.positions,
                inputs.slot,
                inputs.slot_positions,
                inputs.mask,
                inputs.kv[index],
                None if prefix_kv is None else (*prefix_kv[index], inputs.prefix_mask),
                limit,
            )
            chosen = self._backend(x)
            compiled = chosen is backend.XLA_LAYER
            layer = self.layer if compiled else functools.partial(self._layer, chosen)
            return layer(weights, x, positional, cache)

        without_xla = self.rules[0].backend is backend.GRAPH
        table = ops.graph if without_xla else ops.graph_fused
        params, ids, positions = self.params, inputs.ids, inputs.positions
        x = forward(self.family, table, self.arch, params, ids, positions, run_layer)
        x = tf.gather(x, inputs.outputs, axis=1)  # [N, W, D]
        return self.family.final(table, self.arch, params.top, x)

    def _layer(
        self,
        chosen: Backend,
        weights: dict[str, Tensor],
        x: Tensor,
        positional: Any,
        cache: _LayerCache,
    ) -> Tensor:
        """The residual stream x [N, T, D] after one layer."""
        run = self.attention if chosen is backend.ONEDNN else self._attention

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return run(q, k, v, cache, chosen is not backend.GRAPH)

        return self.family.layer(chosen.ops, self.arch, weights, x, positional, attend)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, cache: _LayerCache, xla: bool) -> Tensor:
        """Writes k and v [N, T, G, E] to the KV cache; context [N, T, H*E] of q [N, T, H, E]."""
        positions, slot, slot_positions, mask, kv, prefix_cache, window = cache
        if self.arch.log_n is not None:
            q *= log_n(self.arch.log_n, positions, window)[..., None, None]
        for variable, new in zip(kv, (k, v), strict=True):
            write_kv(variable, new, slot, xla)
        if window is not None:
            mask &= positions[..., None] - slot_positions[:, None] < window
        prefix = None
        if prefix_cache is not None:
            keys, values, prefix_mask = prefix_cache
            n, (b, p) = q.shape[0], prefix_mask.shape
            query_mask = tf.broadcast_to(tf.reshape(prefix_mask, [b, 1, p]), [b, n // b, p])
            query_mask = tf.reshape(query_mask, [n, 1, p])
            if window is not None:
                query_mask &= positions[..., None] - tf.range(p) < window  # [N, T, P]
            prefix = keys, values, query_mask
        return attention(self.arch, q, prefix, (*kv, mask))


def open_runtime(
    family: ModuleType,
    arch: Arch,
    source: TensorSource,
    plan: Mapping[str, Weight],
    dtype: str,
    xla: bool | None,
) -> XlaRuntime:
    """A runtime with the weights of a plan in `dtype`; `xla` as in `backend.rules`."""
    params = weights.load(source, plan, arch.n_layer, tf.as_dtype(dtype))
    rules = backend.rules(device.kind(), dtype, arch.d_model, xla)
    return XlaRuntime(family, arch, params, rules)
