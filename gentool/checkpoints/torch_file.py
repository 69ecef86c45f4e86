"""Files of torch.save, read without torch: the zip container, and the stream of older versions.
What a file says of its tensors is inert data (torch_pickle); the tensors are views of the mapped
file, and their sizes are checked against it before anything is taken."""

from __future__ import annotations

import mmap
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from gentool.checkpoints.torch_pickle import Refused, Storage, Tensor, unpickle
from gentool.errors import ModelError

_BROKEN = (
    Refused,
    ValueError,
    IndexError,
)  # the latter two from reading a pickle that is cut short

WRAPPERS = ("module", "model", "state_dict")  # keys that trainers save a model under
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_PICKLE_LIMIT = 64 << 20  # bytes; CPM-LM's is 100 kB
_DIRECTORY_LIMIT = 16 << 20
_RESTORE = "restore the file from its source"


@dataclass(frozen=True)
class _Opened:
    """What a container holds: the unpickled object, and where in the map each storage lies."""

    root: object
    places: Mapping[str, tuple[int, int]]  # key: first byte, bytes


@dataclass(frozen=True)
class _View:
    """A tensor's bytes in the map; everything is checked already."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    strides: tuple[int, ...]


class TorchFile:
    def __init__(self, path: Path, data: mmap.mmap, views: Mapping[str, _View]) -> None:
        self._path, self._data, self._views = path, data, views
        self.files = [path]
        self.shapes = {name: view.shape for name, view in views.items()}
        self.dtypes = {name: view.dtype for name, view in views.items()}

    def read(self, name: str) -> np.ndarray:
        """A view of the private map; a copy only where the file left the tensor unaligned."""
        if name not in self._views:
            raise ModelError(f"{self._path} holds no tensor {name}", _RESTORE)
        view = self._views[name]
        array: np.ndarray = np.ndarray(view.shape, view.dtype, self._data, view.start, view.strides)
        return np.require(array, requirements="A")


def load(path: Path, under: str | None = None) -> TorchFile:
    """The tensors of the file's mapping, or of the mapping it holds under the key `under`; values
    that are no tensors are left out."""
    try:
        data = _map(path)
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror or e}", _RESTORE) from None
    try:
        opened = _open_zip(data) if data[:4] == b"PK\3\4" else _open_legacy(data)
        tensors = _mapping(opened.root, under)
        views = {name: _view(name, t, opened.places, len(data)) for name, t in tensors.items()}
    except Refused as e:
        raise ModelError(f"{path} {e}", e.hint or _RESTORE) from None
    except (ValueError, IndexError) as e:
        raise ModelError(f"{path} is not a whole file of torch.save: {e}", _RESTORE) from None
    return TorchFile(path, data, views)


def _map(path: Path) -> mmap.mmap:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for a writer
        raise ModelError(f"{path} is not a file", "name a file of weights")
    if not status.st_size:
        raise ModelError(f"{path} is empty", _RESTORE)
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _mapping(root: object, under: str | None) -> dict[str, Tensor]:
    tensors = root
    if under is not None:
        tensors = root.get(under) if isinstance(root, dict) else None
    elif isinstance(root, dict) and not any(isinstance(v, Tensor) for v in root.values()):
        inner = [root[key] for key in WRAPPERS if isinstance(root.get(key), dict)]
        tensors = inner[0] if len(inner) == 1 else root
    if not isinstance(tensors, dict):
        where = "at its top" if under is None else f"under the key {under!r}"
        raise Refused(
            f"holds no mapping of names to tensors {where}",
            "its weights are under another key, or elsewhere",
        )
    return {name: value for name, value in tensors.items() if isinstance(value, Tensor)}


def _view(name: str, tensor: Tensor, places: Mapping[str, tuple[int, int]], limit: int) -> _View:
    storage, shown = tensor.storage, f"{name[:200]!r}"
    dtype = storage.dtype
    if storage.key not in places:
        raise Refused(f"holds {shown} without its data")
    first, taken = places[storage.key]
    if (storage.first + storage.count) * dtype.itemsize > taken:
        raise Refused(f"is cut short: the data of {shown} is smaller than declared")
    shape, strides = tensor.shape, tensor.strides
    if prod(max(n, 1) for n in shape) * dtype.itemsize > limit:  # an expanded view can be huge
        raise Refused(f"declares {shown} larger than the file itself")
    last = tensor.offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.count:
        raise Refused(f"holds {shown} reaching past the end of its data")
    if 0 in shape:
        return _View(dtype, shape, 0, (0,) * len(shape))
    return _View(
        dtype,
        shape,
        first + (storage.first + tensor.offset) * dtype.itemsize,
        tuple(s * dtype.itemsize if n > 1 else 0 for n, s in zip(shape, strides, strict=True)),
    )


def _unpack(layout: str, data: mmap.mmap, at: int) -> tuple[int, ...]:
    if at < 0 or at + struct.calcsize(layout) > len(data):
        raise Refused("is cut short")
    return struct.unpack_from(layout, data, at)


# the zip container of torch >= 1.6: stored entries NAME/data.pkl and NAME/data/KEY


@dataclass(frozen=True)
class _Entry:
    header: int
    size: int
    stored: bool


def _open_zip(data: mmap.mmap) -> _Opened:
    entries = _directory(data)
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise Refused("is a zip file, but not one of torch.save: it has no single data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    start, size = _body(data, pickles[0], entries[pickles[0]])
    order = entries.get(folder + "byteorder")
    if order is not None:
        at, length = _body(data, folder + "byteorder", order)
        if data[at : at + min(length, 6)] != b"little":
            raise Refused("was written in another byte order than little-endian")
    if size > _PICKLE_LIMIT:
        raise Refused(f"holds a pickle of {size} bytes, more than any checkpoint needs")
    storages: list[Storage] = []
    root = unpickle(BytesIO(data[start : start + size]), storages)
    keys = {storage.key for storage in storages}
    named = {key: entries.get(f"{folder}data/{key}") for key in keys}
    places = {key: _body(data, f"data/{key}", entry) for key, entry in named.items() if entry}
    return _Opened(root, places)


def _directory(data: mmap.mmap) -> dict[str, _Entry]:
    end = data.rfind(b"PK\5\6", max(0, len(data) - 65557))
    if end < 0:
        raise Refused("is cut short: the directory at its end is missing")
    count, size, start, _ = _unpack("<HIIH", data, end + 10)
    if count == 0xFFFF or 0xFFFFFFFF in (size, start):
        (far,) = _unpack("<Q", data, end - 12)
        if data[end - 20 : end - 16] != b"PK\6\7" or data[far : far + 4] != b"PK\6\6":
            raise Refused("has a broken zip directory")
        count, size, start = _unpack("<QQQ", data, far + 32)
    if start + size > len(data) or size > _DIRECTORY_LIMIT:
        raise Refused("has a broken zip directory")
    entries: dict[str, _Entry] = {}
    at = start
    for _ in range(count):
        if at + 46 > start + size or data[at : at + 4] != b"PK\1\2":
            raise Refused("has a broken zip directory")
        flags, method = _unpack("<HH", data, at + 8)
        packed, plain, n, m, k = _unpack("<IIHHH", data, at + 20)
        (header,) = _unpack("<I", data, at + 42)
        extra = data[at + 46 + n : at + 46 + n + m]
        plain, packed, header = _widened((plain, packed, header), extra)
        stored = method == 0 and packed == plain and not flags & 1
        name = data[at + 46 : at + 46 + n].decode("utf-8")
        if name in entries:  # two readers could take different ones
            raise Refused(f"holds {name[:200]!r} twice")
        entries[name] = _Entry(header, plain, stored)
        at += 46 + n + m + k
    return entries


def _widened(fields: tuple[int, int, int], extra: bytes) -> list[int]:
    """The fields with those marked as too long for 32 bits taken from the zip64 record."""
    record = b""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            record = extra[4 : 4 + length]
        extra = extra[4 + length :]
    wide = [value for (value,) in struct.iter_unpack("<Q", record[: len(record) // 8 * 8])]
    marked = [value == 0xFFFFFFFF for value in fields]
    if len(wide) < sum(marked):
        raise Refused("has a broken zip directory")
    return [wide.pop(0) if mark else f for f, mark in zip(fields, marked, strict=True)]


def _body(data: mmap.mmap, name: str, entry: _Entry) -> tuple[int, int]:
    if not entry.stored:
        raise Refused(f"holds {name[:200]!r} compressed, which torch.save does not do")
    n, m = _unpack("<26xHH", data, entry.header)
    start = entry.header + 30 + n + m
    if data[entry.header : entry.header + 4] != b"PK\3\4" or start + entry.size > len(data):
        raise Refused(f"is cut short: {name[:200]!r} reaches past its end")
    return start, entry.size


# the stream of older versions: pickles of a magic number, a version, the machine, the object and
# the keys of storages; then for each key the number of elements and the elements


def _open_legacy(data: mmap.mmap) -> _Opened:
    stream = BytesIO(data[:_PICKLE_LIMIT])
    try:
        magic = unpickle(stream, [])
    except _BROKEN:
        magic = None
    if magic != _MAGIC:
        raise Refused("is not a file of torch.save", "known are its zip form and its older stream")
    if unpickle(stream, []) != _PROTOCOL:
        raise Refused("is of another version of torch.save's older stream than 1001")
    unpickle(stream, [])
    storages: list[Storage] = []
    root = unpickle(stream, storages)
    sizes = {storage.key: storage.dtype.itemsize for storage in storages}
    if any(storage.dtype.itemsize != sizes[storage.key] for storage in storages):
        raise Refused("holds a storage under two types of elements")
    keys = unpickle(stream, [])
    if not isinstance(keys, list):
        raise Refused("lists no storages")
    places: dict[str, tuple[int, int]] = {}
    at = stream.tell()
    for key in keys:
        if not isinstance(key, str) or key not in sizes:
            raise Refused("lists a storage that no tensor uses")
        if key in places:
            raise Refused("lists a storage twice")
        (count,) = _unpack("<q", data, at)
        places[key] = (at + 8, count * sizes[key])
        at += 8 + count * sizes[key]
        if count < 0 or at > len(data):
            raise Refused("is cut short: a storage reaches past its end")
    return _Opened(root, places)
