"""Gemma (Gemma Team 2024): LLaMA's shape with norms that multiply by 1 + scale, embeddings that
are multiplied by sqrt(D), a gelu instead of the silu, and a tied head.
"""

from __future__ import annotations

import tensorflow as tf

from gentool.config.model import Arch
from gentool.models.llama import DIALECTS, head, heads, layer_tensors, rotated, top_tensors
from gentool.runtimes.xla.ops import Ops, Tensor

__all__ = ["DIALECTS", "embed", "final", "head", "layer_tensors", "merge", "qkv", "top_tensors"]


def embed(arch: Arch, top: dict[str, Tensor], ids: Tensor, positions: Tensor) -> Tensor:
    """ids [N, T] to float32 x [N, T, D]; positions enter with the rotation, not here."""
    return tf.cast(tf.gather(top["embedding"], ids), tf.float32) * arch.d_model**0.5


def norm(ops: Ops, arch: Arch, x: Tensor, scale: Tensor) -> Tensor:
    return ops.rms_norm(x, 1.0 + tf.cast(scale, tf.float32), arch.norm_eps)


def qkv(
    ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, T, D] to q [N, T, H, E] and k, v [N, T, G, E], rotated by positions [N, T]."""
    q, k, v = heads(arch, ops.linear(norm(ops, arch, x, w["attention_norm"]), w["qkv"]))
    return *rotated(ops, arch, q, k, positions), v


def merge(ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor, context: Tensor) -> Tensor:
    """Adds what attention gave, context [N, T, H*E], and the MLP to the stream x [N, T, D]."""
    x += ops.linear(context, w["attention_out"])
    hidden = ops.linear(norm(ops, arch, x, w["mlp_norm"]), w["gate_up"])
    return x + ops.linear(ops.geglu(hidden), w["down"])


def final(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """The stream x [..., D] after the last layer to the hidden states that `head` takes."""
    return norm(ops, arch, x, top["final_norm"])
