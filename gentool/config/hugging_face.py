"""The numbers of a Hugging Face config.json, in the forms of transformers 4 and 5, as the keys of
our `arch`. What is not computed here is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

GELUS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
}

# what a config.json means that leaves these keys out, where it is not the same for all
LEFT_OUT: Mapping[str, Mapping[str, Any]] = {
    "qwen2": {"num_key_value_heads": 32, "max_window_layers": 28, "sliding_window": 4096},
    "qwen3": {
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_window_layers": 28,
        "sliding_window": 4096,
    },
    "gemma": {"num_key_value_heads": 16, "head_dim": 256, "tie_word_embeddings": True},
    "gemma2": {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
}

Config = Mapping[str, Any]

MAX_LAYERS = 1000


class Unsupported(Exception):
    """A setting this program does not compute."""


def _gpt2(c: Config) -> dict[str, Any]:
    for key, value in {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
        "add_cross_attention": False,
    }.items():
        if c.get(key, value) != value:
            raise Unsupported(f"{key} {c[key]}")
    activation = c.get("activation_function", "gelu_new")
    if activation not in GELUS:
        raise Unsupported(f"activation_function {activation}")
    return {
        "n_layer": c["n_layer"],
        "n_head": c["n_head"],
        "d_model": c["n_embd"],
        "d_ff": c.get("n_inner") or 4 * c["n_embd"],
        "n_vocab": c["vocab_size"],
        "n_ctx": c["n_positions"],
        "n_position": c["n_positions"],
        "norm_eps": c.get("layer_norm_epsilon", 1e-5),
        "activation": GELUS[activation],
    }


def _llama(c: Config) -> dict[str, Any]:
    _refuse(c, "attention_bias", "mlp_bias")
    _silu(c)
    return _like_llama(c)


def _qwen2(c: Config) -> dict[str, Any]:
    _silu(c)
    found = _like_llama(c)
    if not c.get("use_sliding_window"):
        return found
    every = range(_layers(c))
    return found | _windows(c, [i >= c["max_window_layers"] for i in every])


def _qwen3(c: Config) -> dict[str, Any]:
    _refuse(c, "attention_bias")
    return _qwen2(c)


def _gemma(c: Config) -> dict[str, Any]:
    _refuse(c, "attention_bias", "use_bidirectional_attention")
    # hidden_act says "gelu" in Gemma's old files, which were trained with the tanh form
    old = "gelu" if c["model_type"] == "gemma" else None
    for key, also in (("hidden_activation", None), ("hidden_act", old)):
        kind = c.get(key) or "gelu_pytorch_tanh"
        if GELUS.get(kind) != "gelu_tanh" and kind != also:
            raise Unsupported(f"{key} {kind}")
    return _like_llama(c)


def _gemma2(c: Config) -> dict[str, Any]:
    every_other = [i % 2 == 0 for i in range(_layers(c))]
    return _gemma(c) | {
        **_windows(c, every_other),
        "query_scale": float(c["query_pre_attn_scalar"]),
        "score_cap": c["attn_logit_softcapping"],
        "logit_cap": c["final_logit_softcapping"],
    }


def _layers(c: Config) -> int:
    """The number of layers, checked before a list is as long as that."""
    count = c["num_hidden_layers"]
    if type(count) is not int or not 0 < count <= MAX_LAYERS:
        raise Unsupported(f"num_hidden_layers {str(count)[:40]}")
    return count


def _silu(c: Config) -> None:
    if c.get("hidden_act", "silu") not in ("silu", "swish"):
        raise Unsupported(f"hidden_act {c['hidden_act']}")


def _refuse(c: Config, *keys: str) -> None:
    for key in keys:
        if c.get(key):
            raise Unsupported(f"{key} {c[key]}")


def _windows(c: Config, narrow: list[bool]) -> dict[str, Any]:
    """The layers that see a window: those config.json lists, else those of the family's rule."""
    if kinds := c.get("layer_types"):
        if not isinstance(kinds, list) or len(kinds) != len(narrow):
            raise Unsupported(f"layer_types that is not a list of {len(narrow)}")
        narrow = [kind == "sliding_attention" for kind in kinds]
    layers = [index for index, is_narrow in enumerate(narrow) if is_narrow]
    return {"window": c["sliding_window"], "window_layers": layers}


def _like_llama(c: Config) -> dict[str, Any]:
    """All that keep to LLaMA's names in config.json."""
    rope = c.get("rope_scaling") or c.get("rope_parameters") or {}  # the latter of transformers 5
    for source in (c, rope):
        if source.get("partial_rotary_factor", 1.0) != 1.0:
            raise Unsupported(f"partial_rotary_factor {source['partial_rotary_factor']}")
    theta = rope.get("rope_theta") or c.get("rope_theta") or 10000.0
    context = c["max_position_embeddings"]
    scaling = _rope_scaling(rope, context)
    if scaling and scaling["kind"] == "yarn":  # Qwen's files leave the context as it was before
        context = max(context, int(scaling["factor"] * scaling["original_n_ctx"]))
    heads = c["num_attention_heads"]
    return {
        "n_layer": c["num_hidden_layers"],
        "n_head": heads,
        "n_kv_head": c.get("num_key_value_heads") or heads,
        "d_model": c["hidden_size"],
        "d_head": c.get("head_dim") or c["hidden_size"] // heads,
        "d_ff": c["intermediate_size"],
        "n_vocab": c["vocab_size"],
        "n_ctx": context,
        "norm_eps": c.get("rms_norm_eps", 1e-6),
        "rope_theta": float(theta),
        "rope_scaling": scaling,
        "tied_head": c.get("tie_word_embeddings") or False,  # null is false, as in transformers
    }


def _rope_scaling(c: Config, context: int) -> dict[str, Any] | None:
    kind = c.get("type", c.get("rope_type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return {"kind": kind, "factor": float(c["factor"])}
    if kind == "dynamic":  # changes nothing within max_position_embeddings, and we stay there
        return None
    if kind == "llama3":
        return {
            "kind": kind,
            "factor": float(c["factor"]),
            "low_frequency": float(c["low_freq_factor"]),
            "high_frequency": float(c["high_freq_factor"]),
            "original_n_ctx": int(c["original_max_position_embeddings"]),
        }
    if kind == "yarn":
        return _yarn(c, context)
    raise Unsupported(f"rope_type {kind}")


def _yarn(c: Config, context: int) -> dict[str, Any]:
    original = int(c.get("original_max_position_embeddings") or context)
    factor = float(c["factor"])
    scales = [c.get("mscale"), c.get("mscale_all_dim")]
    lengths = [0.1 * (scale or 1.0) * math.log(max(factor, 1.0)) + 1.0 for scale in scales]
    length = lengths[0] / lengths[1] if all(scales) else 0.1 * math.log(max(factor, 1.0)) + 1.0
    return {
        "kind": "yarn",
        "factor": factor,
        "low_frequency": float(c.get("beta_slow") or 1.0),
        "high_frequency": float(c.get("beta_fast") or 32.0),
        "original_n_ctx": original,
        "attention_factor": float(c.get("attention_factor") or length),
        "whole_pairs": c.get("truncate", True),
    }


FAMILIES: dict[str, Callable[[Config], dict[str, Any]]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma": _gemma,
    "gemma2": _gemma2,
}
