"""What a checkpoint folder says about itself, as the keys of a model's YAML: by Hugging Face's
config.json, or by the shapes in a checkpoint of Megatron or TensorFlow. Numbers are read, never
guessed.
"""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from gentool.config import generation_config
from gentool.config.hugging_face import FAMILIES, LEFT_OUT, Config, Unsupported
from gentool.errors import ModelError, nearest

CONFIG = "config.json"
ADAPTER = "adapter_config.json"  # PEFT's
logger = logging.getLogger(__name__)
MAX_BYTES = 1 << 24  # of a configuration that is read
# a folder with one of these describes itself; the last is TensorFlow's
SELF = (CONFIG, "latest_checkpointed_iteration.txt", "variables", "*.index")

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
TOKENIZER_CONFIG = "tokenizer_config.json"
CHINESE = "tokenize_chinese_chars"
FLAGS = (  # keys of tokenizer_config.json that change ids
    *("add_bos_token", "add_prefix_space", "do_basic_tokenize", "do_lower_case", "legacy"),
    *("strip_accents", CHINESE),
)
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


def describes_itself(folder: Path) -> Path | None:
    """The file by which it does, if it does."""
    return next((path for name in SELF for path in sorted(folder.glob(name))), None)


def is_description(path: Path) -> bool:
    """Whether a path is of a file that `describes_itself` finds."""
    return any(path.match(name) for name in SELF)


def check_unread(folder: Path) -> None:
    """A ModelError that says what a folder is, where it is known but not read."""
    adapter = folder / ADAPTER
    if adapter.is_file():
        base = str(read_json(adapter).get("base_model_name_or_path") or "BASE")[:200]
        raise ModelError(
            f"{folder} is an adapter (LoRA), not a model",
            f"give the model that it adapts, too: -m {base} --adapter {folder}",
        )
    if next(folder.glob("*.gguf"), None):
        raise ModelError(f"{folder} holds a GGUF file, which is not read", "get it as safetensors")


def describe(folder: Path) -> dict[str, Any]:
    """The YAML keys that follow from the files in `folder`."""
    config = read_json(folder / CONFIG)
    if config and (folder / ADAPTER).is_file():
        logger.warning("%s holds an adapter, which is not merged: give --adapter, too", folder)
    keys = _hugging_face(folder, config) if "model_type" in config else _shapes(folder, config)
    generation = folder / generation_config.NAME
    params = generation_config.sampling(read_json(generation), generation)
    keys |= {"sampling": params} if params else {}
    settings = read_json(folder / TOKENIZER_CONFIG)
    kind = settings.get("tokenizer_class") or config.get("tokenizer_class")
    for name in ONLY.get(str(kind).removesuffix("Fast"), TOKENIZERS):
        if (folder / name).is_file():
            keys["tokenizer"] = _tokenizer(folder, name, keys["family"], config)
            break
    return {"name": folder.resolve().name, **keys}


def _tokenizer(folder: Path, name: str, family: str, config: Config) -> dict[str, Any]:
    """The tokenizer in file `name`; the ids that end a text are those of generation_config.json,
    else of config.json, else the tokenizer's own."""
    keys: dict[str, Any] = {"kind": TOKENIZERS[name], "model": name}
    if "model_type" in config:
        keys |= _settings(folder, name, family, config)
    if keys["kind"] == "wordpiece" and "model_type" in config:  # ends with [SEP]
        return keys
    if keys["kind"] == "cpm":  # config.json of CPM in this form names a token it never says
        return keys
    for source in (read_json(folder / generation_config.NAME), config):
        end = source.get("eos_token_id")
        end = end if isinstance(end, list) else [end]
        # GPT-2's 50256 stands in files of smaller vocabularies, because it is the default
        size = config.get("vocab_size")
        size = size if isinstance(size, int) else MAX_BYTES
        known = [i for i in end if type(i) is int and 0 <= i < size]
        if known:
            return keys | {"end": known}
    return keys


def _settings(folder: Path, name: str, family: str, config: Config) -> dict[str, Any]:
    """What tokenizer_config.json sets, as our keys; where it leaves a key out, the default of the
    class in transformers."""
    path = folder / TOKENIZER_CONFIG
    settings = read_json(path)
    flags = {key: settings[key] for key in FLAGS if settings.get(key) is not None}
    for key, value in flags.items():
        if type(value) is not bool:
            raise ModelError(f"{path}: {key} is {value!r:.80}", "it can be true or false")
    cls = str(settings.get("tokenizer_class") or config.get("tokenizer_class") or "")
    cls = cls.removesuffix("Fast")
    prefix = {k: v for k, v in flags.items() if k == "add_prefix_space"}
    match TOKENIZERS[name]:
        case "wordpiece":
            if not flags.get("do_basic_tokenize", True) or settings.get("never_split"):
                raise ModelError(
                    f"{path}: do_basic_tokenize false and never_split are not supported",
                    "get a tokenizer.json and remove vocab.txt",
                )
            bert = {k: v for k, v in flags.items() if k in ("strip_accents", CHINESE)}
            bert |= {"special_tokens": True, "split": "transformers"}
            return bert | {"lower_case": flags.get("do_lower_case", True)}
        case "sentencepiece":
            bos = flags.get("add_bos_token", family in BEGIN_WITH_BOS)
            legacy = flags.get("legacy", True) and family == "llama"
            return prefix | {"add_bos": bos, "special_tokens": True, "legacy": legacy}
        case "huggingface" if name == "vocab.json":
            split = "qwen2" if cls == "Qwen2Tokenizer" or family in ("qwen2", "qwen3") else "gpt2"
            if cls not in ("", "GPT2Tokenizer", "Qwen2Tokenizer", "PreTrainedTokenizer"):
                raise ModelError(
                    f"{path}: tokenizer_class {cls} needs tokenizer.json",
                    "save it with a fast tokenizer of transformers",
                )
            bos = {"add_bos": True} if flags.get("add_bos_token") else {}
            return bos | ({} if split == "qwen2" else prefix) | {"split": split}
        case "huggingface":
            if cls in ("LlamaTokenizer", "GemmaTokenizer") and "add_bos_token" in flags:
                prefix |= {"add_bos": flags["add_bos_token"]}
            return prefix
    return {}


def read_json(path: Path) -> Config:
    """What a JSON file says, if there is one."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes are too many")
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
    from gentool.checkpoints import WHOLE

    path = folder / CONFIG
    kind = config["model_type"]
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise ModelError(
            f"{path}: quantised weights ({str(method)[:40]}) are not read",
            "get the model in float16, bfloat16 or float32",
        )
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ModelError(
            f"{path}: model_type {kind!r:.80} is not supported",
            nearest(str(kind), FAMILIES, "supported"),
        )
    try:
        arch = FAMILIES[kind]({**LEFT_OUT.get(kind, {}), **config})
    except KeyError as missing:
        what = missing.args[0]
        raise ModelError(f"{path}: {what} is missing", "add it, or restore the file") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as e:
        problem = f"{path} has a value of the wrong kind: {e}"
        raise ModelError(problem, "restore the file from its source") from None
    except Unsupported as what:
        raise ModelError(f"{path}: {what} is not supported", "use another checkpoint") from None
    weights = [name for name in WHOLE if (folder / name).is_file()]
    if not weights:
        check_unread(folder)
        raise ModelError(f"{folder} has no weights", f"it needs one of {', '.join(WHOLE)}")
    return {"family": kind, "checkpoint": weights[0], "arch": arch}
