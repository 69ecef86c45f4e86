"""PanGu-alpha (Zeng et al. 2021): GPT-2, whose final norm stands before the last layer, and there
queries come from a second position table instead of the stream. The head has no norm.
"""

from __future__ import annotations

import tensorflow as tf

from gentool.config.model import Arch
from gentool.models import gpt2
from gentool.models.gpt2 import embed, head
from gentool.models.names import Dialect, take, turned
from gentool.runtimes.xla.ops import Ops, Tensor

__all__ = ["DIALECTS", "embed", "final", "head", "layer_tensors", "merge", "qkv", "top_tensors"]


def top_tensors(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights outside the layers."""
    return {
        "embedding": (arch.n_vocab, arch.d_model),
        "position": (arch.n_position, arch.d_model),
    }


def layer_tensors(arch: Arch, index: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of layer `index`; products are stored [out, in]. In the last
    layer queries and the stream are different inputs, of two products."""
    shapes = gpt2.layer_tensors(arch, index)
    if index < arch.n_layer - 1:
        return shapes
    d = arch.d_model
    return {name: shape for name, shape in shapes.items() if not name.startswith("qkv")} | {
        "stream_norm": (d,),
        "stream_norm_bias": (d,),
        "top_query": (arch.n_position, d),
        "query": (d, d),
        "query_bias": (d,),
        "key_value": (2 * d, d),
        "key_value_bias": (2 * d,),
    }


def qkv(
    ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, T, D] to q, k, v [N, T, H, E]; the rows of the last layer's table are not normed."""
    if "top_query" not in w:
        return gpt2.qkv(ops, arch, w, x, positions)
    normed = ops.layer_norm(
        stream(ops, arch, w, x), w["attention_norm"], w["attention_norm_bias"], arch.norm_eps
    )
    asked = tf.cast(gpt2.learned(arch, w["top_query"], positions), x.dtype)  # [N, T, D]
    q = ops.linear(asked, w["query"], w["query_bias"])
    kv = ops.linear(normed, w["key_value"], w["key_value_bias"])  # [N, T, 2D]
    return gpt2.heads(arch, tf.concat([q, kv], axis=-1))


def merge(ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor, context: Tensor) -> Tensor:
    """Adds what attention gave, context [N, T, H*E], and the MLP to the stream x [N, T, D]."""
    return gpt2.merge(ops, arch, w, stream(ops, arch, w, x), context)


def stream(ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """x [N, T, D] as a layer takes it: the last one takes it normed, and adds to that."""
    if "top_query" not in w:
        return x
    return ops.layer_norm(x, w["stream_norm"], w["stream_norm_bias"], arch.norm_eps)


def final(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """The stream x [..., D] after the last layer, as it is."""
    return x


_THEIRS = gpt2.DIALECTS["CPM-LM-TF2"]
_ATTENTION = "gpt/layer{i:02}/attention/"

DIALECTS = {
    "PanGu-alpha-tf": Dialect(
        _THEIRS.top,
        {
            **_THEIRS.layer,
            "stream_norm": _THEIRS.top["final_norm"],
            "stream_norm_bias": _THEIRS.top["final_norm_bias"],
            "top_query": take("top_query"),
            "query": turned(f"{_ATTENTION}query_layer/kernel"),
            "query_bias": take(f"{_ATTENTION}query_layer/bias"),
            "key_value": turned(*(f"{_ATTENTION}{x}_layer/kernel" for x in ("key", "value"))),
            "key_value_bias": take(*(f"{_ATTENTION}{x}_layer/bias" for x in ("key", "value"))),
        },
    ),
}
