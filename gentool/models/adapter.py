"""Adapters of low rank (LoRA, Hu et al. 2021; DoRA, Liu et al. 2024): changes of a model's weights,
which are merged into them when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from gentool.checkpoints import TensorSource
from gentool.config.adapter import MERGE_HINT
from gentool.config.model import Arch
from gentool.errors import ModelError, UsageError
from gentool.models import quantized, weights
from gentool.models.weights import Weight

BLOCK_ELEMENTS = 1 << 22  # of a weight, that are merged at a time


class LowRank(NamedTuple):
    """scale * B A, which is added to the rows from `start` on of a weight [out, in]. With a
    `magnitude` (DoRA) each row of the sum is scaled to that length."""

    a: np.ndarray  # float32 [r, in]
    b: np.ndarray  # float32 [rows, r]
    scale: float  # alpha / r
    start: int = 0
    magnitude: np.ndarray | None = None  # float32 [rows]


class Replaced(NamedTuple):
    """Values instead of the rows from `start` on of a weight."""

    values: np.ndarray  # float32 [rows, ...]
    start: int = 0


@dataclass(frozen=True)
class Adapter:
    """The changes of weights, by our names of them ("layers.0.qkv"), in the order in which they are
    made; the files that it was read from."""

    changes: Mapping[str, tuple[LowRank | Replaced, ...]]
    files: tuple[Path, ...] = ()


class AdaptedSource:
    """A checkpoint with adapters: a changed weight is one more tensor, float32 [out, in]."""

    def __init__(
        self, source: TensorSource, plan: Mapping[str, Weight], adapters: Sequence[Adapter]
    ) -> None:
        self._source = source
        self._changed = {
            tensor_name(name): (
                plan[name],
                [a.changes[name] for a in adapters if name in a.changes],
            )
            for name in plan
            if any(name in adapter.changes for adapter in adapters)
        }
        self.files = [*source.files, *(path for adapter in adapters for path in adapter.files)]
        shapes = {name: weight.shape for name, (weight, _) in self._changed.items()}
        dtypes = dict.fromkeys(self._changed, np.dtype(np.float32))
        self.shapes, self.dtypes = source.shapes | shapes, source.dtypes | dtypes

    def read(self, name: str) -> np.ndarray:
        """A tensor of the checkpoint, or a weight with its changes."""
        if name not in self._changed:
            return self._source.read(name)
        weight, changes = self._changed[name]
        array = np.array(weights.read(self._source, weight), np.float32)  # a copy
        with np.errstate(all="ignore"):  # numbers that are not finite are found in the logits
            for change in (change for adapter in changes for change in adapter):
                _apply(change, array)
        return array


def tensor_name(name: str) -> str:
    """The name of the tensor of a changed weight."""
    return f"{name} with adapter"


def adapted(
    source: TensorSource,
    plan: Mapping[str, Weight],
    family: ModuleType,
    arch: Arch,
    adapters: Sequence[Adapter],
) -> tuple[TensorSource, dict[str, Weight], Arch]:
    """The checkpoint, plan and numbers of a model with adapters, which fit it. Dtypes in the plan
    stay those of the checkpoint. A tied head is untied where an adapter changes the embedding or
    the head, because a change of one was trained without the other.

    Raises:
        ModelError: the family has no untied head.
        UsageError: the weights are quantised.
    """
    changed = {name for adapter in adapters for name in adapter.changes}
    if any(weight.dtype in (quantized.INT8, quantized.INT4) for weight in plan.values()):
        raise UsageError(
            f"{source.files[0]} is quantised, an adapter is merged into floats",
            "open the weights that it was made of",
        )
    plan = dict(plan)
    if arch.tied_head and changed & {"embedding", "head"}:
        arch = arch.model_copy(update={"tied_head": False})
        if "head" not in family.top_tensors(arch):
            files = [a.files[-1] for a in adapters if a.files and "embedding" in a.changes]
            where = files[0] if files else "an adapter"
            raise ModelError(f"{where} changes the embedding, which is the head, too", MERGE_HINT)
        plan["head"] = plan["embedding"]
    merged = AdaptedSource(source, plan, adapters)
    for name in changed:
        plan[name] = plan[name]._replace(names=(tensor_name(name),), transposed=False)
    return merged, plan, arch


def _apply(change: LowRank | Replaced, array: np.ndarray) -> None:
    """Makes a change in place of a weight, float32 [out, ...]."""
    if isinstance(change, Replaced):
        array[change.start : change.start + len(change.values)] = change.values
        return
    step = max(1, BLOCK_ELEMENTS // array.shape[1])
    for first in range(0, len(change.b), step):
        b = change.b[first : first + step]
        rows = array[change.start + first :][: len(b)]
        rows += change.scale * (b @ change.a)
        if change.magnitude is not None:
            lengths = np.sqrt(np.square(rows).sum(axis=1))
            rows *= (change.magnitude[first : first + step] / lengths)[:, None]
