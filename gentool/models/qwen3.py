"""Qwen3 (Yang et al. 2025): LLaMA with a norm on each head's query and key before the rotation."""

from __future__ import annotations

from gentool.config.model import Arch
from gentool.models import llama
from gentool.models.llama import embed, final, head, heads, merge, rotated, top_tensors
from gentool.runtimes.xla.ops import Ops, Tensor

__all__ = ["DIALECTS", "embed", "final", "head", "layer_tensors", "merge", "qkv", "top_tensors"]


def layer_tensors(arch: Arch, index: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of layer `index`; products are stored [out, in]."""
    return llama.layer_tensors(arch, index) | {"q_norm": (arch.d_head,), "k_norm": (arch.d_head,)}


def qkv(
    ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, T, D] to q [N, T, H, E] and k, v [N, T, G, E], rotated by positions [N, T]."""
    normed = ops.rms_norm(x, w["attention_norm"], arch.norm_eps)
    q, k, v = heads(arch, ops.linear(normed, w["qkv"]))
    q = ops.rms_norm(q, w["q_norm"], arch.norm_eps)
    k = ops.rms_norm(k, w["k_norm"], arch.norm_eps)
    return *rotated(ops, arch, q, k, positions), v


DIALECTS = llama.hugging_face({f"{x}_norm": (f"self_attn.{x}_norm.weight",) for x in "qk"})
