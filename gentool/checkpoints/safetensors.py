"""Safetensors files: a header of names, types, shapes and offsets, then the bytes. The format's own
library checks the header, sizes and overlaps included; the bytes are mapped here, because the
library would copy them, and written here, because it wants all of them in memory at once.
"""

from __future__ import annotations

import json
import math
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gentool.checkpoints.maps import mapped
from gentool.errors import ModelError

ALIGNED = 64  # bytes: where tensors start in the files written here
PADDING = "padding."  # begins the names of what fills the gaps between them
_RESTORE = "restore the file from its source"

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Tensors = Mapping[str, tuple[np.dtype, tuple[int, ...]]]


class SafetensorsFile:
    def __init__(self, path: Path, data: np.ndarray, header: dict[str, Any], start: int) -> None:
        self._path, self._data, self.files = path, data, [path]
        self._places = {name: start + entry["data_offsets"][0] for name, entry in header.items()}
        self.shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        self.dtypes = {name: _DTYPES[entry["dtype"]] for name, entry in header.items()}

    def read(self, name: str) -> np.ndarray:
        """A view of the file, private to this process."""
        if name not in self.shapes:
            raise ModelError(f"{self._path} has no tensor {name}", "is it of another model?")
        shape, dtype = self.shapes[name], self.dtypes[name]
        try:
            return np.ndarray(shape, dtype, self._data.data, self._places[name])
        except ValueError as e:  # an empty one of a size no memory has, or of too many dimensions
            raise ModelError(f"{self._path}: tensor {name}: {e}", _RESTORE) from None


def load(path: Path) -> SafetensorsFile:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
            raise ModelError(f"{path} is not a file", "name a file of weights")
        open_untyped: Any = safe_open
        with open_untyped(path, "numpy"):  # checks that the file is whole
            data = mapped(path)
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror or e}", _RESTORE) from None
    except (SafetensorError, ValueError) as e:
        raise ModelError(f"{path} is not a whole safetensors file: {e}", _RESTORE) from None
    length = int.from_bytes(data[:8].tobytes(), "little")
    try:
        header = json.loads(data[8 : 8 + length].tobytes(), object_pairs_hook=_unique)
    except KeyError as e:
        raise ModelError(f"{path} says {e} twice", _RESTORE) from None
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise ModelError(
                f"{path}: tensor {name} is of type {entry['dtype']}, which is not read",
                f"save it as one of {', '.join(_DTYPES)}",
            )
    return SafetensorsFile(path, data, header, 8 + length)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping without a name that is there twice: two readers could take different ones."""
    mapping: dict[str, Any] = {}
    for name, value in pairs:
        if name in mapping:
            raise KeyError(name[:200])
        mapping[name] = value
    return mapping


def write(
    file: BinaryIO,
    tensors: Tensors,
    read: Callable[[str], np.ndarray],
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[tuple[str, int]]:
    """Writes tensors of these types and shapes, asking for one after the other; yields each name
    and its bytes when it is written. Each starts at a multiple of ALIGNED; the format knows no
    gaps, so small tensors fill them."""
    placed: dict[str, dict[str, Any]] = {}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = dtype.itemsize * math.prod(shape)
        placed[name] = _entry(_NAMES[dtype], shape, at, size)
        at += size
        if gap := -at % ALIGNED:
            placed[f"{PADDING}{len(placed)}"] = _entry("U8", (gap,), at, gap)
            at += gap
    text = json.dumps(
        {"__metadata__": {"format": "gentool", **metadata}, **placed}, separators=(",", ":")
    )
    header = text.encode()
    header += b" " * (-(8 + len(header)) % ALIGNED)
    file.write(struct.pack("<Q", len(header)) + header)
    for name, entry in placed.items():
        if name in tensors:
            array = np.ascontiguousarray(read(name))
            file.write(array.reshape(-1).view(np.uint8).data)
            yield name, array.nbytes
        else:
            file.write(bytes(entry["shape"][0]))


def to_bytes(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """A file of arrays without padding, whose tensors are all for the reader."""
    return save(arrays, metadata)


def _entry(dtype: str, shape: tuple[int, ...], start: int, size: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": (start, start + size)}
