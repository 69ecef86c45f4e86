"""LLaMA (Touvron et al. 2023): RMS norm before attention and MLP, rotary positions, SwiGLU, grouped
key/value heads, no biases. The same file serves every model of that shape; numbers come from Arch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import tensorflow as tf

from gentool.config.model import Arch
from gentool.models.names import Dialect, take
from gentool.runtimes.xla.ops import Ops, Tensor, frequencies


def top_tensors(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights outside the layers."""
    shapes = {"embedding": (arch.n_vocab, arch.d_model), "final_norm": (arch.d_model,)}
    return shapes if arch.tied_head else shapes | {"head": (arch.n_vocab, arch.d_model)}


def layer_tensors(arch: Arch, index: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of layer `index`; products are stored [out, in]."""
    heads, kv = arch.n_head * arch.d_head, arch.n_kv_head * arch.d_head
    return {
        "attention_norm": (arch.d_model,),
        "qkv": (heads + 2 * kv, arch.d_model),
        "attention_out": (arch.d_model, heads),
        "mlp_norm": (arch.d_model,),
        "gate_up": (2 * arch.d_ff, arch.d_model),
        "down": (arch.d_model, arch.d_ff),
    }


def embed(arch: Arch, top: dict[str, Tensor], ids: Tensor, positions: Tensor) -> Tensor:
    """ids [N, T] to x [N, T, D]; positions enter with the rotation, not here."""
    return tf.gather(top["embedding"], ids)


def qkv(
    ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, T, D] to q [N, T, H, E] and k, v [N, T, G, E], rotated by positions [N, T]."""
    normed = ops.rms_norm(x, w["attention_norm"], arch.norm_eps)
    q, k, v = heads(arch, ops.linear(normed, w["qkv"]))
    return *rotated(ops, arch, q, k, positions), v


def heads(arch: Arch, joint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """joint [N, T, (H+2G)*E] cut into q [N, T, H, E] and k, v [N, T, G, E]."""
    apart = tf.reshape(joint, [tf.shape(joint)[0], tf.shape(joint)[1], -1, arch.d_head])
    q, k, v = tf.split(apart, [arch.n_head, arch.n_kv_head, arch.n_kv_head], axis=2)
    return q, k, v


def rotated(ops: Ops, arch: Arch, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """q [N, T, H, E] and k [N, T, G, E] turned by positions [N, T]."""
    frequency = frequencies(arch)
    length = arch.rope_scaling.attention_factor if arch.rope_scaling else 1.0
    return ops.rope(q, positions, frequency, length), ops.rope(k, positions, frequency, length)


def merge(ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor, context: Tensor) -> Tensor:
    """Adds what attention gave, context [N, T, H*E], and the MLP to the stream x [N, T, D]."""
    x += ops.linear(context, w["attention_out"])
    hidden = ops.linear(ops.rms_norm(x, w["mlp_norm"], arch.norm_eps), w["gate_up"])
    return x + ops.linear(ops.swiglu(hidden), w["down"])  # [N, T, D]


def final(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """The stream x [..., D] after the last layer to the hidden states that `head` takes."""
    return ops.rms_norm(x, top["final_norm"], arch.norm_eps)


def head(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """x [..., D] to logits [..., V] in x's type; the caller casts them to float32."""
    return ops.linear(x, top["embedding" if arch.tied_head else "head"])


def hugging_face(also: Mapping[str, tuple[str, ...]] = MappingProxyType({})) -> dict[str, Dialect]:
    """Hugging Face's names; a model saved without its head has them without prefix. `also` are
    more weights of a layer, or others under our names. A stored head that is tied is the embedding
    again, inv_freq a constant."""
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
                "embedding": take(f"{prefix}embed_tokens.weight"),
                "final_norm": take(f"{prefix}norm.weight"),
                "head": take("lm_head.weight"),
            },
            {
                ours: take(*(f"{prefix}layers.{{i}}.{name}" for name in theirs))
                for ours, theirs in {**parts, **also}.items()
            },
            ignored=r"rotary_emb\.inv_freq$|^lm_head\.weight$",
        )
        for title, prefix in (("hugging face", "model."), ("hugging face, no prefix", ""))
    }


DIALECTS = hugging_face()
