"""LLaMA (Touvron et al. 2023): RMS norm before attention and MLP, rotary positions, SwiGLU, grouped
key/value heads, no biases. Used for every model of this form; numbers come from Arch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from gentool.config.model import Arch
from gentool.models.names import Dialect, as_stored
from gentool.models.positions import Rotation, rotary
from gentool.runtimes.ops import Attend, Ops, Tensor


def top_tensors(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights outside the layers."""
    shapes = {"embedding": (arch.n_vocab, arch.d_model), "final_norm": (arch.d_model,)}
    return shapes if arch.tied_head else shapes | {"head": (arch.n_vocab, arch.d_model)}


def layer_tensors(arch: Arch, index: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of layer `index`; matrices are [out, in]."""
    heads, kv = arch.n_head * arch.d_head, arch.n_kv_head * arch.d_head
    return {
        "attention_norm": (arch.d_model,),
        "qkv": (heads + 2 * kv, arch.d_model),
        "attention_out": (arch.d_model, heads),
        "mlp_norm": (arch.d_model,),
        "gate_up": (2 * arch.d_ff, arch.d_model),
        "down": (arch.d_model, arch.d_ff),
    }


def positional(ops: Ops, arch: Arch, top: dict[str, Tensor], positions: Tensor) -> Rotation:
    """The cosines and sines of the rotation at positions [...], for all layers."""
    return rotary(ops, arch, positions)


def embed(
    ops: Ops, arch: Arch, top: dict[str, Tensor], ids: Tensor, positional: Rotation
) -> Tensor:
    """The residual stream x [..., D] of ids [...]; positions enter with the rotation, not here."""
    return ops.gather(top["embedding"], ids)


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
    context = attend(ops.rope(q, positional), ops.rope(k, positional), v)
    x += ops.linear(context, w["attention_out"])
    return x + mlp(ops, arch, w, x)


def queries_keys_values(ops: Ops, arch: Arch, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [..., (H+2G)*E] split into q [..., H, E] and k, v [..., G, E]."""
    sizes = [n * arch.d_head for n in (arch.n_head, arch.n_kv_head, arch.n_kv_head)]
    q, k, v = (ops.heads(part, arch.d_head) for part in ops.split(qkv, sizes))
    return q, k, v


def mlp(ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Norm and MLP of the residual stream x [..., D]: what is added to it."""
    hidden = ops.linear(ops.rms_norm(x, w["mlp_norm"], arch.norm_eps), w["gate_up"])  # [..., 2F]
    return ops.linear(ops.swiglu(hidden), w["down"])


def final(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """The hidden states [..., D] that `head` takes, of the residual stream after the last layer."""
    return ops.rms_norm(x, top["final_norm"], arch.norm_eps)


def head(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits [..., V] of hidden states [..., D]."""
    return ops.linear(x, top["embedding" if arch.tied_head else "head"])


def hugging_face(
    overrides: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> dict[str, Dialect]:
    """Hugging Face's names; a model saved without its head has names without prefix. `overrides`
    are further weights of a layer, or other names of the weights here. A stored lm_head of a tied
    model equals the embedding, inv_freq is a constant."""
    parts = {
        "attention_norm": ("input_layernorm.weight",),
        "qkv": tuple(f"self_attn.{part}_proj.weight" for part in "qkv"),
        "attention_out": ("self_attn.o_proj.weight",),
        "mlp_norm": ("post_attention_layernorm.weight",),
        "gate_up": tuple(f"mlp.{part}_proj.weight" for part in ("gate", "up")),
        "down": ("mlp.down_proj.weight",),
    }
    return {
        title: Dialect(
            {
                "embedding": as_stored(f"{prefix}embed_tokens.weight"),
                "final_norm": as_stored(f"{prefix}norm.weight"),
                "head": as_stored("lm_head.weight"),
            },
            {
                ours: as_stored(*(f"{prefix}layers.{{i}}.{name}" for name in theirs))
                for ours, theirs in {**parts, **overrides}.items()
            },
            ignored=r"rotary_emb\.inv_freq$|^lm_head\.weight$",
        )
        for title, prefix in (("hugging face", "model."), ("hugging face, no prefix", ""))
    }


DIALECTS = hugging_face()
