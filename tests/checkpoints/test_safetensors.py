"""What is written is aligned and read by the format's own library; what is read is the file's own
bytes. A broken file is an error that names it: never a crash, whatever the bytes."""

import json
import mmap
import os
import struct
from io import BytesIO

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import deserialize
from safetensors.numpy import save

from gentool import checkpoints
from gentool.checkpoints import safetensors
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


# Types

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def one(dtype, shape, data, name="a"):
    """A file of one tensor, as its header says it."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}
    header = json.dumps({name: entry}).encode()
    return struct.pack("<Q", len(header)) + header + data


@pytest.mark.parametrize("name", DTYPES)
def test_types(file, name):
    data = bytes([0, 1] * 24) if name == "BOOL" else bytes(range(1, 49))
    file.write_bytes(one(name, [48 // np.dtype(DTYPES[name]).itemsize], data))
    array = read_all(file)["a"]
    assert array.dtype == DTYPES[name] and array.tobytes() == data


@pytest.mark.parametrize("name", ["C64", "F8_E8M0", "F4", "F6_E2M3", "F128", "f32"])
def test_an_unknown_type_is_named(file, name):
    bits = {"C64": 64, "F4": 4, "F6_E2M3": 6}.get(name, 8)
    file.write_bytes(one(name, [48 * 8 // bits], bytes(48), "model.weight"))
    with pytest.raises(ModelError, match=name) as caught:
        read_all(file)
    if name in ("C64", "F8_E8M0", "F4", "F6_E2M3"):  # which the library knows
        assert "tensor model.weight is of type" in caught.value.message


@pytest.mark.parametrize("inside", [False, True])
def test_a_name_that_is_there_twice(file, inside):
    """The format's own library takes the last of two tensors."""
    entry = b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    header = (
        b'{"a":'
        + entry
        + (b',"__metadata__":{"a":"1","a":"2"}}' if inside else b',"a":' + entry + b"}")
    )
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ModelError, match="says 'a' twice"):
        safetensors.load(file)


@pytest.mark.parametrize("shape", [[0, 1 << 62, 4], [1] * 70 + [0]])
def test_a_shape_no_array_has_is_an_error(file, shape):
    file.write_bytes(one("U8", shape, b""))
    with pytest.raises(ModelError, match=r"w\.safetensors: tensor a"):
        read_all(file)


# Maps


def test_an_array_is_a_view_that_keeps_the_file_as_it_is(file):
    file.write_bytes(GOOD)
    array = checkpoints.open_checkpoint(file).read("a")
    owner = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    assert isinstance(owner, mmap.mmap) and array.flags.writeable
    array[:] = 7
    assert file.read_bytes() == GOOD


def anonymous():
    """Bytes of memory this process has for itself."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) << 10


def test_reading_takes_no_memory_of_its_own(tmp_path):
    path, size = tmp_path / "large.safetensors", 1 << 28
    entry = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"a": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + size)  # a hole, no space on the disk
    before = anonymous()
    array = checkpoints.open_checkpoint(path).read("a")
    assert not array[:: mmap.PAGESIZE].any()  # every page was read
    assert anonymous() - before < size / 16


def test_what_is_no_file_is_not_opened(tmp_path):
    """Found here: a pipe was waited for."""
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(ModelError, match=f"{name}.safetensors is not a file"):
            safetensors.load(tmp_path / f"{name}.safetensors")


# Writing


@st.composite
def tensors(draw):
    kinds = st.sampled_from([np.dtype(dtype) for dtype in DTYPES.values()])
    shapes = st.lists(st.integers(0, 7), max_size=3).map(tuple)
    names = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
    found = draw(st.dictionaries(names, st.tuples(kinds, shapes), max_size=8))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    return {name: np.array(rng.random(s) * 9).astype(t) for name, (t, s) in found.items()}


@given(tensors())
def test_what_is_written_is_aligned_and_read_by_the_library(file, arrays):
    out, asked = BytesIO(), []

    def read(name):
        asked.append(name)
        return arrays[name]

    planned = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    written = list(safetensors.write(out, planned, read))
    assert written == [(name, array.nbytes) for name, array in arrays.items()]
    assert asked == list(arrays)  # one after the other, each once
    data = out.getvalue()
    assert len(data) % 64 == 0
    by_library = dict(deserialize(data))
    assert all(name.startswith("padding.") for name in by_library.keys() - arrays.keys())
    file.write_bytes(data)
    source = checkpoints.open_checkpoint(file)
    for name, array in arrays.items():
        assert bytes(by_library[name]["data"]) == array.tobytes()
        assert tuple(by_library[name]["shape"]) == array.shape
        found = source.read(name)
        assert found.ctypes.data % 64 == 0 or not found.size
        assert found.dtype == array.dtype and found.shape == array.shape
        assert found.tobytes() == array.tobytes()


def test_turned_arrays_are_written_as_they_are_read(file):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    with file.open("wb") as out:
        list(safetensors.write(out, {"a": (array.dtype, (3, 2))}, lambda _: array.T))
    np.testing.assert_array_equal(read_all(file)["a"], array.T, strict=True)
