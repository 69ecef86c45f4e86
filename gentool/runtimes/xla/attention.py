"""Attention over two parts of the KV cache: the prefix, which all rows of a prompt share and which
has no row axis, and the tail, which holds each row's own tokens. The only code that depends on the
memory layout of XLA's KV cache.

Rows and heads are one axis of the cache: XLA uses that axis as the batch of a product. If it has to
transpose [N, G] to it, between the slice update and the product, it updates two copies.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as xla_ops

from gentool.config.model import Arch
from gentool.runtimes.ops import Tensor
from gentool.runtimes.xla.ops import compiled, softcap

LONG_PREFILL = 256  # number of queries from which four parts are faster than one product


def write_kv(kv: tf.Variable, new: Tensor, slot: Tensor, xla: bool) -> None:
    """Writes new [N, T, G, E] to the KV cache kv [N*G, M, E] at slots slot..slot+T, in place. XLA
    updates a variable in place only with its own slice update, which runs only in XLA."""
    new = tf.transpose(new, [0, 2, 1, 3])  # [N, G, T, E]
    new = tf.reshape(new, [-1, *new.shape[2:]])  # [N*G, T, E]
    if xla:
        start = tf.stack([0, slot, 0])
        kv.assign(xla_ops.dynamic_update_slice(kv, new, start))
    else:
        kv[:, slot : slot + new.shape[1]].assign(new)


def attention(
    arch: Arch,
    q: Tensor,
    prefix: tuple[Tensor, Tensor, Tensor] | None,
    tail: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """Context [N, T, H*E] of queries q [N, T, H, E]. `prefix` is keys and values [B*G, P, E] and
    the mask [N, T or 1, P] of each query, rows being grouped by their prefix (N = B*R); `tail` is
    keys and values [N*G, M, E] and the mask [N, T, M]. Softmax in float32; masked scores are
    replaced, not added to. In a long prefill no query attends to a slot after its own, so each
    quarter of the queries is computed over the slots up to its last."""
    n, t, g, e = q.shape[0], q.shape[1], arch.n_kv_head, arch.d_head
    if prefix is None and t == tail[0].shape[1] and t >= LONG_PREFILL:
        ends = [t * part // 4 for part in range(5)]
        parts = []
        for start, end in itertools.pairwise(ends):
            k, v, mask = tail[0][:, :end], tail[1][:, :end], tail[2][:, start:end, :end]
            parts.append(attention(arch, q[:, start:end], None, (k, v, mask)))
        return tf.concat(parts, axis=1)
    queries = tf.transpose(q, [0, 2, 1, 3]) * (arch.query_scale or e) ** -0.5  # [N, H, T, E]
    tail_k, tail_v, mask = tail
    m = tail_k.shape[1]
    scores = tf.matmul(tf.reshape(queries, [n * g, -1, e]), tail_k, transpose_b=True)
    scores = softcap(tf.reshape(scores, [n, arch.n_head, t, m]), arch.score_cap)
    scores = tf.where(tf.expand_dims(mask, 1), scores, tf.float32.min)  # [N, H, T, M]
    if prefix is not None:
        prefix_k, prefix_v, mask = prefix
        b, p = prefix_k.shape[0] // g, prefix_k.shape[1]
        prefix_scores = tf.matmul(_by_prefix(queries, b, g), prefix_k, transpose_b=True)
        prefix_scores = tf.reshape(prefix_scores, [b, g, n // b, -1, p])
        prefix_scores = tf.transpose(prefix_scores, [0, 2, 1, 3, 4])
        prefix_scores = softcap(tf.reshape(prefix_scores, [n, arch.n_head, t, p]), arch.score_cap)
        prefix_scores = tf.where(tf.expand_dims(mask, 1), prefix_scores, tf.float32.min)
        scores = tf.concat([prefix_scores, scores], axis=-1)  # [N, H, T, P+M]
    weights = tf.cast(tf.nn.softmax(scores), q.dtype)
    context = tf.matmul(tf.reshape(weights[..., -m:], [n * g, -1, m]), tail_v)
    context = tf.reshape(context, [n, arch.n_head, t, e])
    if prefix is not None:
        part = tf.matmul(_by_prefix(weights[..., :-m], b, g), prefix_v)  # [B*G, R*H/G*T, E]
        part = tf.transpose(tf.reshape(part, [b, g, n // b, -1, e]), [0, 2, 1, 3, 4])
        context += tf.reshape(part, [n, arch.n_head, t, e])
    return tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [n, t, arch.n_head * e])


def causal_attention(
    arch: Arch, index: int, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, segments: Tensor
) -> Tensor:
    """Attention of layer `index` for training, without a KV cache: context [N, T, H*E] of rows
    q [N, T, H, E], k and v [N, T, G, E] that hold several texts. A token attends to those before it
    of the same number in `segments` [N, T]; `positions` [N, T] count from the start of its text.
    oneDNN computes the products in the dtype of q."""
    n, t, g = q.shape[0], q.shape[1], arch.n_kv_head
    window = arch.window if arch.window is not None and index in arch.window_layers else None
    if arch.log_n is not None:
        limit = None if window is None else tf.constant(window)
        q *= tf.cast(log_n(arch.log_n, positions, limit)[..., None, None], q.dtype)
    q = tf.reshape(tf.transpose(q, [0, 2, 1, 3]), [n, g, arch.n_head // g * t, arch.d_head])
    k, v = (tf.transpose(x, [0, 2, 1, 3]) for x in (k, v))  # [N, G, T, E]
    scores = tf.reshape(tf.matmul(q, k, transpose_b=True), [n, arch.n_head, t, t])
    scale = (arch.query_scale or arch.d_head) ** -0.5
    weights = _causal_softmax(scale, arch.score_cap, window or t)(scores, segments)
    context = tf.matmul(tf.reshape(weights, [n, g, -1, t]), v)  # [N, G, H/G*T, E]
    context = tf.transpose(tf.reshape(context, [n, arch.n_head, t, arch.d_head]), [0, 2, 1, 3])
    return tf.reshape(context, [n, t, arch.n_head * arch.d_head])


@functools.cache
def _causal_softmax(scale: float, cap: float | None, window: int) -> Callable[..., Tensor]:
    """A function of scores [N, H, T, T] and segments [N, T]: their softmax over the keys that each
    query attends to. It has its own gradient, so that no [N, H, T, T] array in float32 is kept."""

    @compiled
    def softmax(scores: Tensor, segments: Tensor) -> Tensor:
        t = scores.shape[-1]
        mask = tf.linalg.band_part(tf.ones([t, t], tf.bool), window - 1, 0)
        mask &= segments[:, None, :, None] == segments[:, None, None, :]
        capped = softcap(tf.cast(scores, tf.float32) * scale, cap)
        return tf.cast(tf.nn.softmax(tf.where(mask, capped, tf.float32.min)), scores.dtype)

    @compiled
    def error(weights: Tensor, upstream: Tensor, scores: Tensor | None) -> Tensor:
        w, up = (tf.cast(x, tf.float32) for x in (weights, upstream))
        inner = w * (up - tf.reduce_sum(w * up, axis=-1, keepdims=True)) * scale
        if scores is not None and cap is not None:
            inner *= 1 - tf.square(tf.tanh(tf.cast(scores, tf.float32) * (scale / cap)))
        return tf.cast(inner, weights.dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(scores: Tensor, segments: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
        weights, kept = softmax(scores, segments), None if cap is None else scores
        return weights, lambda upstream: (error(weights, upstream, kept), None)

    return run


def log_n(base: int, positions: Tensor, window: Tensor | None) -> Tensor:
    """The factors of log-n scaling (Su 2021, kexue.fm 8823) for the queries at positions [N, T]:
    float32 [N, T], log(max(n, 16)) / log(base) for a query that attends to n keys."""
    n = positions + 1 if window is None else tf.minimum(positions + 1, window)
    return tf.math.log(tf.cast(tf.maximum(n, 16), tf.float32)) / math.log(base)


def _by_prefix(x: Tensor, b: int, g: int) -> Tensor:
    """Reshapes x [N, H, T, Z] to groups of rows by prefix: [B*G, R*H/G*T, Z]."""
    n, h, t, z = x.shape
    x = tf.transpose(tf.reshape(x, [b, n // b, g, h // g * t, z]), [0, 2, 1, 3, 4])
    return tf.reshape(x, [b * g, n // b * (h // g) * t, z])
