"""Gemma 2 (Gemma Team 2024): Gemma with norms also after attention and MLP. The caps of scores and
logits, and the window of some layers, are numbers in Arch.
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
    """Names and shapes of the weights of layer `index`; matrices are [out, in]."""
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
    """The residual stream x [..., D] after one layer; `attend` attends over its KV cache."""
    attention_out = attention(ops, arch, w, x, positional, attend)
    x += norm(ops, arch, attention_out, w["attention_out_norm"])
    return x + norm(ops, arch, mlp(ops, arch, w, x), w["mlp_out_norm"])


def head(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits [..., V] of hidden states [..., D]."""
    return ops.softcap(llama.head(ops, arch, top, x), arch.logit_cap)


DIALECTS = llama.hugging_face(
    {
        "attention_out_norm": ("post_attention_layernorm.weight",),
        "mlp_norm": ("pre_feedforward_layernorm.weight",),
        "mlp_out_norm": ("post_feedforward_layernorm.weight",),
    }
)
