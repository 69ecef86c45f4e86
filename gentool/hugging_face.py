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
    "gelu": "gelu_erf",
}

Config = Mapping[str, Any]


class Unsupported(Exception):
    """A setting this program does not compute."""


def _gpt2(c: Config) -> dict[str, Any]:
    for key, value in {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
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
    """LLaMA, and all that keep to its names in config.json."""
    for key in ("attention_bias", "mlp_bias"):
        if c.get(key):
            raise Unsupported(f"{key} {c[key]}")
    found = _like_llama(c, "silu")
    if not c.get("use_sliding_window"):
        return found
    narrow = range(c["max_window_layers"], c["num_hidden_layers"])
    return found | _windows(c, [i in narrow for i in range(c["num_hidden_layers"])])


def _gemma(c: Config) -> dict[str, Any]:
    # hidden_act says "gelu" in old files that were trained with the tanh form
    return _like_llama({"tie_word_embeddings": True, **c}, c.get("hidden_activation") or "gelu")


def _gemma2(c: Config) -> dict[str, Any]:
    every_other = [i % 2 == 0 for i in range(c["num_hidden_layers"])]
    return _gemma(c) | {
        **_windows(c, every_other),
        "query_scale": float(c["query_pre_attn_scalar"]),
        "score_cap": c.get("attn_logit_softcapping"),
        "logit_cap": c.get("final_logit_softcapping"),
    }


def _windows(c: Config, narrow: list[bool]) -> dict[str, Any]:
    """The layers that see a window: those config.json lists, else those of the family's rule."""
    if kinds := c.get("layer_types"):
        narrow = [kind == "sliding_attention" for kind in kinds]
    layers = [index for index, is_narrow in enumerate(narrow) if is_narrow]
    return {"window": c["sliding_window"], "window_layers": layers}


def _like_llama(c: Config, activation: str) -> dict[str, Any]:
    if activation not in ("silu", "gelu", "gelu_pytorch_tanh"):
        raise Unsupported(f"hidden_activation {activation}")
    if activation == "silu" and c.get("hidden_act", "silu") != "silu":
        raise Unsupported(f"hidden_act {c['hidden_act']}")
    if c.get("partial_rotary_factor", 1.0) != 1.0:
        raise Unsupported(f"partial_rotary_factor {c['partial_rotary_factor']}")
    rope = c.get("rope_parameters") or c  # transformers 5, or 4
    context = c["max_position_embeddings"]
    scaling = _rope_scaling(c.get("rope_parameters") or c.get("rope_scaling") or {}, context)
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
        "rope_theta": float(rope.get("rope_theta", 10000.0)),
        "rope_scaling": scaling,
        "tied_head": c.get("tie_word_embeddings", False),
    }


def _rope_scaling(c: Config, context: int) -> dict[str, Any] | None:
    kind = c.get("rope_type", c.get("type", "default"))
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
            "original_n_ctx": c["original_max_position_embeddings"],
        }
    if kind == "yarn":
        return _yarn(c, context)
    raise Unsupported(f"rope_type {kind}")


def _yarn(c: Config, context: int) -> dict[str, Any]:
    original = c.get("original_max_position_embeddings") or context
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
    "qwen2": _llama,
    "qwen3": _llama,
    "gemma": _gemma,
    "gemma2": _gemma2,
}
