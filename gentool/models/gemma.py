"""Gemma (Gemma Team 2024): LLaMA's shape with norms that multiply by 1 + scale, embeddings that
are multiplied by sqrt(D), a gelu instead of the silu, and a tied head.
"""

from __future__ import annotations

from gentool.config.model import Arch
from gentool.models.llama import (
    DIALECTS,
    head,
    layer_tensors,
    positional,
    queries_keys_values,
    top_tensors,
)
from gentool.models.positions import Rotation
from gentool.runtimes.ops import Attend, Ops, Tensor

__all__ = [
    "DIALECTS",
    "embed",
    "final",
    "head",
    "layer",
    "layer_tensors",
    "positional",
    "top_tensors",
]


def embed(
    ops: Ops, arch: Arch, top: dict[str, Tensor], ids: Tensor, positional: Rotation
) -> Tensor:
    """ids [...] to x [..., D]; positions enter with the rotation, not here."""
    return ops.gather(top["embedding"], ids) * arch.d_model**0.5


def norm(ops: Ops, arch: Arch, x: Tensor, scale: Tensor) -> Tensor:
    return ops.rms_norm(x, scale, arch.norm_eps, offset=1.0)


def layer(
    ops: Ops,
    arch: Arch,
    w: dict[str, Tensor],
    x: Tensor,
    positional: Rotation,
    attend: Attend,
) -> Tensor:
    """x [..., D] through one layer; `attend` is attention over the KV cache of the layer."""
    x += attention(ops, arch, w, x, positional, attend)
    return x + mlp(ops, arch, w, x)


def attention(
    ops: Ops,
    arch: Arch,
    w: dict[str, Tensor],
    x: Tensor,
    positional: Rotation,
    attend: Attend,
) -> Tensor:
    """What attention adds to x [..., D]."""
    qkv = ops.linear(norm(ops, arch, x, w["attention_norm"]), w["qkv"])
    q, k, v = queries_keys_values(ops, arch, qkv)
    context = attend(ops.rope(q, positional), ops.rope(k, positional), v)
    return ops.linear(context, w["attention_out"])


def mlp(ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """What the MLP adds to x [..., D]."""
    hidden = ops.linear(norm(ops, arch, x, w["mlp_norm"]), w["gate_up"])  # [..., 2F]
    return ops.linear(ops.geglu(hidden), w["down"])


def final(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """x [..., D] after the last layer to the hidden states that `head` takes."""
    return norm(ops, arch, x, top["final_norm"])
