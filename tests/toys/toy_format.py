"""A toy format of weights: numpy's own archive of arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class Archive:
    def __init__(self, path: Path) -> None:
        self.files = [path]
        self._arrays = dict(np.load(path))
        self.shapes = {name: array.shape for name, array in self._arrays.items()}
        self.dtypes = {name: array.dtype for name, array in self._arrays.items()}

    def read(self, name: str) -> np.ndarray:
        return self._arrays[name]


def load(path: Path) -> Archive:
    return Archive(path)
