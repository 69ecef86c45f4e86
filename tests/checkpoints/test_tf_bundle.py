"""TensorFlow's checkpoints without TensorFlow: its arrays, and an error where it would abort."""

import json
import os
import re
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_shape_pb2
from tensorflow.core.protobuf import tensor_bundle_pb2

from gentool.checkpoints import tf_bundle
from gentool.checkpoints.tf_table import MOST, masked_crc
from gentool.errors import ModelError

GOLDEN = Path(__file__).parents[1] / "golden"
GPT2_ML = GOLDEN / "gpt2_ml" / "model.ckpt-100000"
CPM_LM_TF2 = GOLDEN / "cpm_lm_tf2" / "saved_model" / "variables" / "variables"
BERT4KERAS = GOLDEN / "cpm_megatron" / "bert4keras_tf" / "model.ckpt"


def read_all(path):
    source = tf_bundle.load(path)
    arrays = {name: source.read(name) for name in source.shapes}
    assert {name: a.shape for name, a in arrays.items()} == source.shapes
    return arrays


def same(arrays, others):
    return arrays.keys() == others.keys() and all(
        a.dtype == others[name].dtype and np.array_equal(a, others[name], equal_nan=False)
        for name, a in arrays.items()
    )


def tensorflows(prefix):
    reader = tf.train.load_checkpoint(str(prefix))
    arrays = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    return {name: np.asarray(a) for name, a in arrays.items() if not isinstance(a, bytes)}


def save(prefix, tensors, slices=None):
    names = list(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=slices or [""] * len(names),
        tensors=[tf.constant(a) for a in tensors.values()],
    )


# what TensorFlow writes


@pytest.mark.parametrize("prefix", [GPT2_ML, BERT4KERAS], ids=lambda p: p.parent.name)
def test_arrays_are_those_of_tensorflow(prefix):
    assert same(read_all(prefix), tensorflows(prefix))


def test_gpt2_ml_has_its_variables_and_their_slots():
    shapes = tf_bundle.load(GPT2_ML).shapes
    variables = {
        name: tuple(shape)
        for name, shape in json.loads((GPT2_ML.parent / "meta.json").read_text())["variables"]
    }
    assert variables.items() <= shapes.items()
    others = shapes.keys() - variables.keys()
    assert all(name == "global_step" or "/adafactor_v" in name for name in others)


def test_variables_of_a_saved_model_have_their_full_names():
    source, reader = tf_bundle.load(CPM_LM_TF2), tensorflows(CPM_LM_TF2)
    text = (GOLDEN / "cpm_lm_tf2" / "variables.txt").read_text()
    order = re.findall(r"^(\d+) (\S+):0 \(", text, re.MULTILINE)
    assert source.shapes.keys() == {name for _, name in order}
    for i, name in order:
        key = f"variables/{i}/.ATTRIBUTES/VARIABLE_VALUE"
        assert np.array_equal(source.read(name), reader[key])


def test_every_type_and_shape(tmp_path):
    rng = np.random.default_rng(0)
    types = "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool"
    tensors = {name: rng.integers(0, 2, (3, 5)).astype(name) for name in types.split()}
    tensors["bfloat16"] = rng.normal(size=(2, 3)).astype(ml_dtypes.bfloat16)
    tensors["scalar"] = np.float32(3.5)
    tensors["empty"] = np.zeros((4, 0), np.float32)
    tensors["../层/名"] = np.array([float("-inf"), 1e-45], np.float32)
    save(tmp_path / "m", tensors | {"text": np.array([b"one", b"two"])})
    arrays = read_all(tmp_path / "m")
    assert same(arrays, {name: np.asarray(a) for name, a in tensors.items()})


def test_a_tensor_is_a_view_of_the_file_where_it_is_aligned(tmp_path):
    save(tmp_path / "m", {"a": np.ones(8, np.float32), "b": np.ones(3, np.int8)})
    save(tmp_path / "n", {"a": np.ones(3, np.int8), "b": np.ones(8, np.float32)})
    array = tf_bundle.load(tmp_path / "m").read("a")
    assert not array.flags.owndata
    assert tf_bundle.load(tmp_path / "n").read("b").flags.aligned


def test_several_shards_and_one_missing(tmp_path):
    save(tmp_path / "one", {"a": np.arange(6.0)})
    save(tmp_path / "two", {"b": np.arange(4), "c": np.ones((2, 2), np.float16)})
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(tmp_path / "one"), str(tmp_path / "two")],
        destination_prefix=str(tmp_path / "m"),
    )
    arrays = read_all(tmp_path / "m")
    assert arrays["a"].tolist() == [0, 1, 2, 3, 4, 5] and same(arrays, tensorflows(tmp_path / "m"))
    (tmp_path / "m.data-00001-of-00002").unlink()
    with pytest.raises(ModelError, match="cannot read .*m.data-00001-of-00002"):
        tf_bundle.load(tmp_path / "m")


def test_many_names_in_many_blocks(tmp_path):
    save(tmp_path / "m", {f"{i:03d}" * 1000: np.int32(i) for i in range(200)})  # 256 KiB each
    arrays = read_all(tmp_path)
    assert len(arrays) == 200 and all(int(name[-3:]) == a for name, a in arrays.items())


def test_a_name_that_is_not_unique_is_left_as_its_key(tmp_path):
    variables = [tf.Variable(float(i), name=name) for i, name in enumerate(["a", "b", "b"])]
    prefix = tf.train.Checkpoint(vs=variables).write(str(tmp_path / "m"))
    arrays = read_all(Path(prefix))
    assert {name: float(a) for name, a in arrays.items()} == {
        "a": 0,
        "vs/1/.ATTRIBUTES/VARIABLE_VALUE": 1,
        "vs/2/.ATTRIBUTES/VARIABLE_VALUE": 2,
    }


def test_partitioned_variables_are_refused(tmp_path):
    save(tmp_path / "m", {"w": np.ones((5, 4), np.float32)}, ["10 4 0,5:-"])
    with pytest.raises(ModelError, match="w is partitioned"):
        tf_bundle.load(tmp_path / "m")


# paths


def test_ways_to_name_a_checkpoint(tmp_path):
    for prefix in ("model.ckpt-1", "model.ckpt-2"):
        save(tmp_path / prefix, {"a": np.ones(2)})
        assert read_all(tmp_path / prefix).keys() == {"a"}
        assert read_all(tmp_path / f"{prefix}.index").keys() == {"a"}
    with pytest.raises(ModelError, match="several checkpoints: model.ckpt-1.index, model.ckpt-2"):
        tf_bundle.load(tmp_path)
    (tmp_path / "model.ckpt-2.index").rename(tmp_path / "._model.ckpt-1.index")
    assert read_all(tmp_path).keys() == {"a"}


def test_paths_without_a_checkpoint(tmp_path):
    with pytest.raises(ModelError, match="no TensorFlow checkpoint"):
        tf_bundle.load(tmp_path)
    with pytest.raises(ModelError, match=r"cannot read .*m\.index"):
        tf_bundle.load(tmp_path / "m")
    with pytest.raises(ModelError, match="cannot read"):
        tf_bundle.load(tmp_path / ("m" * 300))
    (tmp_path / "m.index").mkdir()
    with pytest.raises(ModelError, match="not a file"):
        tf_bundle.load(tmp_path / "m")


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_a_pipe_is_no_file(tmp_path, suffix):
    save(tmp_path / "m", {"a": np.ones(2)})
    (tmp_path / f"m{suffix}").unlink()
    os.mkfifo(tmp_path / f"m{suffix}")
    with pytest.raises(ModelError, match="not a file"):
        tf_bundle.load(tmp_path / "m")


# indices made by hand, with right checksums


def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def block(entries):
    out, last = b"", b""
    for key, value in entries.items():
        shared = len(os.path.commonprefix([last, key]))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        last = key
    return out + bytes(4) + (1).to_bytes(4, "little")


def table(data, compression=b"\0", handle=None):
    """A file of one data block, given as bytes."""
    out, handles = b"", []
    for body in (data, block({})):
        handles.append(varint(len(out)) + varint(len(body)))
        out += body + compression + masked_crc(body + compression).to_bytes(4, "little")
    index = block({b"\xff": handle or handles[0]})
    handles.append(varint(len(out)) + varint(len(index)))
    out += index + b"\0" + masked_crc(index + b"\0").to_bytes(4, "little")
    return out + (handles[1] + handles[2]).ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def header(**fields):
    return tensor_bundle_pb2.BundleHeaderProto(**({"num_shards": 1} | fields)).SerializeToString()


def entry(shape=(2,), dtype=1, offset=0, size=8, **fields):
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=n) for n in shape]
    return tensor_bundle_pb2.BundleEntryProto(
        dtype=dtype,
        shape=tensor_shape_pb2.TensorShapeProto(dim=dims),
        offset=offset,
        size=size,
        **fields,
    ).SerializeToString()


def written(folder, index, data=bytes(16)):
    (folder / "m.index").write_bytes(index)
    (folder / "m.data-00000-of-00001").write_bytes(data)
    return folder / "m"


def test_an_index_made_by_hand(tmp_path):
    two = entry(crc32c=masked_crc(bytes(8)))
    one = entry((1,), offset=8, size=4, crc32c=masked_crc(bytes(4)))
    index = table(block({b"": header(), b"a": two, b"ab": one}))
    arrays = read_all(written(tmp_path, index))
    assert same(arrays, {"a": np.zeros(2, np.float32), "ab": np.zeros(1, np.float32)})
    assert same(arrays, tensorflows(tmp_path / "m"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (entry((3,), size=12, offset=8), "not whole: w would end at byte 20"),
        (entry((10**12,), size=4 * 10**12), "not whole"),
        (entry((10**12,)), "cannot have 8 bytes"),
        (entry((-1,)), "larger than any tensor"),
        (entry((0, 2**62, 2**62), size=0), "larger than any tensor"),
        (entry((1,) * 1000, size=4), "larger than any tensor"),
        (entry(offset=-8), "not whole"),
        (entry(size=-8), "cannot have"),
        (entry(shard_id=1), "shard 1 of 1"),
        (entry(shard_id=-1), "shard"),
        (entry(dtype=25, size=2), "type 25, which is not read"),
        (b"\x08", "a number does not end"),
        (b"\x08" + b"\xff" * 20, "a number does not end"),
        (b"\x12\x7f", "longer than its message"),
        (b"\x0b", "wire type 3"),
    ],
)
def test_entries_that_cannot_be(tmp_path, value, message):
    with pytest.raises(ModelError, match=message) as error:
        read_all(written(tmp_path, table(block({b"": header(), b"w": value}))))
    assert str(tmp_path / "m") in error.value.message


GOOD = block({b"": header(), b"w": entry()})


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"", "does not end like one"),
        (bytes(MOST + 1), "more than"),
        (table(GOOD, b"\1"), "snappy"),
        (table(GOOD, handle=varint(2**60) + varint(2**60)), "outside the file"),
        (table(GOOD, handle=varint(0) + varint(0)), "outside the file"),
        (table(GOOD[:-4] + b"\xff" * 4), "inside an entry"),
        (table(block({b"a": entry(), b"": header()})), "not in order"),
        (table(block({b"w": entry()})), "shard 0 of 0"),
        (table(block({b"": header(endianness=1), b"w": entry()})), "big-endian"),
        (table(block({b"": header(version={"min_consumer": 9})})), "version 9"),
        (table(block({b"": header(), b"\xff": entry()})), "not UTF-8"),
        (table(varint(5) + GOOD[1:]), "longer than its block"),
    ],
)
def test_indices_that_cannot_be(tmp_path, index, message):
    with pytest.raises(ModelError, match=message):
        read_all(written(tmp_path, index))


def bomb():
    """Each name shares 64 KiB with the one before and adds one byte: 650 MB of names in 120 KB."""
    size = 1 << 16
    first = b"\0" + varint(size) + b"\0" + b"a" * size
    following = (varint(size + i) + b"\1\0a" for i in range(10_000))
    return first + b"".join(following) + bytes(8)


def small_names():
    return b"".join(b"\0\3\0" + i.to_bytes(3, "big") for i in range(70_000)) + bytes(8)


@pytest.mark.parametrize("make", [bomb, small_names])
def test_memory_is_bounded(tmp_path, make):
    prefix = written(tmp_path, table(make()))
    tracemalloc.start()
    try:
        with pytest.raises(ModelError):
            tf_bundle.load(prefix)
        assert tracemalloc.get_traced_memory()[1] < 1 << 27
    finally:
        tracemalloc.stop()


# broken files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small checkpoint of objects, so that names come from the data file, too."""
    folder = tmp_path_factory.mktemp("bundle")
    variables = [tf.Variable(np.arange(4.0) + i, name=f"layer{i}/kernel") for i in range(3)]
    prefix = Path(tf.train.Checkpoint(vs=variables).write(str(folder / "whole")))
    files = [prefix.with_name(f"whole{end}") for end in (".index", ".data-00000-of-00001")]
    return folder, read_all(prefix), *(file.read_bytes() for file in files)


def test_truncation_of_the_index_at_every_byte(whole):
    folder, _, index, data = whole
    for length in range(len(index)):
        with pytest.raises(ModelError, match=r"m\.index"):
            read_all(written(folder, index[:length], data))


def test_truncation_of_the_data_at_every_byte(whole):
    folder, _, index, data = whole
    for length in range(len(data)):
        with pytest.raises(ModelError, match=r"m\.data-00000-of-00001"):
            read_all(written(folder, index, data[:length]))


@settings(max_examples=300)
@given(st.data(), st.integers(1, 255))
def test_a_flipped_byte_of_the_index_is_an_error_or_harmless(whole, draw, flip):
    folder, arrays, index, data = whole
    broken = bytearray(index)
    broken[draw.draw(st.integers(0, len(index) - 1))] ^= flip
    try:
        assert same(read_all(written(folder, broken, data)), arrays)
    except ModelError:
        pass


@settings(max_examples=300)
@given(st.data(), st.integers(1, 255))
def test_a_flipped_byte_of_the_data_changes_numbers_only(whole, draw, flip):
    folder, arrays, index, data = whole
    broken = bytearray(data)
    broken[draw.draw(st.integers(0, len(data) - 1))] ^= flip
    try:
        others = read_all(written(folder, index, broken))
    except ModelError as e:
        assert "m.data-00000-of-00001: _CHECKPOINTABLE_OBJECT_GRAPH" in e.message
        return
    assert {name: a.shape for name, a in others.items()} == {
        name: a.shape for name, a in arrays.items()
    }


NESTED = block({b"": header(), **{b"layer/%d" % i: entry((2, 1), offset=i) for i in range(4)}})


@settings(max_examples=500)
@given(st.lists(st.tuples(st.integers(0, len(NESTED) - 1), st.integers(1, 255)), max_size=4))
def test_flipped_bytes_under_a_right_checksum(whole, flips):
    broken = bytearray(NESTED)
    for at, flip in flips:
        broken[at] ^= flip
    try:
        arrays = read_all(written(whole[0], table(bytes(broken))))
    except ModelError:
        return
    assert all(a.nbytes <= 16 for a in arrays.values())


@settings(max_examples=300)
@given(st.binary(max_size=80))
def test_any_graph_under_a_right_checksum(whole, graph):
    length = varint(len(graph))
    data = length + bytes(4) + graph
    crc = masked_crc(len(graph).to_bytes(4, "little") + data[len(length) :])
    key = b"_CHECKPOINTABLE_OBJECT_GRAPH"
    string = entry((), dtype=7, offset=8, size=len(data), crc32c=crc)
    prefix = written(
        whole[0], table(block({b"": header(), key: string, b"w": entry()})), bytes(8) + data
    )
    try:
        assert read_all(prefix).keys() == {"w"}
    except ModelError as e:
        assert "_CHECKPOINTABLE_OBJECT_GRAPH" in e.message
