"""Tiny models of every kind that gentool reads, each a folder that works before it is changed."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"
CORPUS = "今天天气不错。1+1=2；我们去公园玩吧，好吗？hello world\n明天见！从前有一只小猫\n"
OWN_YAML = """\
name: own
family: gpt2
checkpoint: gpt2/model.safetensors
arch: {n_layer: 3, n_head: 4, n_kv_head: 4, d_model: 36, d_head: 9, d_ff: 144, n_vocab: 330,
  n_ctx: 64, n_position: 64, norm_eps: 1.0e-05, tied_head: true, activation: gelu_tanh}
tokenizer: {kind: huggingface, model: gpt2/tokenizer.json, add_prefix_space: false, end: [0]}
precision: auto
sampling: {temperature: 0.9, top_k: 40, top_p: 0.9, min_p: 0.01, typical_p: 0.99,
  repetition_penalty: 1.1, presence_penalty: 0.1, frequency_penalty: 0.1, no_repeat_ngram_size: 3,
  logit_bias: {5: 1.5}, ban: [xyz], max_tokens: 3, min_tokens: 1, stop: ["。"], include_stop: true}
"""
RECIPE = """\
name: toy
family: llama
seed: 1
arch: {n_layer: 1, n_head: 2, n_kv_head: 1, d_model: 16, d_head: 8, d_ff: 32, n_vocab: 300,
  n_ctx: 32, rope_theta: 10000.0, tied_head: false, norm_eps: 1.0e-5}
pieces: {character_coverage: 0.995, sample_characters: 100000}
data: {sources: {a: 1.0, b: 2}, without_speakers: [a], synthetic: 0.1, synthetic_documents: 10}
optimizer: {tokens: 1000, batch: 2, learning_rate: 1.0e-3, warmup: 0.02, stable: 0.1, final: 0.05,
  weight_decay: 0.1, beta1: 0.9, beta2: 0.95, clip: 1.0, dropout: 0.0}
sampling: {temperature: 1.0, max_tokens: 8}
"""


def make(root: Path) -> list[Path]:
    """Writes all of them into `root`."""
    gpt2 = _copy("hf_gpt2", root / "gpt2", "alt_openai_names", "config_v5.json")
    qwen2 = _copy("hf_qwen2", root / "qwen2")
    gemma2 = _copy("hf_gemma2", root / "gemma2")
    llama3 = _copy("hf_llama3", root / "llama3")
    bert = _copy("bert_gpt2_chinese", root / "bert", "model.safetensors")
    zipped = _copy("cpm_megatron/ckpt", root / "megatron_zip")
    legacy = _copy("cpm_megatron/ckpt_legacy_pickle", root / "megatron_legacy")
    saved = _copy("cpm_lm_tf2/saved_model", root / "saved_model")
    bundle = _copy("gpt2_ml", root / "bundle", "bert4keras_beam.json", "meta.json")
    llama = _copy("hf_llama", root / "llama", "config_v5.json")
    heads = json.dumps({"num_attention_heads": 4})
    cpm = _sentencepiece(110, ["<eod>", "▂", "▃"])
    for folder in (zipped, legacy, saved):
        (folder / "config.json").write_text(heads)
        (folder / "chinese_vocab.model").write_bytes(cpm)
    (llama / "tokenizer.model").write_bytes(_sentencepiece(300, ["<sep>"]))
    (llama / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "add_bos_token": True,
                "tokenizer_class": "LlamaTokenizer",
                "legacy": False,
                "bos_token": "<s>",
                "added_tokens_decoder": {"2": {"content": "</s>", "special": True}},
            }
        )
    )
    (llama / "added_tokens.json").write_text(json.dumps({"<extra>": 310}))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(CORPUS) - set(" \n"))]
    (bundle / "vocab.txt").write_text("\n".join(words) + "\n")
    return [gpt2, qwen2, gemma2, llama3, bert, zipped, legacy, saved, bundle, llama, _slow(root)]


def _copy(golden: str, to: Path, *without: str) -> Path:
    ignored = ("golden.*", "README.md", *without)
    return Path(shutil.copytree(GOLDEN / golden, to, ignore=shutil.ignore_patterns(*ignored)))


def _slow(root: Path) -> Path:
    """GPT-2 with vocab.json and merges.txt, as slow tokenizers of transformers write it."""
    folder = _copy("hf_gpt2", root / "slow", "alt_openai_names", "config_v5.json")
    model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False})
    )
    return folder


def _sentencepiece(size: int, symbols: list[str]) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines() * 3),
        model_writer=model,
        vocab_size=size,
        hard_vocab_limit=False,
        user_defined_symbols=symbols,
        byte_fallback=size > 256,
        minloglevel=3,
        num_threads=1,
    )
    return model.getvalue()
