"""A trained model as a folder that opens: weights, tokenizer, and the YAML last."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from gentool import registry
from gentool.checkpoints import safetensors
from gentool.config.lookup import FOLDER_FILE
from gentool.config.model import ModelConfig
from gentool.errors import GentoolError
from gentool.models import column_blocks
from gentool.training import run_folder

WEIGHTS = "model.safetensors"


def write_model(
    model: ModelConfig,
    weights: Mapping[str, Callable[[], np.ndarray]],
    dtypes: Mapping[str, np.dtype],
    tokenizer_files: Sequence[Path],
) -> None:
    """Writes a model to its folder: weights by our names, each read when it is written, in their
    dtypes."""
    run_folder.make_folder(model.folder)
    run_folder.write(model.folder / WEIGHTS, partial(_write_weights, weights, dtypes))
    for path in tokenizer_files:
        run_folder.write(model.folder / path.name, partial(shutil.copyfile, path))
    text = registry.text(registry.with_sums(model))
    run_folder.write(model.folder / FOLDER_FILE, lambda path: path.write_text(text, "utf-8"))


def _write_weights(
    weights: Mapping[str, Callable[[], np.ndarray]], dtypes: Mapping[str, np.dtype], path: Path
) -> None:
    shapes = {name: read().shape for name, read in weights.items()}
    tensors = {
        name: (dtype, column_blocks.stored_shape(name, shapes[name], dtype))
        for name, dtype in dtypes.items()
    }

    def read(name: str) -> np.ndarray:
        dtype, shape = tensors[name]
        with np.errstate(over="ignore"):
            array = weights[name]().astype(dtype)
        if not np.isfinite(array).all():
            raise GentoolError(
                f"{name} has numbers that are too large for {dtype}, in which {path.parent} stores",
                "lower the learning rate, and give another folder",
            )
        return column_blocks.blocked(array, shape)

    with path.open("wb") as file:
        for _ in safetensors.write(file, tensors, read):
            pass
