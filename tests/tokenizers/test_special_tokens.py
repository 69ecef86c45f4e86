"""Which tokenizers read a special token that is typed in a text as that token:
gentool/tokenizers/README.md says so to those who put the text of others into a prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

import gentool
from gentool import tokenizers
from gentool.config.model import TokenizerConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"
TINY_ZH = Path(gentool.__file__).parent / "data" / "tiny-zh"


@pytest.mark.parametrize(
    ("kind", "path", "mark"),
    [
        ("huggingface", GOLDEN / "gpt2/tokenizer.json", "<|endoftext|>"),
        ("huggingface", GOLDEN / "llama/tokenizer.json", "</s>"),
        ("huggingface", GOLDEN / "llama3/tokenizer.json", "<|end_of_text|>"),
        ("huggingface", GOLDEN / "qwen2/tokenizer.json", "<|endoftext|>"),
        ("huggingface", GOLDEN / "gemma/tokenizer.json", "<eos>"),
    ],
)
def test_a_tokenizer_json_reads_it(kind: str, path: Path, mark: str) -> None:
    assert read(kind, path, mark)


def test_wordpiece_reads_it_where_its_yaml_says_so() -> None:
    path = GOLDEN / "bert/vocab.txt"
    assert read("wordpiece", path, "[SEP]", special_tokens=True)
    assert not read("wordpiece", path, "[SEP]")


@pytest.mark.parametrize(
    ("kind", "path", "mark"),
    [
        ("sentencepiece", TINY_ZH / "tokenizer.model", "</s>"),
        ("cpm", GOLDEN / "cpm/chinese_vocab.model", "<eod>"),
    ],
)
def test_sentencepiece_and_cpm_do_not(kind: str, path: Path, mark: str) -> None:
    assert not read(kind, path, mark)


def read(kind: str, path: Path, mark: str, **more: bool) -> bool:
    """Whether a text with `mark` in it has a token that ends a text."""
    config = TokenizerConfig.model_validate({"kind": kind, "model": path.name, **more})
    tokenizer = tokenizers.load(config, path.parent)
    return bool(set(tokenizer.end) & set(tokenizer.encode(f"a{mark}b")))
