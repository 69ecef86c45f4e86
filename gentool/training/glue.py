"""The operations of families for training. The gradient of a norm, an activation or a rotation
keeps only its inputs and computes the rest again, in one compiled program: without that every
number on the way would be kept in float32. A product may have LoRA's factors beside its weight.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from gentool.runtimes.ops import Tensor
from gentool.runtimes.xla.ops import compiled, graph


class Adapted(NamedTuple):
    """A weight [out, in] that is not trained, and the factors of what is added to it:
    scale * b a, of a [r, in] and b [out, r] (Hu et al. 2021)."""

    weight: Tensor
    a: Tensor
    b: Tensor
    scale: float


def linear(x: Tensor, weight: Tensor | Adapted, bias: Tensor | None = None) -> Tensor:
    """x [..., in] times weight [out, in], plus bias [out]."""
    if not isinstance(weight, Adapted):
        return graph.linear(x, weight, bias)
    low = graph.linear(x, weight.a) * tf.cast(weight.scale, x.dtype)  # [..., r]
    return graph.linear(x, weight.weight, bias) + graph.linear(low, weight.b)


def fused(function: Callable[..., Tensor], tensors: int) -> Callable[..., Tensor]:
    """An operation whose first `tensors` arguments are tensors as one compiled program, and its
    gradient as another."""

    @functools.cache
    def programs(*constants: Any) -> tuple[Callable[..., Tensor], Callable[..., Any]]:
        def value(*inputs: Tensor) -> Tensor:
            return function(*inputs, *constants)

        def gradient(upstream: Tensor, *inputs: Tensor) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                y = value(*inputs)
            return tape.gradient(y, inputs, upstream)

        return compiled(value), compiled(gradient)

    def run(*arguments: Any) -> Tensor:
        forward, backward = programs(*arguments[tensors:])

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def differentiable(*inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
            return forward(*inputs), lambda upstream: backward(upstream, *inputs)

        return differentiable(*map(tf.convert_to_tensor, arguments[:tensors]))

    return run


def _rope(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    return graph.rope(x, (cosines, sines))


_fused_rope = fused(_rope, 3)
_fused_rms_norm = fused(graph.rms_norm, 2)


def rms_norm(x: Tensor, scale: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """Root-mean-square norm over the last axis, times offset + scale."""
    return _fused_rms_norm(x, scale, eps, offset)


def rope(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """x [..., H, E] with the halves of each head rotated by cosines and sines [..., E/2]."""
    return _fused_rope(x, *rotation)


training = graph._replace(
    linear=linear,
    rms_norm=rms_norm,
    layer_norm=fused(graph.layer_norm, 3),
    gelu=fused(graph.gelu, 1),
    swiglu=fused(graph.swiglu, 1),
    geglu=fused(graph.geglu, 1),
    rope=rope,
)
