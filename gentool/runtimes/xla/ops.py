"""The arithmetic that families are made of: one pure function each, on tensors, knowing neither
caches nor text. `plain` runs anywhere; `whole` is for one compiled program on a CPU, `stored` for
one on a GPU; `fused` and `pieces` compile each piece of element-wise glue by itself, for graphs
whose products go to oneDNN, in x's type or in the weights'.
Norms compute in float32 whatever the type of their input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from gentool.config.model import Arch

Tensor = Any

FEW = 2  # rows for which a 16-bit weight is read each time rather than written in float32
SOME = 64  # rows for which it is written in parts that stay in the cache
PART = 5 << 18  # numbers of such a part: 5 MiB in float32
VECTOR = 32  # inputs of 16 bits in 64 bytes
FUSED = 4064  # inputs in float32 that XLA fuses: less than 16 KiB, and whole vectors


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] times weight [out, in], or its slabs [C, out, in/C], plus bias [out]; a weight
    stored in another type is cast to x's."""
    y = tf.add_n([tf.matmul(a, tf.cast(w, x.dtype), transpose_b=True) for a, w in slabs(x, weight)])
    return y if bias is None else y + tf.cast(bias, x.dtype)


def slabs(x: Tensor, weight: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The products [..., in/C] times [out, in/C] whose sum is x [..., in] times a weight."""
    if len(weight.shape) == 2:
        return [(x, weight)]
    parts = tf.split(x, weight.shape[0], axis=-1)
    return list(zip(parts, tf.unstack(weight), strict=True))


def slab_count(inputs: int) -> int:
    """How many slabs a 16-bit weight of so many inputs is kept in: as few as XLA can fuse with
    their cast, each beginning where TensorFlow wants memory to begin."""
    for count in range(1, inputs // VECTOR + 1):
        if inputs % (count * VECTOR) == 0 and inputs // count <= FUSED:
            return count
    return 1


def flat_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` as one product of two matrices, for x of known shape: XLA on a CPU makes of three
    axes a loop that reads a weight at a quarter of the speed. A 16-bit weight is read once for each
    of a few rows, and written in float32 part by part for some: either is quicker than all at once.
    """
    rows = tf.reshape(x, [-1, x.shape[-1]])
    n, cast = rows.shape[0], weight.dtype != x.dtype
    if n == 1:
        y = _one_row(rows, weight)
    elif cast and n <= FEW:
        y = tf.concat([_one_row(row, weight) for row in tf.split(rows, n)], axis=0)
    elif cast and n <= SOME:
        y = _in_parts(rows, weight)
    else:
        y = linear(rows, weight)
    y = tf.reshape(y, [*x.shape[:-1], y.shape[-1]])
    return y if bias is None else y + tf.cast(bias, x.dtype)


def _one_row(x: Tensor, weight: Tensor) -> Tensor:
    """x [1, in] times weight [out, in] within a compiled program. XLA casts a 16-bit weight while
    it reads it if x takes less than 16 KiB, and writes the whole weight in float32 first if not: so
    long ones are in slabs, or are cut here, which reads memory at half the speed. It computes what
    gives x again for each of the outputs, but for a last division, and it makes of a product and
    the bias added to it one loop of one thread: hence the walls."""
    one = wall(x)
    x /= one
    inputs = x.shape[-1]
    if weight.dtype == x.dtype:
        return linear(x, weight) / one
    if inputs <= FUSED:
        return linear(x, weight)
    if len(weight.shape) == 3:
        parts = slabs(x, weight)
    else:
        sizes = [min(FUSED, inputs - start) for start in range(0, inputs, FUSED)]
        cut = (tf.split(a, sizes, axis=1) for a in (x, weight))
        parts = list(zip(*cut, strict=True))
    return tf.add_n([linear(part, some) / one for part, some in parts])


def _in_parts(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, in] times weight [out, in], or its slabs, of which only a part at a time is written in
    float32, so that it stays in the cache. The last part begins where it is as long as the others.
    """
    n, out, inputs = x.shape[0], weight.shape[-2], weight.shape[-1]
    count = -(-out // max(1, PART // inputs))
    size = -(-out // count)
    # bfloat16 as bits, or XLA would write all of it in float32 before the loop
    kept = tf.uint16 if weight.dtype == tf.bfloat16 else weight.dtype
    slabs = tf.bitcast(tf.reshape(weight, [-1, out, inputs]), kept)  # [C, out, in/C]
    xs = tf.transpose(tf.reshape(x, [n, -1, inputs]), [1, 0, 2])  # [C, N, in/C]

    def product(index: Tensor) -> Tensor:
        slab, start = index // count, tf.minimum(index % count * size, out - size)
        part = tf.bitcast(tf.slice(slabs, [slab, start, 0], [1, size, inputs])[0], weight.dtype)
        return tf.matmul(tf.cast(part, x.dtype), xs[slab], transpose_b=True)  # [size, N]

    y = tf.map_fn(product, tf.range(slabs.shape[0] * count), fn_output_signature=x.dtype)
    y = tf.reduce_sum(tf.reshape(y, [-1, count, size, n]), axis=0)
    last = y[-1, count * size - out :]  # without what the part before it has
    return tf.transpose(tf.concat([tf.reshape(y[:-1], [-1, n]), last], axis=0))


def wall(x: Tensor) -> Tensor:
    """A 1 [1, 1] of which XLA does not know, for x [1, D] of numbers, that it is one: what is
    divided by it is computed before what comes after."""
    return tf.maximum(tf.minimum(tf.slice(x, [0, 0], [1, 1]), 1.0), 1.0)


def stored_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` with x, and the product, rounded to the type the weight is stored in: the hardware's
    own 16-bit products, which sum in float32."""
    rows = tf.cast(tf.reshape(x, [-1, x.shape[-1]]), weight.dtype)
    first, *more = (tf.matmul(a, w, transpose_b=True) for a, w in slabs(rows, weight))
    y = first if bias is None else tf.nn.bias_add(first, bias)
    y = tf.add_n([tf.cast(part, x.dtype) for part in (y, *more)])
    return tf.reshape(y, [*x.shape[:-1], y.shape[-1]])


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis (Zhang & Sennrich 2019)."""
    y = tf.cast(x, tf.float32)
    y *= tf.math.rsqrt(tf.reduce_mean(tf.square(y), axis=-1, keepdims=True) + eps)
    return tf.cast(y * tf.cast(scale, tf.float32), x.dtype)


def layer_norm(x: Tensor, scale: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm over the last axis, with the biased variance (Ba et al. 2016)."""
    y = tf.cast(x, tf.float32)
    y -= tf.reduce_mean(y, axis=-1, keepdims=True)
    y *= tf.math.rsqrt(tf.reduce_mean(tf.square(y), axis=-1, keepdims=True) + eps)
    return tf.cast(y * tf.cast(scale, tf.float32) + tf.cast(bias, tf.float32), x.dtype)


def gelu(x: Tensor, kind: str) -> Tensor:
    """x times the normal distribution's Phi(x) (Hendrycks & Gimpel 2016): gelu_erf is the function
    itself, gelu_tanh the approximation most checkpoints were trained with."""
    return tf.nn.gelu(x, approximate=kind == "gelu_tanh")


def capped(x: Tensor, cap: float | None) -> Tensor:
    """x in float32, bent into (-cap, cap) (Gemma 2)."""
    y = tf.cast(x, tf.float32)
    return y if cap is None else cap * tf.tanh(y / cap)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for gate_up [..., 2F] (Shazeer 2020); gives [..., F]."""
    gate, up = tf.split(gate_up, 2, axis=-1)
    return gate * tf.sigmoid(gate) * up


def geglu(gate_up: Tensor) -> Tensor:
    """gelu_tanh(gate) * up for gate_up [..., 2F] (Shazeer 2020); gives [..., F]."""
    gate, up = tf.split(gate_up, 2, axis=-1)
    return gelu(gate, "gelu_tanh") * up


def frequencies(arch: Arch) -> np.ndarray:
    """How fast each pair of a head turns, float32 [E/2] (Su et al. 2021). Under a llama3 or yarn
    scaling pairs of few turns over the original context turn `factor` times slower, those of many
    as they did, those between by a mixture (Llama 3's own code; Peng et al. 2023)."""
    half = arch.d_head // 2
    # rounded where everybody's float32 code rounds: an ulp is 1e-4 radians at position 1000
    exponents = np.arange(0, arch.d_head, 2, dtype=np.float32) / np.float32(arch.d_head)
    power = (arch.rope_theta ** exponents.astype(np.float64)).astype(np.float32)
    plain: np.ndarray = np.float32(1) / power
    scaling = arch.rope_scaling
    if scaling is None:
        return plain.astype(np.float32)
    if scaling.kind == "linear":
        return (plain / scaling.factor).astype(np.float32)
    turns = scaling.original_n_ctx * plain / (2 * np.pi)
    few, many = scaling.low_frequency, scaling.high_frequency
    if scaling.kind == "llama3":
        mixture = np.clip((turns - few) / (many - few), 0, 1)
    else:
        # the pairs that turn so often, counted from the fastest
        pairs = np.log(scaling.original_n_ctx / (2 * np.pi * np.array([many, few])))
        pairs *= half / math.log(arch.rope_theta)
        first, last = [np.floor(pairs[0]), np.ceil(pairs[1])] if scaling.whole_pairs else pairs
        first, last = max(first, 0), min(last, arch.d_head - 1)
        mixture = 1 - np.clip((np.arange(half) - first) / (last - first or 1e-3), 0, 1)
    return (plain * (mixture + (1 - mixture) / scaling.factor)).astype(np.float32)


def rope(x: Tensor, positions: Tensor, frequency: np.ndarray, length: float = 1.0) -> Tensor:
    """Rotates the halves of each head of x [N, T, H, E] by positions [N, T], and multiplies them
    by `length`."""
    angle = tf.cast(positions, tf.float32)[..., None, None] * frequency  # [N, T, 1, E/2]
    cos, sin = tf.cos(angle) * length, tf.sin(angle) * length
    left, right = tf.split(tf.cast(x, tf.float32), 2, axis=-1)
    turned = tf.concat([left * cos - right * sin, right * cos + left * sin], axis=-1)
    return tf.cast(turned, x.dtype)  # [N, T, H, E]


class Ops(NamedTuple):
    """The pieces a family calls, so that a caller decides what is compiled with what."""

    linear: Callable[..., Tensor]
    rms_norm: Callable[..., Tensor]
    layer_norm: Callable[..., Tensor]
    gelu: Callable[..., Tensor]
    swiglu: Callable[..., Tensor]
    geglu: Callable[..., Tensor]
    rope: Callable[..., Tensor]


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return tf.function(function, jit_compile=True, autograph=False)


plain = Ops(linear, rms_norm, layer_norm, gelu, swiglu, geglu, rope)
fused = Ops(linear, *map(compiled, plain[1:]))
whole = Ops(flat_linear, *plain[1:])
stored = Ops(stored_linear, *plain[1:])
pieces = Ops(stored_linear, *fused[1:])
