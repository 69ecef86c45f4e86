"""Checkpoints in several files under an index of which file each tensor is in: Hugging Face's
model.safetensors.index.json and pytorch_model.bin.index.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from gentool.checkpoints import TensorSource, open_checkpoint
from gentool.errors import ModelError

_LARGEST = 1 << 26  # bytes of an index; one of 10 000 tensors has some 2^20
_RESTORE = "restore the file from its source"


class Shards:
    def __init__(self, index: Path, files: dict[str, TensorSource]) -> None:
        self._files = files  # by tensor
        self.files = [index, *sorted({path for file in files.values() for path in file.files})]
        self.shapes = {name: file.shapes[name] for name, file in files.items()}
        self.dtypes = {name: file.dtypes[name] for name, file in files.items()}

    def read(self, name: str) -> np.ndarray:
        return self._files[name].read(name)


def load(path: Path) -> Shards:
    """From the index; what lies in the files and is not in the index is not there."""
    try:
        size = path.stat().st_size
        if not path.is_file() or size > _LARGEST:
            raise ModelError(f"{path} is no index of weights files, of {size} bytes", _RESTORE)
        places = json.loads(path.read_text("utf-8"))["weight_map"]
        names = sorted(set(places.values()))
        outside = [name for name in names if not _beside(name)]
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", _RESTORE) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ModelError(f"{path} is not an index of weights files", _RESTORE) from None
    if outside:
        raise ModelError(f"{path}: {outside[0]!r} is no file of the model's folder", _RESTORE)
    format = "safetensors" if path.name.endswith(".safetensors.index.json") else "torch"
    files = {name: open_checkpoint(path.parent / name, format) for name in names}
    for tensor, name in places.items():
        if tensor not in files[name].shapes:
            raise ModelError(f"{path}: {name} has no tensor {tensor}", _RESTORE)
    return Shards(path, {tensor: files[name] for tensor, name in places.items()})


def _beside(name: str) -> bool:
    """Whether this can be the name of a file in the same folder."""
    return name == Path(name).name and name not in ("", "..") and name.isprintable()
