"""Every parameter is filled, every tensor used, shapes are checked."""

import re

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tiny import TINY, Arrays, load, random_weights

from gentool.errors import ModelError
from gentool.models import column_blocks, llama, weights
from gentool.runtimes.xla import weights as xla_weights


def test_a_missing_tensor_is_named(tiny_weights):
    with pytest.raises(ModelError, match=r"layers\.1\.down is missing"):
        load(Arrays({n: a for n, a in tiny_weights.items() if n != "layers.1.down"}), TINY)


def test_a_left_over_tensor_is_named(tiny_weights):
    with pytest.raises(ModelError, match=r"layers\.2\.down is no weight of the family"):
        load(Arrays(tiny_weights | {"layers.2.down": np.zeros(3)}), TINY)


def test_a_wrong_shape_is_named_before_anything_is_read(tiny_weights):
    class Unreadable(Arrays):
        def read(self, name):
            raise AssertionError("read before the shapes were checked")

    wrong = Unreadable(tiny_weights | {"final_norm": np.zeros(31)})
    with pytest.raises(ModelError, match=r"final_norm has shape \[31\], not \[32\]"):
        load(wrong, TINY)


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("stored", [False, True], ids=["once", "twice"])
def test_names_of_a_model_with_and_without_its_head(prefix, stored):
    """A tied head may be stored again, a model saved without its head has no prefix."""
    arch = TINY.model_copy(update={"tied_head": True})
    dialect = llama.DIALECTS["hugging face" if prefix else "hugging face, no prefix"]
    shapes = {prefix + "embed_tokens.weight": (96, 32), prefix + "norm.weight": (32,)}
    assert all(take.names[0].startswith((prefix, "lm_head")) for take in dialect.top.values())
    sizes = {"qkv": (32, 16, 16), "gate_up": (48, 48)}
    for i in range(arch.n_layer):
        for name, shape in llama.layer_tensors(arch, i).items():
            names = dialect.layer[name].names
            rows = sizes.get(name, shape[:1])
            for theirs, out in zip(names, rows, strict=True):
                shapes[theirs.format(i=i)] = (out, *shape[1:])
    if stored:
        shapes["lm_head.weight"] = (96, 32)
    source = Arrays({name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    assert weights.plan(source, llama, arch).keys() >= {"embedding", "layers.1.qkv"}


def in_transformers(tied):
    """Random weights under the names of transformers."""
    arch = TINY.model_copy(update={"tied_head": tied})
    dialect, arrays = llama.DIALECTS["hugging face"], {}
    for name, array in random_weights(arch, 0).items():
        layer, inner = re.fullmatch(r"(?:layers\.(\d)\.)?(\w+)", name).groups()
        names = (dialect.layer if layer else dialect.top)[inner].names
        rows = {"qkv": [32, 48], "gate_up": [48]}.get(inner, [])
        parts = np.split(array, rows)
        arrays |= {n.format(i=layer): p for n, p in zip(names, parts, strict=True)}
    return arch, arrays


def test_a_missing_head_may_be_the_embedding():
    _, arrays = in_transformers(tied=True)
    with pytest.raises(ModelError, match=r"lm_head\.weight is missing") as caught:
        weights.plan(Arrays(arrays), llama, TINY)
    assert "--set arch.tied_head=true" in caught.value.hint


def test_a_head_that_is_not_the_embedding_it_is_tied_to():
    """transformers 4 leaves it out without a word, transformers 5 uses it."""
    arch, arrays = in_transformers(tied=True)
    embedding = arrays["model.embed_tokens.weight"]
    one_row = embedding.copy()
    one_row[-1, 0] += 1
    halves = embedding.astype(np.float16).astype(np.float32)
    for head in (embedding, embedding.copy()):
        source = Arrays(arrays | {"lm_head.weight": head})
        weights.check_head(source, weights.plan(source, llama, arch))
    for head in (one_row, halves, embedding[:-1], embedding.T):
        source = Arrays(arrays | {"lm_head.weight": head})
        with pytest.raises(ModelError, match="is not the embedding") as caught:
            weights.check_head(source, weights.plan(source, llama, arch))
        assert "--set arch.tied_head=false" in caught.value.hint
    untied = Arrays(arrays | {"lm_head.weight": one_row})
    weights.check_head(untied, weights.plan(untied, llama, TINY))


def test_the_value_head_of_trl_is_left_out(caplog):
    _, arrays = in_transformers(tied=False)
    values = {"v_head.summary.weight": np.ones((1, 32)), "v_head.summary.bias": np.ones(1)}
    plan = weights.plan(Arrays(arrays), llama, TINY)
    assert not caplog.records
    assert weights.plan(Arrays(arrays | values), llama, TINY) == plan
    (record,) = caplog.records
    assert "v_head.summary.weight is the value head of trl" in record.getMessage()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", "adapter"),
        ("base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight", "adapter"),
        ("model.layers.0.self_attn.q_proj.qweight", "GPTQ or AWQ"),
        ("model.layers.0.self_attn.q_proj.g_idx", "GPTQ or AWQ"),
        ("model.layers.0.self_attn.q_proj.weight_packed", "compressed-tensors"),
        ("model.layers.0.self_attn.q_proj.weight_scale_inv", "fp8"),
        ("model.layers.0.self_attn.q_proj.SCB", "bitsandbytes"),
        ("model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("score.weight", "classifier"),
        ("module.model.embed_tokens.weight", "wrapper's prefix"),
        ("_orig_mod.model.embed_tokens.weight", "wrapper's prefix"),
    ],
)
def test_a_checkpoint_of_another_kind_is_called_by_its_name(name, what):
    """Also where other tensors are missing, or are there under other names."""
    _, arrays = in_transformers(tied=False)
    alone = {name: np.ones(2, np.float32)}
    for source in (Arrays(alone), Arrays(arrays | alone)):
        with pytest.raises(ModelError, match=what) as caught:
            weights.plan(source, llama, TINY)
        assert name in caught.value.message


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.int8, "?"])
def test_other_types_are_refused(dtype):
    _, arrays = in_transformers(tied=False)
    name = "model.layers.1.mlp.down_proj.weight"
    source = Arrays(arrays | {name: np.ones((32, 48)).astype(dtype)})
    with pytest.raises(ModelError, match=f"{name} has dtype {np.dtype(dtype).name}") as caught:
        weights.plan(source, llama, TINY)
    assert "float16, bfloat16 or float32" in caught.value.hint


def test_aligned_arrays_are_not_copied():
    space = np.zeros(96 * 32 * 4 + 64, np.uint8)
    start = -space.ctypes.data % 64
    array = space[start : start + 96 * 32 * 4].view(np.float32).reshape(96, 32)
    arrays = random_weights(TINY, 0) | {"embedding": array}
    params = load(Arrays(arrays), TINY)
    array[5, 7] = 42.0
    assert params.top["embedding"][5, 7].numpy() == 42.0
    half = load(Arrays(arrays), TINY, "bfloat16")
    array[5, 7] = 43.0
    assert half.top["embedding"][5, 7].numpy() == 42.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_concatenated_and_transposed_weights_are_the_arrays(dtype):
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(3, 70_000)).astype(np.float32).T for _ in range(2)]
    weight = xla_weights._concatenated(
        parts, (140_000, 3), (140_000, 3), np.dtype(tf.as_dtype(dtype).as_numpy_dtype)
    )
    expected = tf.cast(np.concatenate(parts), dtype).numpy()
    np.testing.assert_array_equal(weight, expected)
    assert weight.ctypes.data % 64 == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_weight_of_many_inputs_is_kept_in_column_blocks(monkeypatch, dtype):
    """Whether its file has them or not; in float32 it is as it was."""
    monkeypatch.setattr(column_blocks, "MAX_FUSED_INPUTS", 32)
    arch = TINY.model_copy(update={"d_ff": 96})
    numpy_dtype = tf.as_dtype(dtype).as_numpy_dtype
    arrays = {n: a.astype(numpy_dtype) for n, a in random_weights(arch, 0).items()}
    down = arrays["layers.1.down"]  # [32, 96]
    blocks = np.stack([down[:, :32], down[:, 32:64], down[:, 64:]])
    in_blocks = arrays | {
        f"layers.{i}.down": column_blocks.blocked(arrays[f"layers.{i}.down"], (3, 32, 32))
        for i in (0, 1)
    }
    np.testing.assert_array_equal(in_blocks["layers.1.down"], blocks)
    for source in (arrays, in_blocks):
        params = load(Arrays(source), arch, dtype)
        np.testing.assert_array_equal(params.layers[1]["down"].numpy(), blocks)
        assert params.layers[1]["gate_up"].shape == (192, 32)
        fp32 = load(Arrays(source), arch, "float32").layers[1]["down"]
        np.testing.assert_array_equal(fp32.numpy(), down.astype(np.float32))
    plan = weights.plan(Arrays(in_blocks), llama, arch)
    np.testing.assert_array_equal(weights.read(Arrays(in_blocks), plan["layers.1.down"]), down)


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 48, 32), (96, 1, 32), (1, 32, 96)])
def test_other_column_blocks_are_refused(shape):
    wrong = random_weights(TINY, 0) | {"layers.0.down": np.zeros(shape, np.float32)}
    with pytest.raises(ModelError, match=r"layers\.0\.down has shape"):
        load(Arrays(wrong), TINY)
