"""The operations of families on TensorFlow's tensors, in five tables: `graph` runs anywhere,
`xla_cpu` in a compiled program on a CPU, `xla_gpu` in one on a GPU; `graph_fused` and `onednn`
compile only norms, activations and rotations, and oneDNN computes the products, in the dtype of x
or of the weights. Norms compute in float32 whatever the dtype of their input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gentool.models import column_blocks as layout
from gentool.runtimes.ops import Ops, Tensor

MAX_ROWS_ONE_BY_ONE = 2  # rows up to which a 16-bit weight is read and cast once for each row
MAX_ROWS_IN_PARTS = 64  # rows up to which it is cast in parts that fit the processor's cache
PART_ELEMENTS = 5 << 18  # of such a part: 5 MiB in float32


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] times weight [out, in], or its column blocks [C, out, in/C], plus bias
    [out]; a weight of another dtype is cast to x's."""
    products = column_blocks(x, weight)
    y = tf.add_n([tf.matmul(a, tf.cast(w, x.dtype), transpose_b=True) for a, w in products])
    return y if bias is None else y + tf.cast(bias, x.dtype)


def column_blocks(x: Tensor, weight: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The products [..., in/C] times [out, in/C] whose sum is x [..., in] times a weight."""
    if len(weight.shape) == 2:
        return [(x, weight)]
    parts = tf.split(x, weight.shape[0], axis=-1)
    return list(zip(parts, tf.unstack(weight), strict=True))


def flat_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` as a product of two matrices, for x of known shape: for three axes XLA on a CPU
    generates a loop that reads the weight at a quarter of the speed. For few rows a 16-bit weight
    is cast once for each row, for some rows part by part: both are faster than casting all of it.
    """
    rows = tf.reshape(x, [-1, x.shape[-1]])
    n, cast = rows.shape[0], weight.dtype != x.dtype
    if n == 1:
        y = _one_row(rows, weight)
    elif cast and n <= MAX_ROWS_ONE_BY_ONE:
        y = tf.concat([_one_row(row, weight) for row in tf.split(rows, n)], axis=0)
    elif cast and n <= MAX_ROWS_IN_PARTS:
        y = _in_parts(rows, weight)
    else:
        y = linear(rows, weight)
    y = tf.reshape(y, [*x.shape[:-1], y.shape[-1]])
    return y if bias is None else y + tf.cast(bias, x.dtype)


def _one_row(x: Tensor, weight: Tensor) -> Tensor:
    """x [1, in] times weight [out, in] in a compiled program. XLA casts a 16-bit weight while it
    reads it if x takes less than 16 KiB; otherwise it first writes all of it in float32. So weights
    of many inputs are in column blocks, or are split here, which reads memory at half the speed.
    XLA would compute x again for each output, and fuse a product and the addition of its bias to a
    loop of one thread: the divisions by the fusion barrier prevent both."""
    barrier = fusion_barrier(x)
    x /= barrier
    inputs = x.shape[-1]
    if weight.dtype == x.dtype:
        return linear(x, weight) / barrier
    if inputs <= layout.MAX_FUSED_INPUTS:
        return linear(x, weight)
    if len(weight.shape) == 3:
        parts = column_blocks(x, weight)
    else:
        starts = range(0, inputs, layout.MAX_FUSED_INPUTS)
        sizes = [min(layout.MAX_FUSED_INPUTS, inputs - start) for start in starts]
        splits = (tf.split(a, sizes, axis=1) for a in (x, weight))
        parts = list(zip(*splits, strict=True))
    return tf.add_n([linear(x_part, w_part) / barrier for x_part, w_part in parts])


def _in_parts(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, in] times weight [out, in], or its column blocks. One part at a time is cast to
    float32, so that it fits the processor's cache. The last part overlaps the one before it, so
    that all have the same length."""
    n, out, inputs = x.shape[0], weight.shape[-2], weight.shape[-1]
    count = -(-out // max(1, PART_ELEMENTS // inputs))
    size = -(-out // count)
    # bfloat16 as bits: otherwise XLA casts all of it to float32 before the loop
    loop_dtype = tf.uint16 if weight.dtype == tf.bfloat16 else weight.dtype
    blocks = tf.bitcast(tf.reshape(weight, [-1, out, inputs]), loop_dtype)  # [C, out, in/C]
    xs = tf.transpose(tf.reshape(x, [n, -1, inputs]), [1, 0, 2])  # [C, N, in/C]

    def product(index: Tensor) -> Tensor:
        block, start = index // count, tf.minimum(index % count * size, out - size)
        part = tf.slice(blocks, [block, start, 0], [1, size, inputs])[0]
        part = tf.bitcast(part, weight.dtype)
        return tf.matmul(tf.cast(part, x.dtype), xs[block], transpose_b=True)  # [size, N]

    y = tf.map_fn(product, tf.range(blocks.shape[0] * count), fn_output_signature=x.dtype)
    y = tf.reduce_sum(tf.reshape(y, [-1, count, size, n]), axis=0)
    last = y[-1, count * size - out :]  # without the overlap
    return tf.transpose(tf.concat([tf.reshape(y[:-1], [-1, n]), last], axis=0))


def fusion_barrier(x: Tensor) -> Tensor:
    """The number 1 [1, 1], computed from x [1, D] so that XLA cannot simplify it. XLA does not fuse
    an expression that is divided by it with the operations after the division."""
    return tf.maximum(tf.minimum(tf.slice(x, [0, 0], [1, 1]), 1.0), 1.0)


def stored_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` with x and the product rounded to the dtype of the weight: the hardware's 16-bit
    products, which sum in float32."""
    rows = tf.cast(tf.reshape(x, [-1, x.shape[-1]]), weight.dtype)
    first, *more = (tf.matmul(a, w, transpose_b=True) for a, w in column_blocks(rows, weight))
    y = first if bias is None else tf.nn.bias_add(first, bias)
    y = tf.add_n([tf.cast(part, x.dtype) for part in (y, *more)])
    return tf.reshape(y, [*x.shape[:-1], y.shape[-1]])


def rms_norm(x: Tensor, scale: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """Root-mean-square norm over the last axis (Zhang & Sennrich 2019), times offset + scale."""
    y = tf.cast(x, tf.float32)
    y *= tf.math.rsqrt(tf.reduce_mean(tf.square(y), axis=-1, keepdims=True) + eps)
    return tf.cast(y * (tf.cast(scale, tf.float32) + offset), x.dtype)


def layer_norm(x: Tensor, scale: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm over the last axis, with the biased variance (Ba et al. 2016)."""
    y = tf.cast(x, tf.float32)
    y -= tf.reduce_mean(y, axis=-1, keepdims=True)
    y *= tf.math.rsqrt(tf.reduce_mean(tf.square(y), axis=-1, keepdims=True) + eps)
    return tf.cast(y * tf.cast(scale, tf.float32) + tf.cast(bias, tf.float32), x.dtype)


def gelu(x: Tensor, kind: str) -> Tensor:
    """x times the normal distribution's Phi(x) (Hendrycks & Gimpel 2016): gelu_erf is the exact
    function, gelu_tanh the approximation that most checkpoints were trained with."""
    return tf.nn.gelu(x, approximate=kind == "gelu_tanh")


def softcap(x: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(x / cap) in float32 (Gemma 2); x in float32 where there is no cap."""
    y = tf.cast(x, tf.float32)
    return y if cap is None else cap * tf.tanh(y / cap)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up [..., F] for gate_up [..., 2F] (Shazeer 2020)."""
    gate, up = tf.split(gate_up, 2, axis=-1)
    return gate * tf.sigmoid(gate) * up


def geglu(gate_up: Tensor) -> Tensor:
    """gelu_tanh(gate) * up [..., F] for gate_up [..., 2F] (Shazeer 2020)."""
    gate, up = tf.split(gate_up, 2, axis=-1)
    return gelu(gate, "gelu_tanh") * up


def gather(table: Tensor, ids: Tensor) -> Tensor:
    """float32 rows [..., D] of table [V, D]: cast after the gather, or XLA casts the table."""
    return tf.cast(tf.gather(table, ids), tf.float32)


def rotation(positions: Tensor, frequency: np.ndarray, scale: float) -> tuple[Tensor, Tensor]:
    """`scale` times cosines and sines [..., E/2] of positions [...] times frequency [E/2]."""
    angle = tf.cast(positions, tf.float32)[..., None] * frequency
    return tf.cos(angle) * scale, tf.sin(angle) * scale


def rope(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """x [..., H, E] with the halves of each head rotated by cosines and sines [..., E/2]."""
    cosines, sines = (part[..., None, :] for part in rotation)  # [..., 1, E/2]
    left, right = tf.split(tf.cast(x, tf.float32), 2, axis=-1)
    rotated = tf.concat([left * cosines - right * sines, right * cosines + left * sines], axis=-1)
    return tf.cast(rotated, x.dtype)


def split(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """x [..., sum(sizes)] split along its last axis."""
    return tf.split(x, list(sizes), axis=-1)


def heads(x: Tensor, size: int) -> Tensor:
    """x [..., H*E] as [..., H, E]."""
    rows = x.shape[:-1]
    sizes = [n if n is not None else tf.shape(x)[axis] for axis, n in enumerate(rows)]
    return tf.reshape(x, [*sizes, x.shape[-1] // size, size])


class Compiled:
    """A function, compiled by XLA. TensorFlow remembers that a program of a name could not be had;
    after `rename` all are compiled under new names."""

    _names = 0  # how often they were renamed

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function, self._made = function, dict[int, Any]()

    def __call__(self, *arguments: Any) -> Any:
        return self.program(*arguments)

    @property
    def program(self) -> Any:
        """TensorFlow's own function."""
        if Compiled._names not in self._made:
            made = tf.function(self._function, jit_compile=True, autograph=False)
            self._made = {Compiled._names: made}
        return self._made[Compiled._names]

    @staticmethod
    def rename() -> None:
        """Has all of them compiled anew where they are called or traced next."""
        Compiled._names += 1


def compiled(function: Callable[..., Tensor]) -> Compiled:
    """The function, compiled by XLA."""
    return Compiled(function)


graph = Ops(
    gather=gather,
    rotation=rotation,
    linear=linear,
    rms_norm=rms_norm,
    layer_norm=layer_norm,
    gelu=gelu,
    swiglu=swiglu,
    geglu=geglu,
    split=split,
    heads=heads,
    rope=rope,
    softcap=softcap,
)
_compiled_alone = ("rms_norm", "layer_norm", "gelu", "swiglu", "geglu", "rope")
graph_fused = graph._replace(**{name: compiled(getattr(graph, name)) for name in _compiled_alone})
xla_cpu = graph._replace(linear=flat_linear)
xla_gpu = graph._replace(linear=stored_linear)
onednn = graph_fused._replace(linear=stored_linear)
