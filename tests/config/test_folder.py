"""What a folder says of itself: read from its files, and never the wrong file's."""

import json
import shutil
from pathlib import Path

import pytest

from gentool import checkpoints
from gentool.config import folder, lookup
from gentool.errors import ModelError

GOLDEN = Path(__file__).parents[1] / "golden"
GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8, "vocab_size": 40}


def hugging_face(path: Path, files: str = "", **keys: object) -> Path:
    """A folder with this config.json, and empty files."""
    (path / "config.json").write_text(json.dumps(GPT2 | {"n_positions": 16} | keys))
    for name in ("model.safetensors", *files.split()):
        (path / name).touch()
    return path


@pytest.fixture
def grover(tmp_path: Path) -> Path:
    for path in (GOLDEN / "gpt2_ml").glob("model.ckpt*"):
        shutil.copy(path, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "said",
    [
        {"num_attention_heads": 4, "hidden_size": 48, "vocab_size": 131},  # the publisher's
        {"n_head": 4, "n_embd": 48, "n_layer": 3, "n_positions": 40},  # gpt2-ml-torch's
    ],
)
def test_both_dialects_of_gpt2_ml(grover: Path, said: dict[str, int]) -> None:
    (grover / "config.json").write_text(json.dumps(said))
    arch = lookup.load(str(grover)).arch
    assert (arch.n_head, arch.d_head, arch.activation) == (4, 12, "gelu_erf")


def test_a_checkpoint_without_any_configuration_wants_its_heads(grover: Path) -> None:
    with pytest.raises(ModelError, match=r"arch\.n_head is missing"):
        lookup.load(str(grover))
    arch = lookup.load(str(grover), {"arch.n_head": "4"}).arch
    assert (arch.n_layer, arch.d_model, arch.n_ctx, arch.n_vocab) == (3, 48, 40, 131)


@pytest.mark.parametrize(
    ("files", "kind", "chosen"),
    [
        ("tokenizer.json chinese_vocab.model spiece.model", "CpmTokenizer", "chinese_vocab.model"),
        ("tokenizer.json spiece.model", "CpmTokenizerFast", "spiece.model"),
        ("tokenizer.json vocab.txt", "BertTokenizer", "vocab.txt"),
        ("tokenizer.json vocab.json merges.txt", "GPT2Tokenizer", "tokenizer.json"),
        ("vocab.json merges.txt", None, "vocab.json"),
        ("tokenizer.model tokenizer.json", "LlamaTokenizer", "tokenizer.json"),
        ("vocab.model", None, "vocab.model"),
    ],
)
@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json"])
def test_the_tokenizer_a_model_was_trained_with(
    tmp_path: Path, files: str, kind: str | None, chosen: str, place: str
) -> None:
    said = {"tokenizer_class": kind} if kind else {}
    hugging_face(tmp_path, files, **(said if place == "config.json" else {}))
    if place == "tokenizer_config.json":
        (tmp_path / place).write_text(json.dumps(said))
    assert folder.describe(tmp_path)["tokenizer"]["model"] == chosen


def test_a_tokenizer_that_gives_other_ids_is_no_tokenizer(tmp_path: Path) -> None:
    said = folder.describe(hugging_face(tmp_path, "tokenizer.json", tokenizer_class="CpmTokenizer"))
    assert "tokenizer" not in said


@pytest.mark.parametrize(
    ("model", "generation", "wanted"),
    [
        (7, None, [7]),
        (7, [3, 5], [3, 5]),
        ([1, 2], None, [1, 2]),
        (50256, None, None),  # not in the vocabulary
        (50256, [3, 50256], [3]),
        (7, [], [7]),
    ],
)
def test_the_tokens_that_end_a_text(
    tmp_path: Path, model: object, generation: object, wanted: list[int] | None
) -> None:
    hugging_face(tmp_path, "tokenizer.json", eos_token_id=model)
    if generation is not None:
        said = json.dumps({"eos_token_id": generation})
        (tmp_path / "generation_config.json").write_text(said)
    assert folder.describe(tmp_path)["tokenizer"].get("end") == wanted


def test_cpm_ends_with_its_own_token_whatever_the_configuration_says(tmp_path: Path) -> None:
    said = folder.describe(hugging_face(tmp_path, "chinese_vocab.model", eos_token_id=2))
    assert "end" not in said["tokenizer"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model_type": "gpt22"}, "model_type 'gpt22' is not supported"),
        ({"n_embd": None}, "unsupported operand|'>'|NoneType"),
        ({"activation_function": "swish"}, "activation_function swish is not supported"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, keys: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        folder.describe(hugging_face(tmp_path, **keys))


def test_weights_in_any_of_their_files(tmp_path: Path) -> None:
    hugging_face(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        folder.describe(tmp_path)
    for name in reversed(checkpoints.WHOLE):
        (tmp_path / name).touch()
        assert folder.describe(tmp_path)["checkpoint"] == name


LLAMA = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "vocab_size": 40,
    "max_position_embeddings": 64,
}


def arch_of(path: Path, family: str, **keys: object) -> dict:
    (path / "config.json").write_text(json.dumps(LLAMA | {"model_type": family} | keys))
    (path / "model.safetensors").touch()
    return folder.describe(path)["arch"]


@pytest.mark.parametrize(
    ("said", "theta"),
    [
        ({}, 1e4),
        ({"rope_theta": 5e5}, 5e5),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5),
        ({"rope_parameters": {"rope_type": "default"}, "rope_theta": 5e5}, 5e5),
        ({"rope_scaling": None, "rope_theta": 5e5}, 5e5),
    ],
)
def test_where_the_rotations_stand(tmp_path: Path, said: dict, theta: float) -> None:
    assert arch_of(tmp_path, "llama", **said)["rope_theta"] == theta


def test_of_two_names_of_a_scaling_the_older_counts(tmp_path: Path) -> None:
    said = {"type": "linear", "rope_type": "default", "factor": 2.0}  # as transformers reads it
    assert arch_of(tmp_path, "qwen2", rope_scaling=said)["rope_scaling"]["kind"] == "linear"


def test_what_configurations_leave_out(tmp_path: Path) -> None:
    """Defaults of transformers 4.57.1, which save_pretrained does not write in every version."""
    gemma2 = arch_of(tmp_path, "gemma2")
    assert (gemma2["score_cap"], gemma2["logit_cap"]) == (50.0, 30.0)
    assert (gemma2["d_head"], gemma2["n_kv_head"], gemma2["window"]) == (256, 4, 4096)
    assert gemma2["window_layers"] == [0] and gemma2["tied_head"]
    assert arch_of(tmp_path, "gemma2", attn_logit_softcapping=None)["score_cap"] is None
    assert arch_of(tmp_path, "qwen3", num_key_value_heads=2)["d_head"] == 128
    assert not arch_of(tmp_path, "qwen3", num_key_value_heads=2)["tied_head"]
    llama = arch_of(tmp_path, "llama", use_sliding_window=True, sliding_window=4)
    assert "window" not in llama  # only Qwen heeds it
    qwen2 = arch_of(
        tmp_path, "qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1
    )
    assert (qwen2["window"], qwen2["window_layers"]) == (4, [1])


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("llama", {"attention_bias": True}),
        ("llama", {"mlp_bias": True}),
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}),
        ("llama", {"partial_rotary_factor": 0.5}),
        ("llama", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
        ("qwen3", {"attention_bias": True}),
        ("gemma", {"hidden_activation": "gelu"}),
        ("gemma", {"hidden_act": "relu"}),
        ("gemma2", {"hidden_activation": "silu"}),
        ("gemma2", {"use_bidirectional_attention": True}),
    ],
)
def test_what_is_not_computed_is_refused_by_name(tmp_path: Path, family: str, said: dict) -> None:
    name = next(iter(said))
    name = {"rope_scaling": "rope_type", "rope_parameters": "partial_rotary_factor"}.get(name, name)
    with pytest.raises(ModelError, match=f"{name} .* is not supported"):
        arch_of(tmp_path, family, **said)


def test_a_head_of_gpt2_that_is_not_its_embedding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tie_word_embeddings False is not supported"):
        folder.describe(hugging_face(tmp_path, tie_word_embeddings=False))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"num_hidden_layers": 2_000_000_000}, "num_hidden_layers 2000000000"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers 3"),
        ({"num_attention_heads": 0, "head_dim": None}, "config.json"),
        ({"rope_theta": 10**400}, "config.json"),
        ({"model_type": ["qwen2"]}, "model_type"),
        ({"vocab_size": "9"}, "n_vocab"),
        ({"layer_types": [[]] * 9}, "layer_types"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
    ],
)
def test_numbers_and_types_that_no_model_has(tmp_path, changed, named):
    path = shutil.copytree(GOLDEN / "hf_qwen2", tmp_path / "m")
    config = json.loads((path / "config.json").read_text("utf-8"))
    config |= {"use_sliding_window": True, "max_window_layers": 1} | changed
    (path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError, match=named):
        lookup.load(str(path))


def test_tie_word_embeddings_null_is_false(tmp_path):
    path = shutil.copytree(GOLDEN / "hf_llama", tmp_path / "m")
    config = json.loads((path / "config.json").read_text("utf-8"))
    (path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": None}), "utf-8")
    assert not lookup.load(str(path)).arch.tied_head


def test_an_adapter_is_called_by_its_name(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b"}')
    with pytest.raises(ModelError, match="LoRA") as caught:
        lookup.load(str(tmp_path))
    assert "a/b" in caught.value.hint


def test_an_adapter_beside_a_model_is_said(tmp_path, caplog):
    """transformers would merge it."""
    path = shutil.copytree(GOLDEN / "hf_llama", tmp_path / "m")
    shutil.copy(GOLDEN / "hf_lora/llama_qv/adapter_config.json", path)
    lookup.load(str(path))
    (record,) = caplog.records
    assert "holds an adapter, which is not merged" in record.getMessage()
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="is an adapter"):
        lookup.load(str(path))
