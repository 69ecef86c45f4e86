"""One model of random weights in the format of every peer: a folder of Hugging Face's, a GGUF file
and a folder of CTranslate2's.

    .venv-peers/bin/python tests/bench/peers_weights.py 12x768 fp32 OUT --seed 1

Every number fits bfloat16 and float16 alike, so the copies in 32 and in 16 bits hold the same ones.
A tensor depends on the seed and its name only, and is drawn again for each format that wants it.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Config = dict[str, Any]

SHAPES: dict[str, Config] = {
    # tiny-zh's, but SiLU where that has GELU, which llama.cpp's LLaMA cannot; and a longer context
    "tiny": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_size": 256,
        "head_dim": 64,
        "intermediate_size": 768,
        "vocab_size": 6000,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    },
    "12x768": {"n_layer": 12, "n_head": 12, "n_embd": 768},  # CPM-distill's
    "32x2560": {"n_layer": 32, "n_head": 32, "n_embd": 2560},  # CPM-LM's
}
GPT2: Config = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_positions": 1024,
    "n_ctx": 1024,
    "vocab_size": 30000,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "resid_pdrop": 0.1,
    "tie_word_embeddings": True,
}
# precision -> dtype in safetensors, in config.json and in GGUF
NAMES = {
    "fp32": ("F32", "float32", "F32"),
    "fp16": ("F16", "float16", "F16"),
    "bf16": ("BF16", "bfloat16", "BF16"),
}
# Hugging Face's name -> GGUF's; those of a layer follow its number
GGUF_GPT2 = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
GGUF_LLAMA = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def config(shape: str) -> Config:
    """The keys of config.json. No token ends a text."""
    own = SHAPES[shape]
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return (own if "model_type" in own else GPT2 | own) | ends


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """Of all tensors, by Hugging Face's names."""
    return _gpt2_shapes(c) if c["model_type"] == "gpt2" else _llama_shapes(c)


def _gpt2_shapes(c: Config) -> dict[str, tuple[int, ...]]:
    d = c["n_embd"]
    found: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (c["vocab_size"], d),
        "transformer.wpe.weight": (c["n_positions"], d),
    }
    for i in range(c["n_layer"]):
        at = f"transformer.h.{i}."
        for norm in ("ln_1", "ln_2"):
            found |= {f"{at}{norm}.weight": (d,), f"{at}{norm}.bias": (d,)}
        for name, into, out in (
            ("attn.c_attn", d, 3 * d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", d, 4 * d),
            ("mlp.c_proj", 4 * d, d),
        ):
            found |= {f"{at}{name}.weight": (into, out), f"{at}{name}.bias": (out,)}
    return found | {"transformer.ln_f.weight": (d,), "transformer.ln_f.bias": (d,)}


def _llama_shapes(c: Config) -> dict[str, tuple[int, ...]]:
    d, inner = c["hidden_size"], c["intermediate_size"]
    q, kv = (c[f"num_{kind}_heads"] * c["head_dim"] for kind in ("attention", "key_value"))
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c["vocab_size"], d)}
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for name, shape in {
            "input_layernorm": (d,),
            "self_attn.q_proj": (q, d),
            "self_attn.k_proj": (kv, d),
            "self_attn.v_proj": (kv, d),
            "self_attn.o_proj": (d, q),
            "post_attention_layernorm": (d,),
            "mlp.gate_proj": (inner, d),
            "mlp.up_proj": (inner, d),
            "mlp.down_proj": (d, inner),
        }.items():
            found[f"{at}{name}.weight"] = shape
    return found | {"model.norm.weight": (d,), "lm_head.weight": (c["vocab_size"], d)}


def parameters(shape: str) -> int:
    return sum(int(np.prod(s)) for s in shapes(config(shape)).values())


def drawn(name: str, shape: tuple[int, ...], width: int, seed: int) -> np.ndarray:
    """A tensor, float32: normal around 0, or around 1 for the scale of a norm."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape, np.float32) * np.float32(0.55 / width**0.5)
    if "norm" in name or ".ln_" in name:
        values += name.endswith("weight")
    bits = values.view(np.uint32)
    bits += 0x8000
    bits &= 0xFFFF0000  # as bfloat16
    return values.astype(np.float16).astype(np.float32)


def tensors(c: Config, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    width = c.get("n_embd", c.get("hidden_size"))
    for name, shape in shapes(c).items():
        yield name, drawn(name, shape, width, seed)


def stored(values: np.ndarray, precision: str) -> np.ndarray:
    """As they lie in a file; bfloat16 is uint16."""
    if precision == "bf16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16 if precision == "fp16" else np.float32)


def write_hugging_face(folder: Path, c: Config, precision: str, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kind, torch_name, _ = NAMES[precision]
    keys = c | {"torch_dtype": torch_name, "transformers_version": "4.57.1"}
    (folder / "config.json").write_text(json.dumps(keys, indent=1))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes(c).items():
        begin, end = end, end + int(np.prod(shape)) * (4 if precision == "fp32" else 2)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(said).to_bytes(8, "little") + said)
        for _, values in tensors(c, seed):
            stored(values, precision).tofile(file)


def gguf_name(name: str) -> str:
    names = GGUF_GPT2 | GGUF_LLAMA
    stem, _, kind = name.rpartition(".")
    if stem in names:
        return f"{names[stem]}.{kind}"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{names[inner]}.{kind}"


def gguf_values(name: str, values: np.ndarray, c: Config) -> np.ndarray:
    """As GGUF has them: [out, in], and LLaMA's rotated pairs side by side."""
    if ".c_" in name and values.ndim == 2:
        return np.ascontiguousarray(values.T)
    for kind, heads in (("q", "num_attention_heads"), ("k", "num_key_value_heads")):
        if f"{kind}_proj" in name:
            halves = values.reshape(c[heads], 2, -1, values.shape[1])
            return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
    return values


def write_gguf(path: Path, c: Config, precision: str, seed: int) -> None:
    """Norms, biases and positions stay in float32, as llama.cpp's own script leaves them."""
    import gguf

    writer = gguf.GGUFWriter(path, c["model_type"])
    _write_gguf_keys(writer, c)
    kind = gguf.GGMLQuantizationType[NAMES[precision][2]]

    def as_stored(name: str, values: np.ndarray) -> tuple[np.ndarray, Any]:
        if values.ndim == 1 or "wpe" in name:
            return values, gguf.GGMLQuantizationType.F32
        return stored(values, precision), kind

    for name, shape in shapes(c).items():
        one, dtype = as_stored(name, np.empty(shape, np.float32))
        turned = shape[::-1] if ".c_" in name else shape
        writer.add_tensor_info(gguf_name(name), turned, one.dtype, one.nbytes, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, values in tensors(c, seed):
        writer.write_tensor_data(as_stored(name, gguf_values(name, values, c))[0])
    writer.close()


def _write_gguf_keys(writer: Any, c: Config) -> None:
    gpt2 = c["model_type"] == "gpt2"
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(c["vocab_size"])
    writer.add_context_length(c["n_positions" if gpt2 else "max_position_embeddings"])
    writer.add_embedding_length(c["n_embd" if gpt2 else "hidden_size"])
    writer.add_feed_forward_length(4 * c["n_embd"] if gpt2 else c["intermediate_size"])
    writer.add_block_count(c["n_layer" if gpt2 else "num_hidden_layers"])
    writer.add_head_count(c["n_head" if gpt2 else "num_attention_heads"])
    if gpt2:
        writer.add_layer_norm_eps(c["layer_norm_epsilon"])
        return
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_dimension_count(c["head_dim"])
    writer.add_rope_freq_base(c["rope_theta"])


class _Words:
    """A tokenizer as far as CTranslate2's converter asks for one: word i is "i"."""

    bos_token = eos_token = unk_token = "0"

    def __init__(self, count: int) -> None:
        self._words = {str(i): i for i in range(count)}

    def get_vocab(self) -> dict[str, int]:
        return self._words


def write_ctranslate2(folder: Path, hugging_face: Path, c: Config) -> None:
    """float32, all that it computes with on a CPU besides integers."""
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):
        def load_tokenizer(self, *_: Any, **__: Any) -> _Words:
            return _Words(c["vocab_size"])

    Converter(str(hugging_face)).convert(str(folder), force=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("precision", choices=NAMES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--formats", nargs="+", default=["hf", "gguf", "ct2"])
    given = parser.parse_args()
    c = config(given.shape)
    write_hugging_face(given.out / "hf", c, given.precision, given.seed)
    if "gguf" in given.formats:
        write_gguf(given.out / "model.gguf", c, given.precision, given.seed)
    if "ct2" in given.formats and given.precision == "fp32":
        write_ctranslate2(given.out / "ct2", given.out / "hf", c)


if __name__ == "__main__":
    main()
