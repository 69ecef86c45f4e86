"""An index and its files are one checkpoint; whatever an index says, nothing outside its folder is
opened, nothing hangs, and what is wrong is named."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from torch_writer import zip_file

from gentool import checkpoints
from gentool.errors import ModelError

A, B = np.arange(6, dtype=np.float16), np.ones(4, np.float32)
FORMS = {
    "model.safetensors.index.json": (save, "model-{}.safetensors"),
    "pytorch_model.bin.index.json": (zip_file, "pytorch_model-{}.bin"),
}


@pytest.fixture(scope="module", params=FORMS)
def index(request, tmp_path_factory):
    """An index whose tensors a and b are in two files."""
    write, name = FORMS[request.param]
    folder = tmp_path_factory.mktemp("shards")
    (folder / name.format(1)).write_bytes(write({"a": A}))
    (folder / name.format(2)).write_bytes(write({"b": B, "extra": A}))
    (folder.parent / "outside").write_bytes(write({"a": A}))
    return folder / request.param


def files(index):
    return [FORMS[index.name][1].format(number) for number in (1, 2)]


def good(index):
    first, second = files(index)
    return {"metadata": {"total_size": 28}, "weight_map": {"a": first, "b": second}}


def read_all(index, content):
    index.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    source = checkpoints.open_checkpoint(index)
    arrays = {name: source.read(name) for name in source.shapes}
    assert {name: array.shape for name, array in arrays.items()} == source.shapes
    assert {name: array.dtype for name, array in arrays.items()} == source.dtypes
    return arrays


def refused(index, content):
    with pytest.raises(ModelError) as caught:
        read_all(index, content)
    return caught.value.message


def test_two_files_are_one_checkpoint(index):
    arrays = read_all(index, good(index))
    assert list(arrays) == ["a", "b"]  # what the index does not name is not there
    np.testing.assert_array_equal(arrays["a"], A, strict=True)
    np.testing.assert_array_equal(arrays["b"], B, strict=True)
    source = checkpoints.open_checkpoint(index)
    assert [path.name for path in source.files] == [index.name, *files(index)]


OUTSIDE = ["../outside", "/etc/passwd", "..", ".", "", "x/../outside", "./a", "a/", "\0", "\ud800"]


@pytest.mark.parametrize("place", OUTSIDE, ids=ascii)
def test_only_files_beside_the_index_are_opened(index, place):
    content = good(index)
    content["weight_map"]["b"] = place
    message = refused(index, content)
    assert str(index) in message and f"{place!r} is no file of the model's folder" in message


PLACES = ["pipe", "folder", "empty", "nowhere", "loop", "x" * 9999, "index"]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[:9])
def test_what_is_no_shard_is_named(index, place):
    folder = index.parent
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")  # nobody writes: opening it would wait for ever
        (folder / "folder").mkdir()
        (folder / "empty").touch()
        (folder / "loop").symlink_to("loop")
    content = good(index)
    content["weight_map"]["b"] = index.name if place == "index" else place
    assert content["weight_map"]["b"] in refused(index, content)


def test_a_link_is_followed(index):
    """Hugging Face's cache is made of links that lead out of the folder."""
    link = index.parent / "link"
    if not link.is_symlink():
        link.symlink_to("../outside")
    content = good(index)
    content["weight_map"]["a"] = "link"
    assert list(read_all(index, content)) == ["a", "b"]


def test_a_tensor_that_is_not_where_the_index_says(index):
    first, second = files(index)
    content = good(index)
    content["weight_map"] |= {"c": second}
    assert f"{second} has no tensor c" in refused(index, content)
    twice = f'{{"weight_map": {{"a": "{second}", "a": "{first}"}}}}'  # the last one holds
    assert list(read_all(index, twice.encode())) == ["a"]
    assert "has no tensor a" in refused(index, twice.replace(first, second).encode())


NOT_INDICES = [
    *(b"", b"[]", b"{}", b"null", b"3", b'"weight_map"', b"\xff", b"{" * 99),
    *(b"[" * 10**6, b'{"weight_map":' * 50_000, b"1" * 10_000, "{}".encode("utf-16")),
    *(b'{"weight_map": %s}' % value for value in (b"null", b"[]", b"3", b'"abc"', b"true")),
    *(b'{"weight_map": {"a": %s}}' % v for v in (b"null", b"1", b"1e999", b"[]", b"{}", b'["x"]')),
    b'{"weight_map": {"a": 1, "b": "x"}}',
]


@pytest.mark.parametrize("content", NOT_INDICES, ids=lambda content: repr(content[:34]))
def test_what_is_no_index(index, content):
    assert refused(index, content) == f"{index} is not an index of weights files"


def test_an_index_of_nothing_is_a_checkpoint_of_nothing(index):
    assert read_all(index, {"weight_map": {}}) == {}


def test_an_index_that_is_no_file_or_too_large(index):
    index.unlink(missing_ok=True)
    with pytest.raises(ModelError, match="cannot read"):
        checkpoints.open_checkpoint(index)
    os.mkfifo(index)
    with pytest.raises(ModelError, match="is no index"):
        checkpoints.open_checkpoint(index)
    index.unlink()
    with index.open("wb") as file:
        file.truncate(20 << 30)  # a hole
    with pytest.raises(ModelError, match="is no index"):
        checkpoints.open_checkpoint(index)


def test_truncation_at_every_byte(index):
    text = json.dumps(good(index)).encode()
    for length in range(len(text)):
        assert "is not an index" in refused(index, text[:length])


@settings(max_examples=300)
@given(st.data())
def test_flipped_bytes_are_an_error_or_harmless(index, data):
    text = bytearray(json.dumps(good(index)).encode())
    flips = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 255))
    for at, flip in data.draw(st.lists(flips, min_size=1, max_size=3)):
        text[at] ^= flip
    try:
        arrays = read_all(index, bytes(text))
    except ModelError as e:
        assert e.message and e.hint
    else:
        assert sum(array.nbytes for array in arrays.values()) <= A.nbytes * 2 + B.nbytes


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@given(JSON | st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(max_size=3), JSON)}))
def test_any_json_is_an_error_or_empty(index, content):
    try:
        assert read_all(index, content) == {}
    except ModelError as e:
        assert e.message and e.hint
