"""A broken file is an error that names it: never a crash, whatever the bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from gentool import checkpoints
from gentool.errors import ModelError

GOOD = save({"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.ones(4, np.float32)})


def read_all(path):
    source = checkpoints.open_checkpoint(path)
    return {name: source.read(name) for name in source.shapes}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("weights") / "w.safetensors"


def test_arrays_come_back(file):
    file.write_bytes(GOOD)
    arrays = read_all(file)
    assert arrays["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and arrays["b"].dtype == np.float32


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_truncation_at_every_byte(file, length):
    file.write_bytes(GOOD[:length])
    with pytest.raises(ModelError, match=r"w\.safetensors"):
        read_all(file)


@settings(max_examples=300)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_an_error_or_harmless(file, at, flip):
    broken = bytearray(GOOD)
    broken[at] ^= flip
    file.write_bytes(broken)
    try:
        arrays = read_all(file)
    except ModelError:
        return
    assert sum(a.nbytes for a in arrays.values()) <= len(GOOD)


def test_other_formats_and_missing_files(tmp_path):
    with pytest.raises(ModelError, match="in no known format"):
        checkpoints.open_checkpoint(tmp_path / "w.gguf")
    with pytest.raises(ModelError, match="cannot read"):
        checkpoints.open_checkpoint(tmp_path / "w.safetensors")
