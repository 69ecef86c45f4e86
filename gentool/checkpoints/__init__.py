"""Files of weights as named arrays. A reader knows bytes and names, no model; which reader a path
gets is decided by its files."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from gentool.errors import ModelError

# the end of a file's name -> its reader
READERS = {
    ".safetensors": "gentool.checkpoints.safetensors",
    ".safetensors.index.json": "gentool.checkpoints.safetensors",
}


class TensorSource(Protocol):
    """Named tensors; shapes are known before any memory is taken."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]: ...

    def read(self, name: str) -> np.ndarray: ...


def open_checkpoint(path: Path) -> TensorSource:
    """The tensors of a weights file."""
    for end, module in READERS.items():
        if path.name.endswith(end):
            source: TensorSource = import_module(module).load(path)
            return source
    raise ModelError(f"{path} is in no known format", f"known: {', '.join(sorted(READERS))}")
