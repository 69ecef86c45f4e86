"""Each family against what its original code computed: logits within the tolerance of the goldens'
README, greedy continuations exactly. Files are the originals' own, opened as a user would."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import gentool
from gentool import registry
from gentool.config import lookup
from gentool.generation.request import Sampled
from gentool.generation.session import Model

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-4  # the wrong gelu is 7e-4 away
SHARES = {"fp16": 0.01, "bf16": 0.05}  # of the largest logit, that an error may come to
PATHS = {"fp16": False, "bf16": None}  # layers of fp16 are compiled in decoding/test_engine.py


class Row(NamedTuple):
    """A checkpoint, where its expected values are, what its folder does not say, and what to
    compile: of several files of the same weights, one."""

    checkpoint: str
    golden: str
    set: dict[str, object] = {}
    xla: bool | None = None


HEADS = {"arch.n_head": 4}
ROWS = {
    "gpt2": Row("hf_gpt2", "hf_gpt2"),
    "gpt2 of the hub": Row("hf_gpt2/alt_openai_names", "hf_gpt2", xla=False),
    "llama": Row("hf_llama", "hf_llama"),
    "cpm in hugging face form": Row("cpm_megatron/hf", "cpm_megatron"),
    "cpm, two ranks": Row("cpm_megatron/ckpt", "cpm_megatron", HEADS, False),
    "cpm, before torch 1.6": Row("cpm_megatron/ckpt_legacy_pickle", "cpm_megatron", HEADS, False),
    "cpm in bert4keras": Row("cpm_megatron/bert4keras_tf", "cpm_megatron", xla=False),
    "cpm-lm-tf2": Row("cpm_lm_tf2/saved_model", "cpm_lm_tf2", HEADS),
    "gpt2-ml": Row("gpt2_ml", "gpt2_ml"),
    "gpt2-chinese": Row("bert_gpt2_chinese", "bert_gpt2_chinese"),
    "llama3": Row("hf_llama3", "hf_llama3"),
    "qwen2": Row("hf_qwen2", "hf_qwen2"),
    "qwen3": Row("hf_qwen3", "hf_qwen3"),
    "gemma": Row("hf_gemma", "hf_gemma"),
    "gemma2": Row("hf_gemma2", "hf_gemma2"),
}


@pytest.fixture(params=ROWS, scope="module")
def row(request: pytest.FixtureRequest) -> Row:
    """A row with its paths in full."""
    row = ROWS[request.param]
    return row._replace(checkpoint=str(GOLDEN / row.checkpoint), golden=str(GOLDEN / row.golden))


@pytest.fixture(scope="module")
def model(row: Row) -> Model:
    return gentool.load(row.checkpoint, precision="fp32", xla=row.xla, set=row.set)


def texts(row: Row) -> Iterator[tuple[list[int], np.ndarray]]:
    """Ids and the logits after each of them."""
    expected = np.load(Path(row.golden) / "golden.npz")
    for name in expected:
        if name.startswith("ids_"):
            yield expected[name].tolist(), expected[name.replace("ids", "logits")]


def greedy(row: Row) -> Iterator[tuple[list[int], list[int], dict[str, object]]]:
    """Prompts, their continuations, and what else was asked: an end token, penalties."""
    expected = np.load(Path(row.golden) / "golden.npz")
    for name in expected:
        for start in ("prompt", "greedy_prompt"):
            prompt = expected[name].tolist()
            if name.startswith(f"{start}_"):
                whole = expected[f"greedy_{name.rpartition('_')[2]}"].tolist()
                assert whole[: len(prompt)] == prompt
                yield prompt, whole[len(prompt) :], {}
        if name.startswith("sample_") and not name.endswith("length"):  # of top_p 1e-6
            count, length = expected[f"{name}_number_length"]
            prompt = expected[name][0][: -length - 1].tolist()
            assert len(expected[name]) == count
            yield from ((prompt, line[len(prompt) :].tolist(), {}) for line in expected[name])
    path = Path(row.golden) / "golden.json"
    cases = json.loads(path.read_text("utf-8"))["cases"] if path.exists() else []
    for case in cases:
        if case["kind"] == "greedy":
            prompt, keys = case["prompt"], ("repetition_penalty", "no_repeat_ngram_size")
            asked = {key: case[key] for key in keys if key in case}
            asked |= {"eos": case.get("eos_token_id")}
            yield prompt, case["output"][len(prompt) :], asked
        elif case["kind"] == "greedy_left_padded_batch":
            for ids, mask, output in zip(
                case["input_ids"], case["attention_mask"], case["output"], strict=True
            ):
                prompt = [i for i, real in zip(ids, mask, strict=True) if real]
                yield prompt, output[len(ids) :], {}


def test_logits(row: Row, model: Model) -> None:
    for ids, expected in texts(row):
        np.testing.assert_allclose(model.logits(ids), expected, rtol=0, atol=TOLERANCE)


def test_greedy_continuations(row: Row, model: Model) -> None:
    cases = list(greedy(row))
    assert cases
    for prompt, rest, asked in cases:
        how = {"temperature": 0, "max_tokens": len(rest), "eos": None} | asked
        assert list(model.complete(prompt, **how)[0].ids) == rest


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_logits_without_xla(name: str) -> None:
    row = ROWS[name]
    model = gentool.load(str(GOLDEN / row.checkpoint), precision="fp32", xla=False)
    for ids, expected in texts(Row("", str(GOLDEN / row.golden))):
        np.testing.assert_allclose(model.logits(ids), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("precision", SHARES)
def test_16_bits(row: Row, precision: str) -> None:
    """The arg max is that of fp32 wherever fp32 is surer than twice the largest error."""
    ids, expected = max(texts(row), key=lambda text: len(text[0]))
    model = gentool.load(row.checkpoint, precision, xla=PATHS[precision], set=row.set)
    actual = model.logits(ids)
    error = np.abs(actual - expected).max()
    assert error <= SHARES[precision] * np.abs(expected).max()
    second, first = np.sort(expected, axis=-1)[:, -2:].T
    sure = first - second > 2 * error
    assert sure.any()
    np.testing.assert_array_equal(actual.argmax(-1)[sure], expected.argmax(-1)[sure])


def test_a_yaml_of_30_lines_is_the_same_model(row: Row, tmp_path: Path) -> None:
    actual = registry.describe("mine", row.checkpoint, row.set)
    text = registry.text(actual)
    assert len(text.splitlines()) <= 30
    (tmp_path / "mine.yaml").write_text(text, "utf-8")
    again = lookup.load(str(tmp_path / "mine.yaml"))
    assert again.model_copy(update={"folder": actual.folder, "source": actual.source}) == actual
    ids, expected = next(texts(row))
    model = gentool.load(str(tmp_path / "mine.yaml"), precision="fp32", xla=False)
    np.testing.assert_allclose(model.logits(ids), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["hf_llama3", "hf_qwen2", "hf_gemma"])
def test_a_folder_brings_its_tokenizer_and_its_ends(name: str) -> None:
    golden = json.loads((GOLDEN / name / "golden.json").read_text("utf-8"))
    model = gentool.load(str(GOLDEN / name))
    for case in golden["tokenizer"]:
        assert model.tokenizer.encode(case["text"]) == case["ids"]
    ends = json.loads((GOLDEN / name / "config.json").read_text("utf-8"))["eos_token_id"]
    assert model.config.tokenizer.end == [ends]


def test_drafts_may_go_beyond_learned_positions() -> None:
    """At the end of a context, where they are computed and not drawn."""
    model = gentool.load(str(GOLDEN / "cpm_megatron/ckpt"), precision="fp32", set=HEADS)
    ids, options = [1, 2, 3, 1, 2, 3], {"max_tokens": 64, "temperature": 0, "eos": None}
    (plain,) = model.complete(ids, **options)
    (drafted,) = model.complete(ids, search=Sampled(lookup=8), **options)
    assert len(ids) + len(plain.ids) == model.config.arch.n_ctx
    assert drafted.ids == plain.ids
