"""Safetensors files, through their own library: a header of names, types, shapes and offsets, then
the bytes. The library checks sizes and overlaps before anything is read. Several shards stand
together under an index of which file each tensor is in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from gentool.errors import ModelError

RESTORE = "restore the file from its source"


class SafetensorsFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        open_untyped: Any = safe_open
        self._file = open_untyped(path, "numpy")
        self.shapes = {
            name: tuple(self._file.get_slice(name).get_shape()) for name in self._file.keys()
        }

    def read(self, name: str) -> np.ndarray:
        try:
            array: np.ndarray = self._file.get_tensor(name)
        except (SafetensorError, TypeError, AttributeError) as e:
            raise ModelError(f"{self._path}: cannot read {name}: {e}", RESTORE) from None
        return array


class Shards:
    """The tensors an index names, each read from its own file."""

    def __init__(self, files: dict[str, SafetensorsFile]) -> None:
        self._files = files  # by tensor
        self.shapes = {name: file.shapes[name] for name, file in files.items()}

    def read(self, name: str) -> np.ndarray:
        return self._files[name].read(name)


def load(path: Path) -> SafetensorsFile | Shards:
    """A .safetensors file, or the .safetensors.index.json of several in its folder."""
    return _load_shards(path) if path.suffix == ".json" else _load_file(path)


def _load_file(path: Path) -> SafetensorsFile:
    try:
        return SafetensorsFile(path)
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror or e}", RESTORE) from None
    except SafetensorError as e:
        raise ModelError(f"{path} is not a whole safetensors file: {e}", RESTORE) from None


def _load_shards(path: Path) -> Shards:
    try:
        places = json.loads(path.read_text("utf-8"))["weight_map"]
        names = sorted(set(places.values()))
        outside = [name for name in names if name != Path(name).name]
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", RESTORE) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ModelError(f"{path} is not an index of safetensors files", RESTORE) from None
    if outside:
        raise ModelError(f"{path}: {outside[0]} leaves the model's folder", RESTORE)
    files = {name: _load_file(path.parent / name) for name in names}
    for tensor, name in places.items():
        if tensor not in files[name].shapes:
            raise ModelError(f"{path}: {name} has no tensor {tensor}", RESTORE)
    return Shards({tensor: files[name] for tensor, name in places.items()})
