"""Gemma (Gemma Team 2024): LLaMA with norms that multiply by 1 + scale, embeddings multiplied by
sqrt(D), gelu instead of silu, and a tied head.
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
    """The residual stream x [..., D] of ids [...]; positions enter with the rotation, not here."""
    return ops.gather(top["embedding"], ids) * arch.d_model**0.5


def norm(ops: Ops, arch: Arch, x: Tensor, scale: Tensor) -> Tensor:
    """RMS norm of x [..., D], times 1 + scale."""
    return ops.rms_norm(x, scale, arch.norm_eps, 1.0)


def layer(
    ops: Ops,
    arch: Arch,
    w: dict[str, Tensor],
    x: Tensor,
    positional: Rotation,
    attend: Attend,
) -> Tensor:
    """The residual stream x [..., D] after one layer; `attend` attends over its KV cache."""
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
    """The output of attention for x [..., D], to be added to x."""
    qkv = ops.linear(norm(ops, arch, x, w["attention_norm"]), w["qkv"])
    q, k, v = queries_keys_values(ops, arch, qkv)
    context = attend(ops.rope(q, positional), ops.rope(k, positional), v)
    return ops.linear(context, w["attention_out"])


def mlp(ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Norm and MLP of the residual stream x [..., D]: what is added to it."""
    hidden = ops.linear(norm(ops, arch, x, w["mlp_norm"]), w["gate_up"])  # [..., 2F]
    return ops.linear(ops.geglu(hidden), w["down"])


def final(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """The hidden states [..., D] that `head` takes, of the residual stream after the last layer."""
    return norm(ops, arch, x, top["final_norm"])
