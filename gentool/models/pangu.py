"""PanGu-alpha (Zeng et al. 2021): GPT-2 with its final norm before the last layer, whose queries
come from a second position table instead of the residual stream. There is no norm before the head.
"""

from __future__ import annotations

from gentool.config.model import Arch
from gentool.models import gpt2
from gentool.models.gpt2 import head
from gentool.models.names import Dialect, as_stored, transposed
from gentool.models.positions import learned
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
        "query_position": (arch.n_position, arch.d_model),
    }


def layer_tensors(arch: Arch, index: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of layer `index`; matrices are [out, in]. In the last
    layer queries are computed from another input, by a matrix of their own."""
    shapes = gpt2.layer_tensors(arch, index)
    if index < arch.n_layer - 1:
        return shapes
    d = arch.d_model
    return {name: shape for name, shape in shapes.items() if not name.startswith("qkv")} | {
        "residual_norm": (d,),
        "residual_norm_bias": (d,),
        "query": (d, d),
        "query_bias": (d,),
        "key_value": (2 * d, d),
        "key_value_bias": (2 * d,),
    }


def positional(
    ops: Ops, arch: Arch, top: dict[str, Tensor], positions: Tensor
) -> tuple[Tensor, Tensor]:
    """The rows [..., D] of both position tables at positions [...]."""
    tables = (top["position"], top["query_position"])
    rows, query_rows = (learned(ops, arch, table, positions) for table in tables)
    return rows, query_rows


def embed(
    ops: Ops, arch: Arch, top: dict[str, Tensor], ids: Tensor, positional: tuple[Tensor, Tensor]
) -> Tensor:
    """The residual stream x [..., D] of ids [...]."""
    return gpt2.embed(ops, arch, top, ids, positional[0])


def layer(
    ops: Ops,
    arch: Arch,
    w: dict[str, Tensor],
    x: Tensor,
    positional: tuple[Tensor, Tensor],
    attend: Attend,
) -> Tensor:
    """The residual stream x [..., D] after one layer. The last layer normalises the residual stream
    itself; its queries are computed from rows of the second table, without a norm."""
    if "query" not in w:
        return gpt2.layer(ops, arch, w, x, positional[0], attend)
    x = ops.layer_norm(x, w["residual_norm"], w["residual_norm_bias"], arch.norm_eps)
    normed = ops.layer_norm(x, w["attention_norm"], w["attention_norm_bias"], arch.norm_eps)
    q = ops.linear(positional[1], w["query"], w["query_bias"])
    k, v = ops.split(ops.linear(normed, w["key_value"], w["key_value_bias"]), [arch.d_model] * 2)
    context = attend(*(ops.heads(part, arch.d_head) for part in (q, k, v)))
    x += ops.linear(context, w["attention_out"], w["attention_out_bias"])
    return x + gpt2.mlp(ops, arch, w, x)


def final(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """The residual stream x [..., D] after the last layer, unchanged."""
    return x


_GPT2 = gpt2.DIALECTS["CPM-LM-TF2"]
_ATTENTION = "gpt/layer{i:02}/attention/"

DIALECTS = {
    "PanGu-alpha-tf": Dialect(
        {**_GPT2.top, "query_position": as_stored("top_query")},
        {
            **_GPT2.layer,
            "residual_norm": _GPT2.top["final_norm"],
            "residual_norm_bias": _GPT2.top["final_norm_bias"],
            "query": transposed(f"{_ATTENTION}query_layer/kernel"),
            "query_bias": as_stored(f"{_ATTENTION}query_layer/bias"),
            "key_value": transposed(*(f"{_ATTENTION}{x}_layer/kernel" for x in ("key", "value"))),
            "key_value_bias": as_stored(*(f"{_ATTENTION}{x}_layer/bias" for x in ("key", "value"))),
        },
    ),
}
