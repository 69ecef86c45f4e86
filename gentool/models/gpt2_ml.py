"""GPT2_ML, the Grover code (Zellers et al. 2019): a norm after the embedding and after each layer,
none before attention, and the MLP's residual taken before its norm. gelu is the erf form.
"""

from __future__ import annotations

from gentool.config.model import Arch
from gentool.models import gpt2
from gentool.models.gpt2 import head, keras_layer
from gentool.models.names import Dialect, take
from gentool.runtimes.xla import ops as layers
from gentool.runtimes.xla.ops import Ops, Tensor

__all__ = ["DIALECTS", "embed", "final", "head", "layer_tensors", "merge", "qkv", "top_tensors"]


def top_tensors(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights outside the layers."""
    return {
        "embedding": (arch.n_vocab, arch.d_model),
        "position": (arch.n_position, arch.d_model),
        "embedding_norm": (arch.d_model,),
        "embedding_norm_bias": (arch.d_model,),
    }


def layer_tensors(arch: Arch, index: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of layer `index`; products are stored [out, in]."""
    shapes = gpt2.layer_tensors(arch, index)
    norms = {"output_norm": shapes["mlp_norm"], "output_norm_bias": shapes["mlp_norm"]}
    return {n: s for n, s in shapes.items() if not n.startswith("attention_norm")} | norms


def embed(arch: Arch, top: dict[str, Tensor], ids: Tensor, positions: Tensor) -> Tensor:
    """ids and positions [N, T] to x [N, T, D]; padding may stand beyond the last position."""
    x = gpt2.embed(arch, top, ids, positions)
    return layers.layer_norm(x, top["embedding_norm"], top["embedding_norm_bias"], arch.norm_eps)


def qkv(
    ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, T, D] to q, k, v [N, T, H, E]."""
    return gpt2.heads(arch, ops.linear(x, w["qkv"], w["qkv_bias"]))


def merge(ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor, context: Tensor) -> Tensor:
    """The stream x [N, T, D] with what attention gave, context [N, T, H*E], and the MLP, normed."""
    x += ops.linear(context, w["attention_out"], w["attention_out_bias"])
    normed = ops.layer_norm(x, w["mlp_norm"], w["mlp_norm_bias"], arch.norm_eps)
    hidden = ops.gelu(ops.linear(normed, w["up"], w["up_bias"]), arch.activation)  # [N, T, F]
    x += ops.linear(hidden, w["down"], w["down_bias"])
    return ops.layer_norm(x, w["output_norm"], w["output_norm_bias"], arch.norm_eps)


def final(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """The stream x [..., D] after the last layer, whose own norm is the final one."""
    return x


DIALECTS = {
    "tensorflow 1": Dialect(
        {
            "embedding": take("newslm/embeddings/word_embed"),
            "position": take("newslm/embeddings/pos_embed"),
            "embedding_norm": take("newslm/embeddings/LayerNorm_embed_norm/gamma"),
            "embedding_norm_bias": take("newslm/embeddings/LayerNorm_embed_norm/beta"),
        },
        keras_layer(
            "newslm/layer{i:02}/",
            {"mlp_norm": "LayerNorm_mlp_ln0", "output_norm": "LayerNorm_mlp_ln1"},
            {
                "qkv": "{}_layer",
                "attention_out": "context_projection_layer",
                "up": "intermediate",
                "down": "output",
            },
        ),
        ignored=r"/adafactor_v[rc]?$|^global_step$",
    ),
}
