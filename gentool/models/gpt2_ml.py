"""GPT2_ML, from the Grover code (Zellers et al. 2019): a norm after the embedding and after each
layer, none before attention, and the MLP's residual before its norm. gelu is the erf form.
"""

from __future__ import annotations

from gentool.config.model import Arch
from gentool.models import gpt2
from gentool.models.gpt2 import head, keras_layer, mlp, positional, queries_keys_values
from gentool.models.names import Dialect, as_stored
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


def top_tensors(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights outside the layers."""
    return {
        "embedding": (arch.n_vocab, arch.d_model),
        "position": (arch.n_position, arch.d_model),
        "embedding_norm": (arch.d_model,),
        "embedding_norm_bias": (arch.d_model,),
    }


def layer_tensors(arch: Arch, index: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of layer `index`; matrices are [out, in]."""
    shapes = gpt2.layer_tensors(arch, index)
    norms = {"output_norm": shapes["mlp_norm"], "output_norm_bias": shapes["mlp_norm"]}
    return {n: s for n, s in shapes.items() if not n.startswith("attention_norm")} | norms


def embed(ops: Ops, arch: Arch, top: dict[str, Tensor], ids: Tensor, positional: Tensor) -> Tensor:
    """The residual stream x [..., D] of ids [...]."""
    x = gpt2.embed(ops, arch, top, ids, positional)
    return ops.layer_norm(x, top["embedding_norm"], top["embedding_norm_bias"], arch.norm_eps)


def layer(
    ops: Ops,
    arch: Arch,
    w: dict[str, Tensor],
    x: Tensor,
    positional: Tensor,
    attend: Attend,
) -> Tensor:
    """The residual stream x [..., D] after one layer; `attend` attends over its KV cache."""
    q, k, v = queries_keys_values(ops, arch, ops.linear(x, w["qkv"], w["qkv_bias"]))
    x += ops.linear(attend(q, k, v), w["attention_out"], w["attention_out_bias"])
    x += mlp(ops, arch, w, x)
    return ops.layer_norm(x, w["output_norm"], w["output_norm_bias"], arch.norm_eps)


def final(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """The residual stream x [..., D]: the norm of the last layer is the final one."""
    return x


DIALECTS = {
    "tensorflow 1": Dialect(
        {
            "embedding": as_stored("newslm/embeddings/word_embed"),
            "position": as_stored("newslm/embeddings/pos_embed"),
            "embedding_norm": as_stored("newslm/embeddings/LayerNorm_embed_norm/gamma"),
            "embedding_norm_bias": as_stored("newslm/embeddings/LayerNorm_embed_norm/beta"),
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
