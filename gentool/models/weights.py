"""A checkpoint's arrays to a family's Params: every parameter is filled, every tensor used or known
to be no weight, every shape checked before memory is taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import ModuleType
from typing import NamedTuple

import ml_dtypes
import numpy as np

from gentool.checkpoints import TensorSource
from gentool.config.model import Arch
from gentool.errors import ModelError
from gentool.models import column_blocks as layout
from gentool.models.names import TensorRef, choose, own
from gentool.models.transformer import Params
from gentool.runtimes.ops import Tensor

FLOATS = {np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)}
FIT = "the YAML's family and arch must fit the weights"


class Weight(NamedTuple):
    """The tensors a weight is made of, concatenated along their outputs, `transposed` if they are
    stored [in, out]; its shape and, in the file, its dtype."""

    names: tuple[str, ...]
    transposed: bool
    shape: tuple[int, ...]
    dtype: np.dtype


def plan(source: TensorSource, family: ModuleType, arch: Arch) -> dict[str, Weight]:
    """Every weight by our name, those of layer i beginning with layers.i.: all tensors are there,
    of the right shape and of floats, and none is left over that is not known."""
    top = family.top_tensors(arch)
    layers = [family.layer_tensors(arch, index) for index in range(arch.n_layer)]
    inner = {name for layer in layers for name in layer}
    dialect = choose({"gentool": own(top, inner)} | family.DIALECTS, source.shapes)
    if dialect is None:
        some = ", ".join(sorted(source.shapes)[:3])
        raise ModelError(f"no tensor is the embedding of a known dialect (found: {some} …)", FIT)
    found = {name: _weight(source, dialect.top[name], 0, shape) for name, shape in top.items()}
    for i, layer in enumerate(layers):
        for name, shape in layer.items():
            found[f"layers.{i}.{name}"] = _weight(source, dialect.layer[name], i, shape)
    used = {name for weight in found.values() for name in weight.names}
    left_over = sorted(n for n in source.shapes.keys() - used if not re.search(dialect.ignored, n))
    if left_over:
        raise ModelError(f"tensor {left_over[0]} belongs nowhere ({len(left_over)} left over)", FIT)
    return found


def _weight(source: TensorSource, take: TensorRef, index: int, shape: tuple[int, ...]) -> Weight:
    """A weight of this shape from its tensors in layer `index`."""
    names = tuple(template.format(i=index) for template in take.names)
    parts = []
    for name in names:
        if name not in source.shapes:
            raise ModelError(f"tensor {name} is missing", FIT)
        if source.dtypes[name] not in FLOATS:
            raise ModelError(
                f"tensor {name} holds {source.dtypes[name]}",
                "quantised weights are not read: get those in float16, bfloat16 or float32",
            )
        part = source.shapes[name][::-1] if take.transposed else source.shapes[name]
        if len(part) == 3 and 1 < part[0] == layout.column_block_count(part[0] * part[2]):
            part = (part[1], part[0] * part[2])
        parts.append(part)
    joined = (sum(part[0] for part in parts if part), *parts[0][1:])
    if joined != shape or any(part[1:] != shape[1:] for part in parts):
        found = " and ".join(str(list(source.shapes[name])) for name in names)
        wanted = list(shape[::-1] if take.transposed else shape)
        raise ModelError(f"tensor {', '.join(names)} has shape {found}, not {wanted}", FIT)
    dtype = np.result_type(*(source.dtypes[name] for name in names))
    return Weight(names, take.transposed, shape, dtype)


def read(source: TensorSource, weight: Weight) -> np.ndarray:
    """A weight's array, products [out, in]; a view of the file where it can be one."""
    arrays = list(map(layout.unblocked, parts(source, weight)))
    return np.concatenate(arrays) if arrays[1:] else arrays[0]


def parts(source: TensorSource, weight: Weight) -> list[np.ndarray]:
    arrays = map(source.read, weight.names)
    return [array.T if weight.transposed else array for array in arrays]


def nested(weights: Mapping[str, Tensor], n_layer: int) -> Params:
    """Weights by our flat names as Params."""
    params = Params({}, tuple({} for _ in range(n_layer)))
    for name, value in weights.items():
        if name.startswith("layers."):
            _, index, inner = name.split(".")
            params.layers[int(index)][inner] = value
        else:
            params.top[name] = value
    return params
