"""Qwen2 and Qwen2.5 (Yang et al. 2024): LLaMA with biases on queries, keys and values."""

from __future__ import annotations

from gentool.config.model import Arch
from gentool.models import llama
from gentool.models.llama import embed, final, head, heads, merge, rotated, top_tensors
from gentool.runtimes.xla.ops import Ops, Tensor

__all__ = ["DIALECTS", "embed", "final", "head", "layer_tensors", "merge", "qkv", "top_tensors"]


def layer_tensors(arch: Arch, index: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of layer `index`; products are stored [out, in]."""
    shapes = llama.layer_tensors(arch, index)
    return shapes | {"qkv_bias": shapes["qkv"][:1]}


def qkv(
    ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, T, D] to q [N, T, H, E] and k, v [N, T, G, E], rotated by positions [N, T]."""
    normed = ops.rms_norm(x, w["attention_norm"], arch.norm_eps)
    q, k, v = heads(arch, ops.linear(normed, w["qkv"], w["qkv_bias"]))
    return *rotated(ops, arch, q, k, positions), v


DIALECTS = llama.hugging_face({"qkv_bias": tuple(f"self_attn.{part}_proj.bias" for part in "qkv")})
