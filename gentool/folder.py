"""What a checkpoint folder says about itself, as the keys of a model's YAML: Hugging Face's
config.json in the forms of transformers 4 and 5, and the shapes in the checkpoints of Megatron and
TensorFlow. Numbers are read, never guessed; what is not supported is refused by name.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gentool.errors import ModelError, nearest

CONFIG = "config.json"
# a folder with one of these describes itself; the last is TensorFlow's
SELF = (CONFIG, "latest_checkpointed_iteration.txt", "variables", "*.index")

# the first of these that is there holds the weights
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

# the first of these that is there is the tokenizer
TOKENIZERS = {
    "tokenizer.json": "huggingface",
    "tokenizer.model": "sentencepiece",
    "chinese_vocab.model": "cpm",
    "spiece.model": "cpm",  # what Hugging Face calls it
    "vocab.model": "cpm",  # PanGu-alpha's
    "vocab.txt": "wordpiece",
    "clue-vocab.txt": "wordpiece",  # these two in the repository of GPT2_ML
    "bert-base-chinese-vocab.txt": "wordpiece",
    "vocab.json": "huggingface",
}
# tokenizer_class -> the files that hold what its models were trained with; tokenizer.json does not
ONLY = {
    "CpmTokenizer": ("chinese_vocab.model", "spiece.model"),
    "BertTokenizer": ("vocab.txt",),
}
BEGIN_WITH_BOS = ("llama", "gemma")  # whose SentencePiece files do not say so


class Shapes(NamedTuple):
    """A checkpoint that says its shapes and no more: where to read them."""

    family: str
    activation: str
    position: str  # tensor [P, D]
    up_bias: str  # tensor [F] of layer {}


# by the name of the embedding [V, D]
BY_EMBEDDING = {
    "word_embeddings.weight": Shapes(
        "gpt2",
        "gelu_tanh",
        "position_embeddings.weight",
        "transformer.layers.{}.mlp.dense_h_to_4h.bias",
    ),
    "gpt/embeddings/word_embeddings": Shapes(  # bert4keras' copy of CPM
        "gpt2",
        "gelu_tanh",
        "gpt/embeddings/position_embeddings",
        "gpt/transformer/layer_{}/intermediate/dense/bias",
    ),
    "gpt/embedding/embeddings": Shapes(  # CPM-LM-TF2, which computed with the other gelu; and pangu
        "gpt2", "gelu_erf", "position_embeddings", "gpt/layer{:02}/intermediate/bias"
    ),
    "newslm/embeddings/word_embed": Shapes(
        "gpt2_ml", "gelu_erf", "newslm/embeddings/pos_embed", "newslm/layer{:02}/intermediate/bias"
    ),
}

# (n_layer, d_model) -> n_head of the models that were published; no shape says it
HEADS = {(40, 5120): 40, (32, 2560): 32, (48, 1536): 24, (24, 1024): 16, (12, 768): 12}

GELUS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu_erf",
}

Config = Mapping[str, Any]


def describes_itself(folder: Path) -> Path | None:
    """The file by which it does, if it does."""
    return next((path for name in SELF for path in sorted(folder.glob(name))), None)


def is_such(path: Path) -> bool:
    """Whether a path is of a file that `describes_itself` finds."""
    return any(path.match(name) for name in SELF)


def describe(folder: Path) -> dict[str, Any]:
    """The YAML keys that follow from the files in `folder`."""
    config = _json(folder / CONFIG)
    found = _hugging_face(folder, config) if "model_type" in config else _shapes(folder, config)
    said = _json(folder / "tokenizer_config.json")
    kind = said.get("tokenizer_class") or config.get("tokenizer_class")
    for name in ONLY.get(str(kind).removesuffix("Fast"), TOKENIZERS):
        if (folder / name).is_file():
            found["tokenizer"] = _tokenizer(folder, name, found["family"], config)
            break
    return {"name": folder.resolve().name, **found}


def _tokenizer(folder: Path, name: str, family: str, config: Config) -> dict[str, Any]:
    """The tokenizer in file `name`; the ids that end a text are those of generation_config.json,
    else of config.json, else the tokenizer's own."""
    found: dict[str, Any] = {"kind": TOKENIZERS[name], "model": name}
    if found["kind"] == "sentencepiece" and family in BEGIN_WITH_BOS:
        found["add_bos"] = True
    if found["kind"] == "wordpiece" and "model_type" in config:
        lower = _json(folder / "tokenizer_config.json").get("do_lower_case", True)
        return found | {"special_tokens": True, "lower_case": lower}  # ends with [SEP]
    if found["kind"] == "cpm":  # config.json of CPM in this form names a token it never says
        return found
    for source in (_json(folder / "generation_config.json"), config):
        end = source.get("eos_token_id")
        end = end if isinstance(end, list) else [end]
        # GPT-2's 50256 stands in files of smaller vocabularies, because it is the default
        known = [i for i in end if isinstance(i, int) and i < config.get("vocab_size", i + 1)]
        if known:
            return found | {"end": known}
    return found


def _json(path: Path) -> Config:
    """What a JSON file says, if there is one."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", "restore the file") from None
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{path} is not JSON: {e}", "restore the file from its source") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no mapping", "restore the file from its source")
    return config


def _shapes(folder: Path, config: Config) -> dict[str, Any]:
    """Megatron's and TensorFlow's checkpoints. Only the heads may be in config.json, in one of its
    dialects."""
    from gentool.checkpoints import open_checkpoint

    place = "variables" if (folder / "variables").is_dir() else "."
    shapes = open_checkpoint(folder / place).shapes
    embedding = next((name for name in BY_EMBEDDING if name in shapes), "")
    if not embedding:
        raise ModelError(f"{folder} has no embedding of a known model", "write a YAML file for it")
    known = BY_EMBEDDING[embedding]
    family = "pangu" if "top_query" in shapes else known.family
    layers = sum(
        1
        for _ in itertools.takewhile(
            shapes.__contains__, map(known.up_bias.format, itertools.count())
        )
    )
    try:
        vocabulary, width = shapes[embedding]
        arch = {
            "n_layer": layers,
            "d_model": width,
            "d_ff": shapes[known.up_bias.format(0)][0],
            "n_vocab": vocabulary,
            "n_ctx": shapes[known.position][0],
            "n_position": shapes[known.position][0],
            "activation": known.activation,
        }
    except (KeyError, ValueError, IndexError):
        raise ModelError(f"{folder} lacks tensors of {family}", "restore its files") from None
    heads = config.get("num_attention_heads", config.get("n_head", HEADS.get((layers, width))))
    arch |= {"n_head": heads} if heads else {}
    return {"family": family, "checkpoint": place, "arch": arch}


def _hugging_face(folder: Path, config: Config) -> dict[str, Any]:
    path = folder / CONFIG
    kind = config["model_type"]
    if kind not in FAMILIES:
        raise ModelError(
            f"{path}: model_type {kind!r} is not supported",
            nearest(str(kind), FAMILIES, "supported"),
        )
    try:
        arch = FAMILIES[kind](config)
    except KeyError as missing:
        what = missing.args[0]
        raise ModelError(f"{path}: {what} is missing", "add it, or restore the file") from None
    except (TypeError, ValueError, AttributeError) as e:
        raise ModelError(f"{path}: {e}", "restore the file from its source") from None
    except _Unsupported as what:
        raise ModelError(f"{path}: {what} is not supported", "use another checkpoint") from None
    weights = [name for name in WEIGHTS if (folder / name).is_file()]
    if not weights:
        raise ModelError(f"{folder} has no weights", f"it needs one of {', '.join(WEIGHTS)}")
    return {"family": kind, "checkpoint": weights[0], "arch": arch}


class _Unsupported(Exception):
    """A setting this program does not compute."""


def _gpt2(c: Config) -> dict[str, Any]:
    for key, value in {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    }.items():
        if c.get(key, value) != value:
            raise _Unsupported(f"{key} {c[key]}")
    activation = c.get("activation_function", "gelu_new")
    if activation not in GELUS:
        raise _Unsupported(f"activation_function {activation}")
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
            raise _Unsupported(f"{key} {c[key]}")
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
        raise _Unsupported(f"hidden_activation {activation}")
    if activation == "silu" and c.get("hidden_act", "silu") != "silu":
        raise _Unsupported(f"hidden_act {c['hidden_act']}")
    if c.get("partial_rotary_factor", 1.0) != 1.0:
        raise _Unsupported(f"partial_rotary_factor {c['partial_rotary_factor']}")
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
    raise _Unsupported(f"rope_type {kind}")


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
