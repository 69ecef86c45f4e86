"""GPT-2 (Radford et al. 2019) and CPM-LM: layer norm before attention and MLP, learned positions,
biases everywhere, a tied head. arch.activation names the gelu: tanh and erf differ by 1e-3 in the
logits.
"""

from __future__ import annotations

from gentool.config.model import Arch
from gentool.models.names import Dialect, TensorRef, as_stored, transposed
from gentool.models.positions import learned
from gentool.runtimes.ops import Attend, Ops, Tensor


def top_tensors(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights outside the layers."""
    return {
        "embedding": (arch.n_vocab, arch.d_model),
        "position": (arch.n_position, arch.d_model),
        "final_norm": (arch.d_model,),
        "final_norm_bias": (arch.d_model,),
    }


def layer_tensors(arch: Arch, index: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of layer `index`; matrices are [out, in]."""
    d, f = arch.d_model, arch.d_ff
    shapes: dict[str, tuple[int, ...]] = {
        "attention_norm": (d,),
        "qkv": (3 * d, d),
        "attention_out": (d, d),
        "mlp_norm": (d,),
        "up": (f, d),
        "down": (d, f),
    }
    return shapes | {f"{name}_bias": (shape[0],) for name, shape in shapes.items()}


def positional(ops: Ops, arch: Arch, top: dict[str, Tensor], positions: Tensor) -> Tensor:
    """The rows [..., D] of the position table at positions [...]."""
    return learned(ops, arch, top["position"], positions)


def embed(ops: Ops, arch: Arch, top: dict[str, Tensor], ids: Tensor, positional: Tensor) -> Tensor:
    """The residual stream x [..., D] of ids [...]."""
    return ops.gather(top["embedding"], ids) + positional


def layer(
    ops: Ops,
    arch: Arch,
    w: dict[str, Tensor],
    x: Tensor,
    positional: Tensor,
    attend: Attend,
) -> Tensor:
    """The residual stream x [..., D] after one layer; `attend` attends over its KV cache."""
    normed = ops.layer_norm(x, w["attention_norm"], w["attention_norm_bias"], arch.norm_eps)
    q, k, v = queries_keys_values(ops, arch, ops.linear(normed, w["qkv"], w["qkv_bias"]))
    x += ops.linear(attend(q, k, v), w["attention_out"], w["attention_out_bias"])
    return x + mlp(ops, arch, w, x)


def queries_keys_values(ops: Ops, arch: Arch, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [..., 3D] split into q, k, v [..., H, E]."""
    q, k, v = (ops.heads(part, arch.d_head) for part in ops.split(qkv, [arch.d_model] * 3))
    return q, k, v


def mlp(ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Norm and MLP of the residual stream x [..., D]: what is added to it."""
    normed = ops.layer_norm(x, w["mlp_norm"], w["mlp_norm_bias"], arch.norm_eps)
    hidden = ops.gelu(ops.linear(normed, w["up"], w["up_bias"]), arch.activation)  # [..., F]
    return ops.linear(hidden, w["down"], w["down_bias"])


def final(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """The hidden states [..., D] that `head` takes, of the residual stream after the last layer."""
    return ops.layer_norm(x, top["final_norm"], top["final_norm_bias"], arch.norm_eps)


def head(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits [..., V] of hidden states [..., D]."""
    return ops.linear(x, top["embedding"])


def _hugging_face(prefix: str) -> Dialect:
    """Hugging Face's names. Matrices (Conv1D) are stored [in, out]; the hub's own GPT-2 has names
    without prefix. A stored lm_head equals the embedding, attn.bias is a mask."""
    h = prefix + "h.{i}."
    return Dialect(
        {
            "embedding": as_stored(f"{prefix}wte.weight"),
            "position": as_stored(f"{prefix}wpe.weight"),
            "final_norm": as_stored(f"{prefix}ln_f.weight"),
            "final_norm_bias": as_stored(f"{prefix}ln_f.bias"),
        },
        {
            "attention_norm": as_stored(f"{h}ln_1.weight"),
            "attention_norm_bias": as_stored(f"{h}ln_1.bias"),
            "qkv": transposed(f"{h}attn.c_attn.weight"),
            "qkv_bias": as_stored(f"{h}attn.c_attn.bias"),
            "attention_out": transposed(f"{h}attn.c_proj.weight"),
            "attention_out_bias": as_stored(f"{h}attn.c_proj.bias"),
            "mlp_norm": as_stored(f"{h}ln_2.weight"),
            "mlp_norm_bias": as_stored(f"{h}ln_2.bias"),
            "up": transposed(f"{h}mlp.c_fc.weight"),
            "up_bias": as_stored(f"{h}mlp.c_fc.bias"),
            "down": transposed(f"{h}mlp.c_proj.weight"),
            "down_bias": as_stored(f"{h}mlp.c_proj.bias"),
        },
        ignored=r"\.attn\.(masked_)?bias$|^lm_head\.weight$",
    )


def _weights_and_biases(
    parts: dict[str, str], layer: str, kinds: tuple[str, str], is_transposed: bool
) -> dict[str, TensorRef]:
    """Weights and biases of a layer. `parts` are our names -> names in the checkpoint, with {} for
    query, key, value; `kinds` are the last parts of the names of a weight and of its bias."""
    refs = {}
    for ours, theirs in parts.items():
        names = [layer + theirs.format(x) for x in ("query", "key", "value")]
        names = names if "{}" in theirs else names[:1]
        refs[ours] = TensorRef(tuple(f"{name}/{kinds[0]}" for name in names), is_transposed)
        refs[f"{ours}_bias"] = as_stored(*(f"{name}/{kinds[1]}" for name in names))
    return refs


def keras_layer(
    layer: str, norms: dict[str, str], matrices: dict[str, str]
) -> dict[str, TensorRef]:
    """A layer with Keras' names: gamma and beta of norms, kernel [in, out] and bias of matrices; {}
    stands for query, key and value."""
    norm_refs = _weights_and_biases(norms, layer, ("gamma", "beta"), is_transposed=False)
    return norm_refs | _weights_and_biases(matrices, layer, ("kernel", "bias"), is_transposed=True)


_MEGATRON = "transformer.layers.{i}."

DIALECTS = {
    "hugging face": _hugging_face("transformer."),
    "hugging face, no prefix": _hugging_face(""),
    "megatron": Dialect(
        {
            "embedding": as_stored("word_embeddings.weight"),
            "position": as_stored("position_embeddings.weight"),
            "final_norm": as_stored("transformer.final_layernorm.weight"),
            "final_norm_bias": as_stored("transformer.final_layernorm.bias"),
        },
        {
            ours + end: as_stored(f"{_MEGATRON}{theirs}.{kind}")
            for ours, theirs in {
                "attention_norm": "input_layernorm",
                "qkv": "attention.query_key_value",
                "attention_out": "attention.dense",
                "mlp_norm": "post_attention_layernorm",
                "up": "mlp.dense_h_to_4h",
                "down": "mlp.dense_4h_to_h",
            }.items()
            for end, kind in (("", "weight"), ("_bias", "bias"))
        },
    ),
    "bert4keras": Dialect(
        {
            "embedding": as_stored("gpt/embeddings/word_embeddings"),
            "position": as_stored("gpt/embeddings/position_embeddings"),
            "final_norm": as_stored("gpt/output/LayerNorm/gamma"),
            "final_norm_bias": as_stored("gpt/output/LayerNorm/beta"),
        },
        keras_layer(
            "gpt/transformer/layer_{i}/",
            {"attention_norm": "attention/input/LayerNorm", "mlp_norm": "input/LayerNorm"},
            {
                "qkv": "attention/self/{}",
                "attention_out": "attention/output/dense",
                "up": "intermediate/dense",
                "down": "output/dense",
            },
        ),
    ),
    "CPM-LM-TF2": Dialect(
        {
            "embedding": as_stored("gpt/embedding/embeddings"),
            "position": as_stored("position_embeddings"),
            "final_norm": as_stored("gpt/LayerNorm_final_norm/gamma"),
            "final_norm_bias": as_stored("gpt/LayerNorm_final_norm/beta"),
        },
        keras_layer(
            "gpt/layer{i:02}/",
            {"attention_norm": "LayerNorm_mlp_ln0", "mlp_norm": "LayerNorm_mlp_ln1"},
            {
                "qkv": "attention/{}_layer",
                "attention_out": "attention/context_projection_layer",
                "up": "intermediate",
                "down": "output",
            },
        ),
    ),
}
