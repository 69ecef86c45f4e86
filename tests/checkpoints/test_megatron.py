"""Any number of ranks gives the same weights, those of the model before it was split."""

import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from torch_writer import View, legacy_file, zip_file

from gentool.checkpoints import megatron, safetensors
from gentool.errors import ModelError

GOLDEN = Path(__file__).parent.parent / "golden" / "cpm_megatron"
TRACKER = "latest_checkpointed_iteration.txt"

HUB_NAMES = {
    "word_embeddings": "wte",
    "position_embeddings": "wpe",
    "transformer.layers": "h",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "attention.query_key_value": "attn.c_attn",
    "attention.dense": "attn.c_proj",
    "mlp.dense_h_to_4h": "mlp.c_fc",
    "mlp.dense_4h_to_h": "mlp.c_proj",
    "transformer.final_layernorm": "ln_f",
}


@pytest.mark.parametrize("form", ["ckpt", "ckpt_legacy_pickle"])
def test_the_published_form_equals_its_hub_form(form):
    source = megatron.load(GOLDEN / form)
    wanted = safetensors.load(GOLDEN / "hf" / "model.safetensors")
    assert len(source.shapes) == len(wanted.shapes) == 4 + 12 * 3
    for name in source.shapes:
        array = source.read(name)
        assert array.shape == source.shapes[name] and array.dtype == np.float16
        hub = name
        for old, new in HUB_NAMES.items():
            hub = hub.replace(old, new)
        expected = wanted.read("transformer." + hub)
        transposed = "attn" in hub or "mlp" in hub  # Conv1D keeps [in, out]
        np.testing.assert_array_equal(array, expected.T if transposed else expected)


def weights(layers=2, hidden=16, vocab=24, positions=8, dtype=np.float16):
    rng = np.random.default_rng(0)
    shapes = {
        "word_embeddings.weight": (vocab, hidden),
        "position_embeddings.weight": (positions, hidden),
        "transformer.final_layernorm.weight": (hidden,),
        "transformer.final_layernorm.bias": (hidden,),
    }
    for layer in range(layers):
        name = f"transformer.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{name}{norm}.{part}": (hidden,) for part in ("weight", "bias")}
        for dense, out, into in (
            ("attention.query_key_value", 3 * hidden, hidden),
            ("attention.dense", hidden, hidden),
            ("mlp.dense_h_to_4h", 4 * hidden, hidden),
            ("mlp.dense_4h_to_h", hidden, 4 * hidden),
        ):
            shapes |= {f"{name}{dense}.weight": (out, into), f"{name}{dense}.bias": (out,)}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def slice_of(name, whole, rank, ranks):
    """A rank's part, taken as Megatron's layers compute: head by head, unit by unit."""

    def part(axis, array=whole):
        return np.split(array, ranks, axis)[rank]

    if "query_key_value" in name:
        return np.concatenate([part(0, third) for third in np.split(whole, 3)])
    if "word_embeddings" in name or "h_to_4h" in name:
        return part(0)
    if "dense.weight" in name or "4h_to_h.weight" in name:
        return part(1)
    return whole


def write(folder, ranks, whole, writer=zip_file, tracker="80000\n", view=False):
    inner = folder / tracker.strip()
    inner.mkdir(parents=True)
    (folder / TRACKER).write_text(tracker)
    for rank in range(ranks):
        module = whole
        if ranks > 1:
            module = {name: slice_of(name, array, rank, ranks) for name, array in whole.items()}
        if view:  # columns as a view of the whole, as torch.split leaves them
            for name, array in module.items():
                if array.shape != whole[name].shape and name.endswith(
                    ("dense.weight", "to_h.weight")
                ):
                    width = whole[name].shape[1]
                    flat = whole[name].reshape(-1)
                    module[name] = View(flat, array.shape, (width, 1), rank * array.shape[1])
        content = writer({"optimizer": None, "mp_world_size": ranks, "module": module})
        (inner / f"mp_rank_{rank:02}_model_states.pt").write_bytes(content)
    return inner


@pytest.mark.parametrize("view", [False, True], ids=["copies", "views"])
@pytest.mark.parametrize("writer", [zip_file, legacy_file])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_ranks_merge_to_the_same_weights(tmp_path, ranks, writer, view):
    whole = weights()
    write(tmp_path, ranks, whole, writer, view=view)
    source = megatron.load(tmp_path)
    assert source.shapes == {name: array.shape for name, array in whole.items()}
    for name, array in whole.items():
        np.testing.assert_array_equal(source.read(name), array, strict=True)


@pytest.mark.parametrize("tracker", ["release", "release\n", "7", " 7 \n"])
def test_trackers(tmp_path, tracker):
    write(tmp_path, 1, weights(dtype=ml_dtypes.bfloat16), tracker=tracker)
    source = megatron.load(tmp_path)
    assert source.read("word_embeddings.weight").dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("tracker", ["", "..", "/etc", "../7", "7/..", "-7", "７", "7 8", "9" * 99])
def test_a_tracker_cannot_leave_the_folder(tmp_path, tracker):
    write(tmp_path / "inside", 1, weights())
    (tmp_path / "inside" / TRACKER).write_text(tracker)
    with pytest.raises(ModelError, match="names no iteration"):
        megatron.load(tmp_path / "inside")


def broken(folder, match):
    with pytest.raises(ModelError, match=match):
        megatron.load(folder)


def test_missing_files(tmp_path):
    broken(tmp_path / "none", f"cannot read .*{TRACKER}")
    inner = write(tmp_path, 4, weights())
    rank = inner / "mp_rank_01_model_states.pt"
    kept = rank.read_bytes()
    rank.unlink()
    broken(tmp_path, "mp_rank_01_model_states.pt is missing")
    rank.write_bytes(kept)
    for last in ("03", "02", "01"):  # no gap in the numbers
        (inner / f"mp_rank_{last}_model_states.pt").unlink()
        broken(tmp_path, r"attention\.dense\.weight is .* not square")
    (inner / "mp_rank_00_model_states.pt").unlink()
    broken(tmp_path, "mp_rank_00_model_states.pt is missing")
    shutil.rmtree(inner)
    broken(tmp_path, "cannot read .*80000")


def test_ranks_that_disagree(tmp_path):
    whole = weights()
    inner = write(tmp_path, 2, whole)
    rank = inner / "mp_rank_01_model_states.pt"
    name = "transformer.layers.1.mlp.dense_h_to_4h.bias"
    module = {n: slice_of(n, array, 1, 2) for n, array in whole.items()}

    def second(root):
        rank.write_bytes(zip_file(root))
        return tmp_path

    broken(second({"module": module | {name: module[name][1:]}}), rf"mp_rank_01.*{name} is .*\(31,")
    broken(second({"module": module | {name: module[name].astype(np.float32)}}), "is float32")
    without = {n: array for n, array in module.items() if n != name}
    broken(second({"module": without}), f"mp_rank_01.* holds no tensor {name}")
    more = {"transformer.extra.weight": module[name]}
    broken(second({"module": module | more}), "mp_rank_00.* holds no tensor transformer.extra")
    broken(second({"weights": module}), "mp_rank_01.* holds no mapping .*'module'")
    broken(second({"module": {}}), "mp_rank_01.* holds no tensors")
    rank.write_bytes(rank.read_bytes()[:-30])
    broken(tmp_path, "mp_rank_01")


def test_files_of_two_iterations_are_said(tmp_path, caplog):
    """Every rank has its copy of the norms; that of the first is used."""
    whole = weights()
    inner = write(tmp_path, 2, whole)
    megatron.load(tmp_path)
    assert not caplog.records
    name = "transformer.final_layernorm.weight"
    module = {n: slice_of(n, array, 1, 2) for n, array in whole.items()} | {name: -whole[name]}
    (inner / "mp_rank_01_model_states.pt").write_bytes(zip_file({"module": module}))
    source = megatron.load(tmp_path)
    (record,) = caplog.records
    assert f"{inner}/mp_rank_01_model_states.pt: {name} is not that of" in record.getMessage()
    np.testing.assert_array_equal(source.read(name), whole[name])


@pytest.mark.parametrize(
    "change",
    [
        {"transformer.extra.weight": np.ones((2, 2), np.float16)},
        {"transformer.layers.0.mlp.dense_4h_to_h.weight": np.ones(8, np.float16)},
        {"transformer.layers.0.attention.query_key_value.bias": np.ones(8, np.float16)},
        {"position_embeddings.weight": np.ones((), np.float16)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_tensors_of_other_models(tmp_path, change):
    write(tmp_path, 1, weights() | change)
    broken(tmp_path, next(iter(change)))
    with pytest.raises(ModelError, match="holds no tensor nothing"):
        shutil.rmtree(tmp_path / "80000")
        write(tmp_path, 1, weights())
        megatron.load(tmp_path).read("nothing")
