"""Folders in int8 and int4: integers and scales in safetensors, which give the logits that the
weights they were made of give in that precision."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import gentool
from gentool.config import lookup
from gentool.convert import convert
from gentool.errors import ModelError, UsageError
from gentool.models.quantized import SCALES, packed, unpacked

GOLDEN = Path(__file__).parent / "golden"
IDS = [5, 9, 2, 60, 7, 7, 31]
# a tied head, and an untied one, whose widths have no blocks of 32: all int8
SOURCES = {name: str(GOLDEN / name) for name in ("hf_gpt2", "hf_llama")} | {"tiny-zh": "tiny-zh"}
PRECISIONS = ["int8", "int4"]


def made(source: Path | str, target: Path, precision: str) -> Path:
    assert list(convert(lookup.load(str(source)), target, precision))
    return target


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SOURCES)
def test_a_folder_gives_what_its_source_gives(name: str, precision: str, tmp_path: Path) -> None:
    source = SOURCES[name]
    target = made(source, tmp_path / "m", precision)
    before = gentool.load(source, precision=precision)
    after = gentool.load(str(target))
    assert after.precision == (precision if name == "tiny-zh" else "int8")
    np.testing.assert_array_equal(after.logits(IDS), before.logits(IDS))
    exact = gentool.load(source, precision="fp32").logits(IDS)
    assert not np.array_equal(after.logits(IDS), exact)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_file_says_what_it_was_made_of(precision: str, tmp_path: Path) -> None:
    target = made("tiny-zh", tmp_path / "m", precision)
    with safe_open(target / "model.safetensors", "numpy") as file:
        metadata = file.metadata()
        values = file.get_tensor("layers.0.down")
        scales = file.get_tensor("layers.0.down" + SCALES)
    assert list(json.loads(metadata["made_from"])) == ["model.safetensors"]
    assert metadata["quantizer"] == f"gentool {gentool.__version__}"
    size = {"int8": (np.int8, 768, np.float32), "int4": (np.uint8, 384, np.float16)}[precision]
    assert (values.dtype, values.shape[1], scales.dtype) == size
    assert (scales > 0).all()


def test_another_precision_or_another_conversion_is_refused(tmp_path: Path) -> None:
    target = made("tiny-zh", tmp_path / "m", "int4")
    for precision in ("fp32", "bf16", "int8"):
        with pytest.raises(UsageError, match="the weights of m are int4"):
            gentool.load(str(target), precision=precision)
    with pytest.raises(UsageError, match="runs on TensorFlow"):
        gentool.load(str(target), xla=True)
    with pytest.raises(UsageError, match="is quantised already"):
        made(target, tmp_path / "again", "int8")


def narrower(tensors: dict[str, np.ndarray]) -> None:
    tensors["layers.0.down"] = tensors["layers.0.down"][:, :-32].copy()


def without_scales(tensors: dict[str, np.ndarray]) -> None:
    del tensors["layers.0.down" + SCALES]


def with_one_scale(tensors: dict[str, np.ndarray]) -> None:
    tensors["layers.0.down" + SCALES] = tensors["layers.0.down" + SCALES][:1]


def with_double_scales(tensors: dict[str, np.ndarray]) -> None:
    tensors["layers.0.down" + SCALES] = tensors["layers.0.down" + SCALES].astype(np.float64)


def with_zero_scales(tensors: dict[str, np.ndarray]) -> None:
    tensors["layers.0.down" + SCALES][3] = 0


def with_infinite_scales(tensors: dict[str, np.ndarray]) -> None:
    tensors["layers.0.down" + SCALES][3] = np.inf


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "damage",
    [
        narrower,
        without_scales,
        with_one_scale,
        with_double_scales,
        with_zero_scales,
        with_infinite_scales,
    ],
)
def test_a_damaged_folder_is_refused(damage, precision: str, tmp_path: Path) -> None:
    target = made("tiny-zh", tmp_path / "m", precision)
    path = target / "model.safetensors"
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"layers\.0\.down"):
        gentool.load(str(target)).logits(IDS)


@given(st.lists(st.integers(-8, 7), min_size=2, max_size=40).filter(lambda x: len(x) % 2 == 0))
def test_packed_values_are_read_back(values: list[int]) -> None:
    array = np.array(values, np.int8).reshape(2, -1) if len(values) % 4 == 0 else np.array(values)
    array = array.astype(np.int8)
    data = packed(array).reshape(*array.shape[:-1], -1)
    np.testing.assert_array_equal(unpacked(data), array)
