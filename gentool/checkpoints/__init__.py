"""Files of weights as named arrays. A reader knows bytes and names, no model; which reader a path
gets is decided by its files, or by `format:` in the model's YAML.

To add a format: a row of FORMATS, and its module with `load(path) -> TensorSource`.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gentool.errors import ModelError, nearest

if TYPE_CHECKING:
    import numpy as np


class Format(NamedTuple):
    """A format of weights: its module in this folder, and how the names of its files end."""

    module: str
    endings: tuple[str, ...]


# A path has the first of these formats one of whose endings it has.
FORMATS = {
    "safetensors": Format("safetensors", (".safetensors",)),
    "shards": Format("shards", (".safetensors.index.json", ".bin.index.json")),
    "megatron": Format("megatron", ("latest_checkpointed_iteration.txt",)),
    "tensorflow": Format("tf_bundle", (".index",)),
    "torch": Format("torch_file", (".bin", ".pt", ".pth")),
}
# the first of these that is in a folder is its checkpoint
WHOLE = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


# the first bytes of files that are no weights which are read -> what they are, what to do
UNREAD = {
    b"version https://git-lfs": ("a Git LFS pointer, not the file", "run: git lfs pull"),
    b"GGUF": ("a GGUF file, which is not read", "get the model as safetensors"),
}


class TensorSource(Protocol):
    """Named tensors, and the files they are in; shapes and types are known before any memory is
    taken. What `read` gives may be a map of the file, private to this process."""

    @property
    def files(self) -> list[Path]: ...

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]: ...

    @property
    def dtypes(self) -> dict[str, np.dtype]: ...

    def read(self, name: str) -> np.ndarray: ...


def open_checkpoint(path: Path, format: str | None = None) -> TensorSource:
    """The tensors of a weights file, or of a folder that is one checkpoint."""
    if os.path.isdir(path):  # which is no error where a name is too long
        path = next((path / name for name in WHOLE if (path / name).is_file()), path)
    if os.path.isfile(path):
        format = _by_content(path, format or recognized(path))
    format = format or recognized(path)
    if format not in FORMATS:
        endings = [end for known in FORMATS.values() for end in known.endings]
        raise ModelError(
            f"{path} is in {f'format {format}' if format else 'no known format'}",
            nearest(format, FORMATS, "formats") if format else f"known: {', '.join(endings)}",
        )
    module = import_module(f"gentool.checkpoints.{FORMATS[format].module}")
    source: TensorSource = module.load(path)
    return source


def _by_content(path: Path, format: str | None) -> str | None:
    """The format of a file: what its first bytes say where they contradict its name.

    Raises:
        ModelError: the file is known, but not read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return format  # the reader reports it
    for begin, (what, hint) in UNREAD.items():
        if start.startswith(begin):
            raise ModelError(f"{path} is {what}", hint)
    # a header of 640 bytes begins as a pickle does: b"\x80\2"
    is_header = start[8:9] == b"{" and start[4:8] == bytes(4)
    if format == "safetensors" and not is_header and start.startswith((b"PK\3\4", b"\x80\2")):
        return "torch"
    return "safetensors" if format == "torch" and is_header else format


def recognized(path: Path) -> str | None:
    """The format of a file by its name, of a folder by the file in it that has one."""
    names = sorted(inner.name for inner in path.iterdir()) if path.is_dir() else [path.name]
    for format, (_, endings) in FORMATS.items():
        if any(name.endswith(endings) for name in names):
            return format
    return None
