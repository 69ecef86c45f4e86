"""TensorFlow checkpoints: PREFIX.index says of each tensor its type, shape and place, and
PREFIX.data-XXXXX-of-XXXXX hold the bytes. Knows no model, and asks TensorFlow for nothing: its own
reader ends the process where a few bytes of an index are wrong. All sizes are checked on loading,
tensors are views of a memory map."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from gentool.checkpoints.maps import mapped
from gentool.checkpoints.tf_table import (
    MOST,
    Broken,
    masked_crc,
    numbers,
    parts,
    table,
    text,
    varint,
)
from gentool.errors import ModelError

_RESTORE = "restore the file from its source"
_VERSION = 1  # of the bundle format, since 2016
_MOST_DIMENSIONS = 32
_MOST_ELEMENTS = 1 << 48
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

# TensorFlow's DataType
_STRING, _RESOURCE, _VARIANT = 7, 20, 21
_DTYPES = {
    1: np.dtype(np.float32),
    2: np.dtype(np.float64),
    3: np.dtype(np.int32),
    4: np.dtype(np.uint8),
    5: np.dtype(np.int16),
    6: np.dtype(np.int8),
    9: np.dtype(np.int64),
    10: np.dtype(np.bool_),
    14: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype(np.uint16),
    19: np.dtype(np.float16),
    22: np.dtype(np.uint32),
    23: np.dtype(np.uint64),
}


@dataclass(frozen=True)
class _Entry:
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    partitioned: bool


class TensorBundle:
    def __init__(self, index: Path) -> None:
        self._index = index
        shards, self._entries = _parse(index)
        prefix = index.name.removesuffix(".index")
        self._paths = {
            entry.shard: index.with_name(f"{prefix}.data-{entry.shard:05d}-of-{shards:05d}")
            for entry in self._entries.values()
        }
        self.files = [index, *sorted(self._paths.values())]
        self._bytes = {
            shard: mapped(_require_regular_file(path)) for shard, path in self._paths.items()
        }
        for key, entry in self._entries.items():
            if entry.offset + entry.size > self._bytes[entry.shard].size:
                raise ModelError(
                    f"{self._paths[entry.shard]} is not whole: "
                    f"{key} would end at byte {entry.offset + entry.size}",
                    _RESTORE,
                )
        self._keys = {name: key for key, name in self._names().items()}
        self.shapes = {name: self._entries[key].shape for name, key in self._keys.items()}
        self.dtypes = {
            name: _DTYPES.get(self._entries[key].dtype, np.dtype(object))
            for name, key in self._keys.items()
        }

    def read(self, name: str) -> np.ndarray:
        """A view of the private map, or a copy where the tensor is not aligned in it."""
        if name not in self._keys:
            raise ModelError(f"{self._index} has no tensor {name}", "is it of another model?")
        entry = self._entries[self._keys[name]]
        if entry.dtype not in _DTYPES:
            raise ModelError(
                f"{self._index}: {name} is of TensorFlow's type {entry.dtype}, which is not read",
                "save it as floats, integers or booleans",
            )
        array = self._slice(entry).view(_DTYPES[entry.dtype]).reshape(entry.shape)
        return array if array.flags.aligned else array.copy()

    def _slice(self, entry: _Entry) -> np.ndarray:
        return self._bytes[entry.shard][entry.offset : entry.offset + entry.size]

    def _names(self) -> dict[str, str]:
        """Names of the keys that hold numbers. Checkpoints of objects have keys like
        variables/17/.ATTRIBUTES/VARIABLE_VALUE; their graph knows the variables' full names."""
        full = {}
        graph = self._entries.get(_GRAPH)
        if graph is not None and graph.dtype == _STRING:
            try:
                full = _full_names(_string(self._slice(graph)[: MOST + 1].tobytes(), graph))
            except Broken as e:
                raise ModelError(f"{self._paths[graph.shard]}: {_GRAPH}: {e}", _RESTORE) from None
        keys = [
            key
            for key, entry in self._entries.items()
            if entry.dtype not in (_STRING, _RESOURCE, _VARIANT)
        ]
        uses = Counter(keys)
        uses.update(full[key] for key in keys if key in full)
        return {key: full[key] if uses[full.get(key, "")] == 1 else key for key in keys}


def load(path: Path) -> TensorBundle:
    """From the .index file, its prefix, or a folder that holds exactly one."""
    try:
        index = _index(path)
        return TensorBundle(index)
    except OSError as e:
        name = e.filename or path
        raise ModelError(f"cannot read {name}: {e.strerror or e}", _RESTORE) from None
    except Broken as e:
        raise ModelError(f"{index} is not a whole TensorFlow checkpoint: {e}", _RESTORE) from None


def _index(path: Path) -> Path:
    if path.is_dir():
        indices = sorted(p for p in path.glob("*.index") if not p.name.startswith("."))
        if not indices:
            raise ModelError(f"{path} has no TensorFlow checkpoint (*.index)", _RESTORE)
        if len(indices) > 1:
            names = ", ".join(p.name for p in indices)
            raise ModelError(f"{path} has several checkpoints: {names}", "name one of them")
        return indices[0]
    return path if path.name.endswith(".index") else path.with_name(f"{path.name}.index")


def _require_regular_file(path: Path) -> Path:
    path.stat()
    if not path.is_file():  # a pipe would wait for ever
        raise ModelError(f"{path} is not a file", _RESTORE)
    return path


def _parse(index: Path) -> tuple[int, dict[str, _Entry]]:
    """The number of shards, and an entry per key."""
    if _require_regular_file(index).stat().st_size > MOST:
        raise Broken(f"it has more than {MOST} bytes")
    values = dict(table(index.read_bytes()))
    shards = _shards(values.pop(b"", b""))
    # keys that start with 0 are slices of a partitioned variable, which has an entry of its own
    entries = {
        text(key): _entry(text(key), value)
        for key, value in values.items()
        if not key.startswith(b"\0")
    }
    for key, entry in entries.items():
        if entry.partitioned:
            raise ModelError(
                f"{index}: {key} is partitioned into slices, which are not read",
                "save the checkpoint without a partitioner",
            )
        if entry.shard >= shards:
            raise Broken(f"{key} lies in shard {entry.shard} of {shards}")
        dtype = _DTYPES.get(entry.dtype)
        if dtype is not None and math.prod(entry.shape) * dtype.itemsize != entry.size:
            raise Broken(f"{key} {list(entry.shape)} of {dtype} cannot have {entry.size} bytes")
    return shards, entries


def _shards(header: bytes) -> int:
    """Of a BundleHeaderProto: how many data files there are."""
    fields = numbers(header)
    if fields.get(2):
        raise Broken("it was written by a big-endian machine, which is not read")
    for version in parts(header, 3):
        least = numbers(version).get(2, 0)
        if least > _VERSION:
            raise Broken(f"it needs version {least} of the format, {_VERSION} is read")
    return fields.get(1, 0)


def _entry(key: str, message: bytes) -> _Entry:
    """Of a BundleEntryProto."""
    shape = tuple(
        numbers(dimension).get(1, 0) for of in parts(message, 2) for dimension in parts(of, 2)
    )
    if len(shape) > _MOST_DIMENSIONS or math.prod(max(n, 1) for n in shape) > _MOST_ELEMENTS:
        raise Broken(f"{key} is larger than any tensor, with {len(shape)} dimensions")
    fields = numbers(message)
    return _Entry(
        dtype=fields.get(1, 0),
        shape=shape,
        shard=fields.get(3, 0),
        offset=fields.get(4, 0),
        size=fields.get(5, 0),
        crc=fields.get(6, 0),
        partitioned=any(True for _ in parts(message, 7)),
    )


def _string(data: bytes, entry: _Entry) -> bytes:
    """The one string of a string tensor: its length, a checksum of that, its bytes."""
    if len(data) > MOST:
        raise Broken(f"it has more than {MOST} bytes")
    length, at = varint(data, 0)
    if entry.shape or at + 4 + length != len(data):
        raise Broken("it is not one string")
    if masked_crc(length.to_bytes(4, "little") + data[at:]) != entry.crc:
        raise Broken("it does not match its checksum")
    return data[at + 4 :]


def _full_names(graph: bytes) -> dict[str, str]:
    """Of a TrackableObjectGraph: checkpoint key -> full name of the variable."""
    names = {}
    for node in parts(graph, 1):
        for attribute in parts(node, 2):
            for key in parts(attribute, 3):
                for full in parts(attribute, 2):
                    names[text(key)] = text(full)
    return names
