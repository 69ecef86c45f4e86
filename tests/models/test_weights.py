"""Every parameter is filled, every tensor used, shapes are checked."""

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
