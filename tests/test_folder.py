"""What a folder says of itself: read from its files, and never the wrong file's."""

import json
import shutil
from pathlib import Path

import pytest

from gentool import config, folder
from gentool.errors import ModelError

GOLDEN = Path(__file__).parent / "golden"
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
    arch = config.load(str(grover)).arch
    assert (arch.n_head, arch.d_head, arch.activation) == (4, 12, "gelu_erf")


def test_a_checkpoint_without_any_configuration_wants_its_heads(grover: Path) -> None:
    with pytest.raises(ModelError, match=r"arch\.n_head is missing"):
        config.load(str(grover))
    arch = config.load(str(grover), {"arch.n_head": "4"}).arch
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
    for name in reversed(folder.WEIGHTS):
        (tmp_path / name).touch()
        assert folder.describe(tmp_path)["checkpoint"] == name
