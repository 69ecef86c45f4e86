"""Safetensors files, through their own library: a header of names, types, shapes and offsets, then
the bytes. The library checks sizes and overlaps before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from gentool.errors import ModelError


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
            raise ModelError(f"{self._path}: cannot read {name}: {e}", _RESTORE) from None
        return array


_RESTORE = "restore the file from its source"


def load(path: Path) -> SafetensorsFile:
    try:
        return SafetensorsFile(path)
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror or e}", _RESTORE) from None
    except SafetensorError as e:
        raise ModelError(f"{path} is not a whole safetensors file: {e}", _RESTORE) from None
