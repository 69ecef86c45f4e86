"""One model of random weights in the format and precision that a peer reads: a folder of Hugging
Face's with a tokenizer, a GGUF file, a folder of CTranslate2's.

    .venv-peers/bin/python tests/bench/peers_weights.py 12x768 gguf int8 FILE.gguf --seed 1

Every weight fits bfloat16 and float16, so fp32, bf16 and fp16 hold equal numbers. A tensor depends
on the seed and its name only. int8 and int4 are quantised by the peer's own library: GGUF's Q8_0
and Q4_0 from bf16, CTranslate2's int8 from fp32.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from peers_runner import THREADS, character

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
STORED = {
    "fp32": ("F32", "float32", "F32"),
    "fp16": ("F16", "float16", "F16"),
    "bf16": ("BF16", "bfloat16", "BF16"),
}
# precision -> llama.cpp's name of it
GGUF_QUANTIZED = {"int8": "Q8_0", "int4": "Q4_0"}
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
    keys = SHAPES[shape]
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return (keys if "model_type" in keys else GPT2 | keys) | ends


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors, by Hugging Face's names."""
    return _gpt2_shapes(c) if c["model_type"] == "gpt2" else _llama_shapes(c)


def _gpt2_shapes(c: Config) -> dict[str, tuple[int, ...]]:
    d = c["n_embd"]
    tensors: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (c["vocab_size"], d),
        "transformer.wpe.weight": (c["n_positions"], d),
    }
    for i in range(c["n_layer"]):
        at = f"transformer.h.{i}."
        for norm in ("ln_1", "ln_2"):
            tensors |= {f"{at}{norm}.weight": (d,), f"{at}{norm}.bias": (d,)}
        for name, into, out in (
            ("attn.c_attn", d, 3 * d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", d, 4 * d),
            ("mlp.c_proj", 4 * d, d),
        ):
            tensors |= {f"{at}{name}.weight": (into, out), f"{at}{name}.bias": (out,)}
    return tensors | {"transformer.ln_f.weight": (d,), "transformer.ln_f.bias": (d,)}


def _llama_shapes(c: Config) -> dict[str, tuple[int, ...]]:
    d, inner = c["hidden_size"], c["intermediate_size"]
    q, kv = (c[f"num_{kind}_heads"] * c["head_dim"] for kind in ("attention", "key_value"))
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c["vocab_size"], d)}
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
            tensors[f"{at}{name}.weight"] = shape
    return tensors | {"model.norm.weight": (d,), "lm_head.weight": (c["vocab_size"], d)}


def parameters(shape: str) -> int:
    return sum(int(np.prod(s)) for s in shapes(config(shape)).values())


def random_tensor(name: str, shape: tuple[int, ...], width: int, seed: int) -> np.ndarray:
    """A float32 tensor: normal around 0, or around 1 for the scale of a norm."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape, np.float32) * np.float32(0.55 / width**0.5)
    if "norm" in name or ".ln_" in name:
        values += name.endswith("weight")
    bits = values.view(np.uint32)
    bits += 0x8000
    bits &= 0xFFFF0000  # bfloat16
    return values.astype(np.float16).astype(np.float32)


def tensors(c: Config, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    width = c.get("n_embd", c.get("hidden_size"))
    for name, shape in shapes(c).items():
        yield name, random_tensor(name, shape, width, seed)


def stored(values: np.ndarray, precision: str) -> np.ndarray:
    """Values as a file has them; bfloat16 as uint16."""
    if precision == "bf16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16 if precision == "fp16" else np.float32)


def write_hugging_face(folder: Path, c: Config, precision: str, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kind, torch_name, _ = STORED[precision]
    keys = c | {"torch_dtype": torch_name, "transformers_version": "4.57.1"}
    (folder / "config.json").write_text(json.dumps(keys, indent=1))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(c["vocab_size"])), "utf-8")
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes(c).items():
        begin, end = end, end + int(np.prod(shape)) * (4 if precision == "fp32" else 2)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, values in tensors(c, seed):
            stored(values, precision).tofile(file)


def tokenizer(n_vocab: int) -> dict[str, Any]:
    """tokenizer.json in which every token is one character."""
    vocab = {character(token): token for token in range(n_vocab)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": False},
    }


def gguf_name(name: str) -> str:
    names = GGUF_GPT2 | GGUF_LLAMA
    stem, _, kind = name.rpartition(".")
    if stem in names:
        return f"{names[stem]}.{kind}"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{names[inner]}.{kind}"


def gguf_values(name: str, values: np.ndarray, c: Config) -> np.ndarray:
    """Values as GGUF has them: [out, in], with LLaMA's rotated pairs side by side."""
    if ".c_" in name and values.ndim == 2:
        return np.ascontiguousarray(values.T)
    for kind, heads in (("q", "num_attention_heads"), ("k", "num_key_value_heads")):
        if f"{kind}_proj" in name:
            halves = values.reshape(c[heads], 2, -1, values.shape[1])
            return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
    return values


def write_gguf(path: Path, c: Config, precision: str, seed: int) -> None:
    """Norms, biases and positions are float32, as in the files of llama.cpp's own script."""
    if precision in GGUF_QUANTIZED:
        source = path.with_name("bf16.gguf")
        if not source.exists():
            write_gguf(source, c, "bf16", seed)
        quantize_gguf(source, path, GGUF_QUANTIZED[precision])
        return
    import gguf

    writer = gguf.GGUFWriter(path, c["model_type"])
    _write_gguf_keys(writer, c)
    kind = gguf.GGMLQuantizationType[STORED[precision][2]]

    def as_stored(name: str, values: np.ndarray) -> tuple[np.ndarray, Any]:
        if values.ndim == 1 or "wpe" in name:
            return values, gguf.GGMLQuantizationType.F32
        return stored(values, precision), kind

    for name, shape in shapes(c).items():
        values, dtype = as_stored(name, np.empty(shape, np.float32))
        transposed = shape[::-1] if ".c_" in name else shape
        writer.add_tensor_info(gguf_name(name), transposed, values.dtype, values.nbytes, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, values in tensors(c, seed):
        writer.write_tensor_data(as_stored(name, gguf_values(name, values, c))[0])
    writer.close()


def quantize_gguf(source: Path, target: Path, kind: str) -> None:
    """What llama-quantize does. Q4_0 has the matrix of the head in Q6_K."""
    import llama_cpp as ll

    params = ll.llama_model_quantize_default_params()
    params.nthread = THREADS
    params.ftype = getattr(ll, f"LLAMA_FTYPE_MOSTLY_{kind}")
    if code := ll.llama_model_quantize(str(source).encode(), str(target).encode(), params):
        raise RuntimeError(f"llama_model_quantize gives {code}")


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


def write_ctranslate2(folder: Path, c: Config, precision: str, seed: int) -> None:
    """CTranslate2's own converter would read the weights through torch."""
    from ctranslate2.converters.converter import Converter

    class Weights(Converter):
        def _load(self) -> Any:
            return _ctranslate2_spec(c, dict(tensors(c, seed)))

    quantization = {"fp32": "float32", "int8": "int8_float32"}[precision]
    Weights().convert(str(folder), quantization=quantization, force=True)


def _ctranslate2_spec(c: Config, w: dict[str, np.ndarray]) -> Any:
    """The model with tensors `w` by Hugging Face's names."""
    from ctranslate2.specs import TransformerDecoderModelSpec
    from ctranslate2.specs.common_spec import Activation

    def norm(spec: Any, name: str) -> None:
        spec.gamma = w[f"{name}.weight"]
        if f"{name}.bias" in w:
            spec.beta = w[f"{name}.bias"]

    def linear(spec: Any, *names: str) -> None:
        spec.weight = np.concatenate(
            [w[f"{n}.weight"].T if ".c_" in n else w[f"{n}.weight"] for n in names]
        )
        if f"{names[0]}.bias" in w:
            spec.bias = np.concatenate([w[f"{n}.bias"] for n in names])

    if c["model_type"] == "gpt2":
        spec = TransformerDecoderModelSpec.from_config(
            c["n_layer"], c["n_head"], pre_norm=True, activation=Activation.GELUTanh
        )
        decoder, top, at = spec.decoder, "transformer", "transformer.h"
        decoder.embeddings.weight = w["transformer.wte.weight"]
        decoder.position_encodings.encodings = w["transformer.wpe.weight"]
        norm(decoder.layer_norm, f"{top}.ln_f")
        decoder.projection.weight = w["transformer.wte.weight"]
        for i, layer in enumerate(decoder.layer):
            norm(layer.self_attention.layer_norm, f"{at}.{i}.ln_1")
            linear(layer.self_attention.linear[0], f"{at}.{i}.attn.c_attn")
            linear(layer.self_attention.linear[1], f"{at}.{i}.attn.c_proj")
            norm(layer.ffn.layer_norm, f"{at}.{i}.ln_2")
            linear(layer.ffn.linear_0, f"{at}.{i}.mlp.c_fc")
            linear(layer.ffn.linear_1, f"{at}.{i}.mlp.c_proj")
    else:
        spec = TransformerDecoderModelSpec.from_config(
            c["num_hidden_layers"],
            c["num_attention_heads"],
            pre_norm=True,
            activation=Activation.SWISH,
            ffn_glu=True,
            rms_norm=True,
            rotary_dim=0,
            rotary_interleave=False,
            rotary_base=c["rope_theta"],
            num_heads_kv=c["num_key_value_heads"],
        )
        spec.config.layer_norm_epsilon = c["rms_norm_eps"]
        decoder = spec.decoder
        decoder.embeddings.weight = w["model.embed_tokens.weight"]
        norm(decoder.layer_norm, "model.norm")
        decoder.projection.weight = w["lm_head.weight"]
        for i, layer in enumerate(decoder.layer):
            at = f"model.layers.{i}"
            norm(layer.self_attention.layer_norm, f"{at}.input_layernorm")
            linear(layer.self_attention.linear[0], *(f"{at}.self_attn.{x}_proj" for x in "qkv"))
            linear(layer.self_attention.linear[1], f"{at}.self_attn.o_proj")
            norm(layer.ffn.layer_norm, f"{at}.post_attention_layernorm")
            linear(layer.ffn.linear_0, f"{at}.mlp.gate_proj")
            linear(layer.ffn.linear_0_noact, f"{at}.mlp.up_proj")
            linear(layer.ffn.linear_1, f"{at}.mlp.down_proj")
    decoder.scale_embeddings = False
    spec.register_vocabulary([str(i) for i in range(c["vocab_size"])])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
    return spec


WRITERS = {"hf": write_hugging_face, "gguf": write_gguf, "ct2": write_ctranslate2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("format", choices=WRITERS)
    parser.add_argument("precision", choices=[*STORED, *GGUF_QUANTIZED])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write = WRITERS[options.format]
    write(options.out, config(options.shape), options.precision, options.seed)


if __name__ == "__main__":
    sys.exit(main())
