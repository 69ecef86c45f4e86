"""A small torch.save, for files no torch would write and machines that have none."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pickle import encode_long

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.int16): "ShortStorage",
    np.dtype(np.int8): "CharStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.bool_): "BoolStorage",
}


@dataclass(frozen=True, eq=False)
class View:
    """A tensor as a view of a flat storage; strides and offset in elements."""

    storage: np.ndarray
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0


@dataclass(frozen=True)
class Raw:
    """Instructions as they are."""

    code: bytes


def pickled(value, storages):
    return b"\x80\x02" + _code(value, storages) + b"."


def zip_file(root, compression=zipfile.ZIP_STORED, folder="archive"):
    out = BytesIO()
    write_zip(out, root, compression, folder)
    return out.getvalue()


def write_zip(out, root, compression=zipfile.ZIP_STORED, folder="archive"):
    """Into a path or a file; storages start at multiples of 64 bytes, as torch has them."""
    storages = []
    code = pickled(root, storages)
    with zipfile.ZipFile(out, "w", compression) as file:
        file.writestr(f"{folder}/data.pkl", code)
        file.writestr(f"{folder}/byteorder", "little")
        for key, storage in enumerate(storages):
            entry = zipfile.ZipInfo(f"{folder}/data/{key}")
            entry.compress_type = compression
            gap = -(file.fp.tell() + 30 + len(entry.filename) + 4) % 64
            entry.extra = b"FB" + struct.pack("<H", gap) + b"Z" * gap
            file.writestr(entry, np.ascontiguousarray(storage).reshape(-1).view(np.uint8).data)
        file.writestr(f"{folder}/version", "3\n")


def legacy_file(root):
    storages = []
    code = pickled(root, storages)
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    return b"".join(
        (
            *(pickled(value, []) for value in head),
            code,
            pickled([str(key) for key in range(len(storages))], []),
            *(struct.pack("<q", len(storage)) + storage.tobytes() for storage in storages),
        )
    )


def _code(value, storages):
    match value:
        case Raw(code):
            return code
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            number = encode_long(value)
            return b"\x8a" + bytes([len(number)]) + number
        case str():
            text = value.encode()
            return b"X" + struct.pack("<I", len(text)) + text
        case tuple():
            return b"(" + b"".join(_code(v, storages) for v in value) + b"t"
        case list():
            return b"](" + b"".join(_code(v, storages) for v in value) + b"e"
        case dict():
            items = b"".join(_code(k, storages) + _code(v, storages) for k, v in value.items())
            return b"}(" + items + b"u"
        case View():
            return _tensor(value, storages)
        case np.ndarray():
            flat = np.ascontiguousarray(value).reshape(-1)
            strides = tuple(s // value.itemsize for s in np.empty(value.shape, value.dtype).strides)
            return _tensor(View(flat, value.shape, strides), storages)
    raise TypeError(value)


def _tensor(view, storages):
    keys = [key for key, storage in enumerate(storages) if storage is view.storage]
    if not keys:
        storages.append(view.storage)
        keys = [len(storages) - 1]
    kind = Raw(f"ctorch\n{STORAGES[view.storage.dtype]}\n".encode())
    identity = ("storage", kind, str(keys[0]), "cpu", len(view.storage))
    hooks = Raw(b"ccollections\nOrderedDict\n)R")
    storage = Raw(_code(identity, storages) + b"Q")
    args = (storage, view.offset, view.shape, view.strides, False, hooks)
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + _code(args, storages) + b"R"
