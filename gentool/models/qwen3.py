"""Qwen3 (Yang et al. 2025): LLaMA with a norm on each head's query and key before the rotation."""

from __future__ import annotations

from gentool.config.model import Arch
from gentool.models import llama
from gentool.models.llama import (
    embed,
    final,
    head,
    mlp,
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


def layer_tensors(arch: Arch, index: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of layer `index`; matrices are [out, in]."""
    return llama.layer_tensors(arch, index) | {"q_norm": (arch.d_head,), "k_norm": (arch.d_head,)}


def layer(
    ops: Ops,
    arch: Arch,
    w: dict[str, Tensor],
    x: Tensor,
    positional: Rotation,
    attend: Attend,
) -> Tensor:
    """The residual stream x [..., D] after one layer; `attend` attends over its KV cache."""
    normed = ops.rms_norm(x, w["attention_norm"], arch.norm_eps)
    q, k, v = queries_keys_values(ops, arch, ops.linear(normed, w["qkv"]))
    q = ops.rms_norm(q, w["q_norm"], arch.norm_eps)
    k = ops.rms_norm(k, w["k_norm"], arch.norm_eps)
    context = attend(ops.rope(q, positional), ops.rope(k, positional), v)
    x += ops.linear(context, w["attention_out"])
    return x + mlp(ops, arch, w, x)


DIALECTS = llama.hugging_face({f"{x}_norm": (f"self_attn.{x}_norm.weight",) for x in "qk"})
