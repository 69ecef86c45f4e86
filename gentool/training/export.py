"""A trained model as a folder that opens: weights, tokenizer, and the YAML last."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from gentool import registry
from gentool.checkpoints import safetensors
from gentool.checkpoints.safetensors import Tensors
from gentool.config.lookup import FOLDER_FILE
from gentool.config.model import ModelConfig
from gentool.errors import GentoolError
from gentool.models import column_blocks
from gentool.training import run_folder

WEIGHTS = "model.safetensors"


def write_model(
    model: ModelConfig,
    tensors: Tensors,
    read: Callable[[str], np.ndarray],
    files: Mapping[str, Path],
) -> None:
    """Writes a model to its folder: weights of these dtypes and shapes by our names, each read
    when it is written, and copies of other files by their paths in the folder."""
    run_folder.make_folder(model.folder)
    run_folder.write(model.folder / WEIGHTS, partial(_write_weights, tensors, read))
    for name, path in files.items():
        run_folder.make_folder((model.folder / name).parent)
        run_folder.write(model.folder / name, partial(shutil.copyfile, path))
    text = registry.text(registry.with_sums(model))
    run_folder.write(model.folder / FOLDER_FILE, lambda path: path.write_text(text, "utf-8"))


def _write_weights(tensors: Tensors, read: Callable[[str], np.ndarray], path: Path) -> None:
    stored = {
        name: (dtype, column_blocks.stored_shape(name, shape, dtype))
        for name, (dtype, shape) in tensors.items()
    }

    def cast(name: str) -> np.ndarray:
        dtype, shape = stored[name]
        with np.errstate(over="ignore"):
            array = read(name).astype(dtype)
        if not np.isfinite(array).all():
            raise GentoolError(
                f"{name} has numbers that are too large for {dtype}, in which {path.parent} stores",
                "lower the learning rate, and give another folder",
            )
        return column_blocks.blocked(array, shape)

    with path.open("wb") as file:
        for _ in safetensors.write(file, stored, cast):
            pass
