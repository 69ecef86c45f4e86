"""Each family against what its original code computed: logits within the tolerance of the goldens'
README, greedy continuations exactly. Files are the originals' own, opened as a user would."""

import json
from pathlib import Path

import numpy as np
import pytest

import gentool

GOLDEN = Path(__file__).parents[1] / "golden"
SHARED = Path(__file__).parents[3] / "shared" / "golden"
TOLERANCE = 1e-4  # the wrong gelu is 7e-4 away

FOLDERS = {
    "hf_gpt2": "hf_gpt2",
    "hf_gpt2 of the hub": "hf_gpt2/alt_openai_names",
    "hf_llama": "hf_llama",
}
BIGGER = {
    "cpm in hugging face form": ("cpm_megatron/a/hf", "cpm_megatron/a"),
    "cpm, two ranks": ("cpm_megatron/a/ckpt", "cpm_megatron/a"),
    "cpm, written before torch 1.6": ("cpm_megatron/a/ckpt_legacy_pickle", "cpm_megatron/a"),
    "cpm in bert4keras": ("cpm_megatron/a/bert4keras_tf", "cpm_megatron/a"),
    "cpm-lm-tf2": ("cpm_lm_tf2/a/saved_model", "cpm_lm_tf2/a"),
    "gpt2-ml": ("gpt2_ml/a", "gpt2_ml/a"),
    "gpt2-chinese": ("bert_gpt2_chinese/a", "bert_gpt2_chinese/a"),
    "llama3": ("hf_llama3/a", "hf_llama3/a"),
    "qwen2": ("hf_qwen2/a", "hf_qwen2/a"),
    "qwen3": ("hf_qwen3/a", "hf_qwen3/a"),
    "gemma": ("hf_gemma/a", "hf_gemma/a"),
    "gemma2": ("hf_gemma2/a", "hf_gemma2/a"),
}


def check(folder: Path, golden: Path, xla: bool) -> None:
    # neither a Megatron directory nor a SavedModel says how many heads there are
    heads = {"arch.n_head": 4} if folder.name.startswith(("ckpt", "saved_model")) else {}
    model = gentool.load(str(folder), precision="fp32", xla=xla, set=heads)
    expected = np.load(golden / "golden.npz")
    names = [name for name in expected if name.startswith("ids_")]
    assert names
    for name in names:
        wanted = expected[name.replace("ids", "logits")]
        found = model.logits(expected[name].tolist())
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
    for name in expected:
        number = name.removeprefix("greedy_")
        if number.isdigit():
            prompt = f"prompt_{number}" if f"prompt_{number}" in expected else f"greedy_{name}"
            if prompt not in expected:
                continue
            start = expected[prompt].tolist()
            rest = expected[name].tolist()[len(start) :]
            sample = model.complete(start, temperature=0, max_tokens=len(rest), eos=None)[0]
            assert list(sample.ids) == rest


@pytest.mark.parametrize("xla", [True, False], ids=["xla", "no-xla"])
@pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
def test_golden(folder: str, xla: bool) -> None:
    check(GOLDEN / folder, GOLDEN / folder.split("/")[0], xla)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/golden")
@pytest.mark.parametrize(("folder", "golden"), BIGGER.values(), ids=BIGGER)
def test_more_goldens(folder: str, golden: str) -> None:
    check(SHARED / folder, SHARED / golden, xla=True)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/golden")
@pytest.mark.parametrize("name", ["hf_llama3", "hf_qwen2", "hf_gemma"])
def test_a_folder_brings_its_tokenizer_and_its_ends(name: str) -> None:
    golden = json.loads((SHARED / name / "a/golden.json").read_text("utf-8"))
    model = gentool.load(str(SHARED / name / "a"))
    for case in golden["tokenizer"]:
        assert model.tokenizer.encode(case["text"]) == case["ids"]
    ends = json.loads((SHARED / name / "a/config.json").read_text("utf-8"))["eos_token_id"]
    assert model.config.tokenizer.end == [ends]
