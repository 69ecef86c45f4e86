"""Checkpoint directories of Megatron and DeepSpeed, the form CPM-LM was published in: a file that
names an iteration, and one file of torch.save for each rank of model parallelism. The ranks' slices
are joined when a tensor is read."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from gentool.checkpoints import torch_file
from gentool.checkpoints.maps import forget
from gentool.checkpoints.torch_file import TorchFile
from gentool.errors import ModelError

logger = logging.getLogger(__name__)
TRACKER = "latest_checkpointed_iteration.txt"

Join = Literal["same", "rows", "columns", "thirds"]

# how each tensor lies on the ranks. "thirds": every rank holds its own heads' queries, then keys,
# then values, so the whole is all first thirds, then all second, then all last
_JOINS: Mapping[str, Join] = MappingProxyType(
    {
        "word_embeddings.weight": "rows",
        "position_embeddings.weight": "same",
        "input_layernorm.weight": "same",
        "input_layernorm.bias": "same",
        "attention.query_key_value.weight": "thirds",
        "attention.query_key_value.bias": "thirds",
        "attention.dense.weight": "columns",
        "attention.dense.bias": "same",
        "post_attention_layernorm.weight": "same",
        "post_attention_layernorm.bias": "same",
        "mlp.dense_h_to_4h.weight": "rows",
        "mlp.dense_h_to_4h.bias": "rows",
        "mlp.dense_4h_to_h.weight": "columns",
        "mlp.dense_4h_to_h.bias": "same",
        "transformer.final_layernorm.weight": "same",
        "transformer.final_layernorm.bias": "same",
    }
)

_LAYER = re.compile(r"transformer\.layers\.[0-9]+\.")
_RANK = re.compile(r"mp_rank_([0-9]{2,4})_model_states\.pt")
_COMPLETE = "restore the directory from its source, with the files of all ranks"


class MegatronFolder:
    def __init__(self, folder: Path, ranks: tuple[TorchFile, ...]) -> None:
        self._folder, self._ranks = folder, ranks
        self.files = [folder / TRACKER, *(path for rank in ranks for path in rank.files)]
        self._joins = {name: _join(folder, name, shape) for name, shape in ranks[0].shapes.items()}
        self.shapes = {
            name: _joined_shape(self._joins[name], shape, len(ranks))
            for name, shape in ranks[0].shapes.items()
        }
        self.dtypes = ranks[0].dtypes

    def read(self, name: str) -> np.ndarray:
        if name not in self.shapes:
            raise ModelError(f"{self._folder} holds no tensor {name}", _COMPLETE)
        join = self._joins[name]
        if join == "same" or len(self._ranks) == 1:
            return self._ranks[0].read(name)
        parts = [rank.read(name) for rank in self._ranks]
        joined = _joined(join, parts).reshape(self.shapes[name])
        for part in parts:
            forget(part)
        return joined

    def compare_copies(self) -> None:
        """Warns of the first tensor that all ranks should hold alike, and do not."""
        for name, join in self._joins.items():
            for rank in self._ranks[1:] if join == "same" else ():
                if not np.array_equal(self._ranks[0].read(name), rank.read(name)):
                    other, first = rank.files[0], self._ranks[0].files[0]
                    logger.warning("%s: %s is not that of %s, which is used", other, name, first)
                    return


def _joined(join: Join, parts: list[np.ndarray]) -> np.ndarray:
    if join == "thirds":
        split = [part.reshape(3, -1, *part.shape[1:]) for part in parts]
        return np.concatenate(split, axis=1)
    return np.concatenate(parts, axis=1 if join == "columns" else 0)


def load(folder: Path) -> MegatronFolder:
    paths = _rank_files(_iteration(folder))
    ranks = tuple(torch_file.load(path, under="module") for path in paths)
    _check_ranks(paths, ranks)
    source = MegatronFolder(folder, ranks)
    _check_whole(folder, source.shapes, len(ranks))
    source.compare_copies()
    return source


def _iteration(folder: Path) -> Path:
    """The folder of the files, which the tracker names by a plain number or the word release."""
    tracker = folder / TRACKER
    try:
        with tracker.open("rb") as file:
            word = file.read(100).strip()
    except OSError as e:
        raise ModelError(f"cannot read {tracker}: {e.strerror or e}", _COMPLETE) from None
    if word == b"release":
        return folder / "release"
    if not re.fullmatch(rb"[0-9]{1,18}", word):
        raise ModelError(f"{tracker} names no iteration: {word[:20]!r}", "it holds one number")
    return folder / str(int(word))


def _rank_files(folder: Path) -> list[Path]:
    try:
        found = {int(m[1]): p for p in folder.iterdir() if (m := _RANK.fullmatch(p.name))}
    except OSError as e:
        raise ModelError(f"cannot read {folder}: {e.strerror or e}", _COMPLETE) from None
    count = max(found, default=0) + 1
    paths = [folder / f"mp_rank_{rank:02}_model_states.pt" for rank in range(count)]
    for rank, path in enumerate(paths):
        if found.get(rank) != path:
            raise ModelError(f"{path} is missing", _COMPLETE)
    return paths


def _join(folder: Path, name: str, shape: tuple[int, ...]) -> Join:
    join = _JOINS.get(_LAYER.sub("", name, count=1))
    if join is None:
        raise ModelError(
            f"{folder} holds {name[:200]!r}, which is no tensor of CPM-LM's architecture",
            "other Megatron models have other layouts; convert to a Hugging Face folder",
        )
    wide = 2 if name.endswith(".weight") and "layernorm" not in name else 1
    if len(shape) != wide or (join == "thirds" and shape[0] % 3):
        raise ModelError(f"{folder}: {name} has the odd shape {shape}", _COMPLETE)
    return join


def _joined_shape(join: Join, shape: tuple[int, ...], ranks: int) -> tuple[int, ...]:
    if join == "same":
        return shape
    axis = 1 if join == "columns" else 0
    return (*shape[:axis], shape[axis] * ranks, *shape[axis + 1 :])


def _check_ranks(paths: list[Path], ranks: tuple[TorchFile, ...]) -> None:
    first = ranks[0]
    for path, rank in zip(paths, ranks, strict=True):
        if not rank.shapes:
            raise ModelError(f"{path} holds no tensors under the key 'module'", _COMPLETE)
        for name in sorted(first.shapes.keys() ^ rank.shapes.keys()):
            lacking = path if name in first.shapes else paths[0]
            raise ModelError(f"{lacking} holds no tensor {name}", _COMPLETE)
        for name, shape in rank.shapes.items():
            if (shape, rank.dtypes[name]) != (first.shapes[name], first.dtypes[name]):
                raise ModelError(
                    f"{path}: {name} is {rank.dtypes[name]} {shape}, "
                    f"but {first.dtypes[name]} {first.shapes[name]} on rank 0",
                    _COMPLETE,
                )


def _check_whole(folder: Path, shapes: Mapping[str, tuple[int, ...]], ranks: int) -> None:
    """The last ranks' files can be missing without a gap in the numbers; the width tells."""
    for name, shape in shapes.items():
        if name.endswith("attention.dense.weight") and shape[0] != shape[1]:
            raise ModelError(
                f"{folder}: {name} is {shape} when {ranks} ranks are joined, not square",
                "files of ranks are missing, or they are from different splits",
            )
