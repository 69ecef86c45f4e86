"""Files of weights as named arrays. A reader knows bytes and names, no model; which reader a path
gets is decided by its files."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from gentool.errors import ModelError

READERS = {"safetensors": "gentool.checkpoints.safetensors"}


class TensorSource(Protocol):
    """Named tensors; shapes are known before any memory is taken."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]: ...

    def read(self, name: str) -> np.ndarray: ...


def open_checkpoint(path: Path) -> TensorSource:
    """The tensors of a weights file."""
    if path.suffix != ".safetensors":
        raise ModelError(
            f"{path} is in no known format", f"known formats: {', '.join(sorted(READERS))}"
        )
    source: TensorSource = import_module(READERS["safetensors"]).load(path)
    return source
