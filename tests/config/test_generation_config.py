"""What generation_config.json says of sampling is what a folder's model does, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gentool import registry
from gentool.config import lookup
from gentool.config.sampling import SamplingParams
from gentool.errors import ModelError

GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8, "vocab_size": 40}


def sampling(path: Path, **said: Any) -> SamplingParams:
    (path / "generation_config.json").write_text(json.dumps(said))
    (path / "config.json").write_text(json.dumps(GPT2 | {"n_positions": 16}))
    (path / "model.safetensors").touch()
    return lookup.load(str(path)).sampling


QWEN = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, {}),
        ({"eos_token_id": 3, "transformers_version": "4.57.1"}, {}),
        ({"do_sample": True, **QWEN}, QWEN),
        ({"do_sample": False, **QWEN}, {"temperature": 0.0, "repetition_penalty": 1.05}),
        (QWEN, QWEN),
        ({"do_sample": True, "temperature": 0.6}, {"temperature": 0.6, "top_k": 50}),
        ({"do_sample": True, "top_k": 0}, {}),
        ({"do_sample": None, "temperature": None, "num_beams": None}, {}),
        ({"min_p": 0.1, "typical_p": 0.9}, {"min_p": 0.1, "typical_p": 0.9}),
        ({"no_repeat_ngram_size": 3}, {"no_repeat_ngram_size": 3}),
        ({"max_new_tokens": 512, "min_new_tokens": 2}, {"max_tokens": 512, "min_tokens": 2}),
        ({"min_new_tokens": 100}, {"max_tokens": 100, "min_tokens": 100}),
        ({"stop_strings": "。"}, {"stop": ("。",)}),
        ({"stop_strings": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"num_beams": 1, "guidance_scale": 1, "max_length": 20, "use_cache": True}, {}),
    ],
)
def test_the_sampling_of_a_folder(
    tmp_path: Path, said: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert sampling(tmp_path, **said) == SamplingParams(**expected)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"top_p": 2.0}, "top_p is 2"),
        ({"do_sample": 1}, "do_sample is 1"),
        ({"max_new_tokens": 0}, "max_tokens is 0"),
        ({"stop_strings": [1]}, "stop"),
        ({"num_beams": 4}, "num_beams 4 is not supported"),
        ({"suppress_tokens": [1, 2]}, r"suppress_tokens \[1, 2\] is not supported"),
        ({"bad_words_ids": [[1]]}, "bad_words_ids"),
        ({"forced_eos_token_id": 2}, "forced_eos_token_id 2"),
    ],
)
def test_what_is_wrong_or_not_supported_is_refused_by_file_and_key(
    tmp_path: Path, said: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as failure:
        sampling(tmp_path, **said)
    assert str(tmp_path / "generation_config.json") in failure.value.message


def test_flags_and_yaml_come_first(tmp_path: Path) -> None:
    sampling(tmp_path, do_sample=True, **QWEN)
    config = lookup.load(str(tmp_path), {"sampling.temperature": "0.1"})
    assert (config.sampling.temperature, config.sampling.top_k) == (0.1, 20)
    assert config.source == tmp_path / "config.json"


def test_models_add_keeps_it(tmp_path: Path) -> None:
    sampling(tmp_path, do_sample=True, **QWEN)
    described = registry.describe("mine", str(tmp_path), {})
    assert "top_k: 20" in registry.text(described)
