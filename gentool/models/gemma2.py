"""Gemma 2 (Gemma Team 2024): Gemma with norms after attention and MLP too; its capped scores and
logits and its windows on some layers are numbers in Arch.
"""

from __future__ import annotations

from gentool.config.model import Arch
from gentool.models import llama
from gentool.models.gemma import embed, final, norm, qkv, top_tensors
from gentool.runtimes.xla.ops import Ops, Tensor, capped

__all__ = ["DIALECTS", "embed", "final", "head", "layer_tensors", "merge", "qkv", "top_tensors"]


def layer_tensors(arch: Arch, index: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of layer `index`; products are stored [out, in]."""
    norms = {"attention_out_norm": (arch.d_model,), "mlp_out_norm": (arch.d_model,)}
    return llama.layer_tensors(arch, index) | norms


def merge(ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor, context: Tensor) -> Tensor:
    """Adds what attention gave, context [N, T, H*E], and the MLP to the stream x [N, T, D]."""
    attended = ops.linear(context, w["attention_out"])
    x += norm(ops, arch, attended, w["attention_out_norm"])
    hidden = ops.linear(norm(ops, arch, x, w["mlp_norm"]), w["gate_up"])
    return x + norm(ops, arch, ops.linear(ops.geglu(hidden), w["down"]), w["mlp_out_norm"])


def head(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """x [..., D] to float32 logits [..., V]."""
    return capped(llama.head(ops, arch, top, x), arch.logit_cap)


DIALECTS = llama.hugging_face(
    {
        "attention_out_norm": ("post_attention_layernorm.weight",),
        "mlp_norm": ("pre_feedforward_layernorm.weight",),
        "mlp_out_norm": ("post_feedforward_layernorm.weight",),
    }
)
