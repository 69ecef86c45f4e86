"""Gemma 2 (Gemma Team 2024): Gemma with norms after attention and MLP too; its capped scores and
logits and its windows on some layers are numbers in Arch.
"""

from __future__ import annotations

from gentool.config.model import Arch
from gentool.models import llama
from gentool.models.gemma import attention, embed, final, mlp, norm, positional, top_tensors
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
    """Names and shapes of the weights of layer `index`; products are stored [out, in]."""
    norms = {"attention_out_norm": (arch.d_model,), "mlp_out_norm": (arch.d_model,)}
    return llama.layer_tensors(arch, index) | norms


def layer(
    ops: Ops,
    arch: Arch,
    w: dict[str, Tensor],
    x: Tensor,
    positional: Rotation,
    attend: Attend,
) -> Tensor:
    """x [..., D] through one layer; `attend` is attention over the KV cache of the layer."""
    added = attention(ops, arch, w, x, positional, attend)
    x += norm(ops, arch, added, w["attention_out_norm"])
    return x + norm(ops, arch, mlp(ops, arch, w, x), w["mlp_out_norm"])


def head(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """Hidden states [..., D] to logits [..., V]."""
    return ops.softcap(llama.head(ops, arch, top, x), arch.logit_cap)


DIALECTS = llama.hugging_face(
    {
        "attention_out_norm": ("post_attention_layernorm.weight",),
        "mlp_norm": ("pre_feedforward_layernorm.weight",),
        "mlp_out_norm": ("post_feedforward_layernorm.weight",),
    }
)
