"""Maps the tensors of a checkpoint to a family's weights. Every weight has its tensors, every
tensor is used or known not to be a weight, and shapes are checked before memory is allocated.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from types import ModuleType
from typing import NamedTuple

import ml_dtypes
import numpy as np

from gentool.checkpoints import TensorSource
from gentool.checkpoints.maps import forget
from gentool.config.model import Arch
from gentool.errors import ModelError
from gentool.models import column_blocks as layout
from gentool.models import quantized
from gentool.models.names import LM_HEAD, VALUE_HEAD, TensorRef, choose, foreign, own
from gentool.models.quantized import Quantized, unpacked
from gentool.models.transformer import Params
from gentool.runtimes.ops import Tensor

logger = logging.getLogger(__name__)
FLOATS = {np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)}
FIT_HINT = "family and arch, of the YAML or config.json, must fit the weights"
TIED_HINT = "if the head is the embedding, say so: --set arch.tied_head=true"
COMPARED_ROWS = 4096  # at a time


class Weight(NamedTuple):
    """The tensors of a weight, to be concatenated along their outputs, `transposed` if they are
    stored [in, out]; the weight's shape, and its dtype in the file."""

    names: tuple[str, ...]
    transposed: bool
    shape: tuple[int, ...]
    dtype: np.dtype


def plan(source: TensorSource, family: ModuleType, arch: Arch) -> dict[str, Weight]:
    """All weights by our names, those of layer i beginning with layers.i. ModelError if a tensor is
    missing, has a wrong shape or no float dtype, or if an unknown tensor is left over."""
    top = family.top_tensors(arch)
    layers = [family.layer_tensors(arch, index) for index in range(arch.n_layer)]
    inner = {name for layer in layers for name in layer}
    if found := foreign(source.shapes):
        name, what, hint = found
        raise ModelError(f"tensor {name} is {what}", hint)
    dialect = choose({"gentool": own(top, inner)} | family.DIALECTS, source.shapes)
    if dialect is None:
        first_names = ", ".join(sorted(source.shapes)[:3])
        raise ModelError(
            f"no tensor is the embedding of a known dialect (found: {first_names} …)", FIT_HINT
        )
    planned = {name: _weight(source, dialect.top[name], 0, shape) for name, shape in top.items()}
    for i, layer in enumerate(layers):
        for name, shape in layer.items():
            planned[f"layers.{i}.{name}"] = _weight(source, dialect.layer[name], i, shape)
    used = {name for weight in planned.values() for name in weight.names}
    unknown = sorted(n for n in source.shapes.keys() - used if not re.search(dialect.ignored, n))
    if values := [name for name in unknown if VALUE_HEAD.match(name)]:
        logger.warning("%s is the value head of trl, which computes no text: left out", values[-1])
        unknown = [name for name in unknown if name not in values]
    if unknown:
        raise ModelError(
            f"tensor {unknown[0]} is no weight of the family ({len(unknown)} unknown)", FIT_HINT
        )
    return planned


def _weight(source: TensorSource, ref: TensorRef, index: int, shape: tuple[int, ...]) -> Weight:
    """The weight of this shape from its tensors in layer `index`, checked."""
    names = tuple(template.format(i=index) for template in ref.names)
    part_shapes = []
    for name in names:
        if name not in source.shapes:
            is_head = name in ("head", LM_HEAD)
            raise ModelError(f"tensor {name} is missing", TIED_HINT if is_head else FIT_HINT)
        if source.dtypes[name] in quantized.STORED and name + quantized.SCALES in source.shapes:
            return _quantized(source, name, shape)
        if source.dtypes[name] not in FLOATS:
            raise ModelError(
                f"tensor {name} has dtype {source.dtypes[name]}",
                "quantised weights are not supported: use float16, bfloat16 or float32 weights",
            )
        part = source.shapes[name][::-1] if ref.transposed else source.shapes[name]
        if len(part) == 3 and 1 < part[0] == layout.column_block_count(part[0] * part[2]):
            part = (part[1], part[0] * part[2])
        part_shapes.append(part)
    concatenated = (sum(part[0] for part in part_shapes if part), *part_shapes[0][1:])
    if concatenated != shape or any(part[1:] != shape[1:] for part in part_shapes):
        actual = " and ".join(str(list(source.shapes[name])) for name in names)
        expected = list(shape[::-1] if ref.transposed else shape)
        raise ModelError(f"tensor {', '.join(names)} has shape {actual}, not {expected}", FIT_HINT)
    dtype = np.result_type(*(source.dtypes[name] for name in names))
    return Weight(names, ref.transposed, shape, dtype)


def _quantized(source: TensorSource, name: str, shape: tuple[int, ...]) -> Weight:
    """The quantised weight of this shape, checked."""
    scales, dtype = name + quantized.SCALES, quantized.STORED[source.dtypes[name]]
    scale_dtype = np.float32 if dtype == quantized.INT8 else np.float16
    blocks = len(shape) == 2 and (dtype == quantized.INT8 or shape[1] % quantized.BLOCK == 0)
    actual = source.shapes[name], source.shapes[scales]
    expected = quantized.shapes(shape, dtype) if blocks else None
    if actual != expected or source.dtypes[scales] != scale_dtype:
        raise ModelError(
            f"tensor {name} and its scales have shapes {list(actual[0])} and {list(actual[1])},"
            f" which are not {dtype} of {list(shape)}",
            FIT_HINT,
        )
    return Weight((name, scales), False, shape, dtype)


def check_head(source: TensorSource, plan: Mapping[str, Weight]) -> None:
    """Compares a stored head with the embedding that is used instead of it; reads both.

    Raises:
        ModelError: they differ.
    """
    names = [name for weight in plan.values() for name in weight.names]
    if LM_HEAD not in source.shapes or LM_HEAD in names:
        return
    head, embedding = source.read(LM_HEAD), source.read(plan["embedding"].names[0])
    same = head.shape == embedding.shape
    for first in range(0, len(head), COMPARED_ROWS):
        rows = slice(first, first + COMPARED_ROWS)
        same = same and bool((head[rows] == embedding[rows]).all())
    forget(head)
    if not same:
        raise ModelError(
            f"tensor {LM_HEAD} is not the embedding, to which the head is tied",
            "to use it: --set arch.tied_head=false, where the family has that; else remove it",
        )


def read(source: TensorSource, weight: Weight) -> np.ndarray | Quantized:
    """Reads a weight, a matrix as [out, in]; a view of the file where possible."""
    if weight.dtype in (quantized.INT8, quantized.INT4):
        values, scales = map(source.read, weight.names)
        if not (np.isfinite(scales).all() and (scales > 0).all()):
            raise ModelError(f"tensor {weight.names[1]} holds no positive scales", FIT_HINT)
        return Quantized(values if weight.dtype == quantized.INT8 else unpacked(values), scales)
    arrays = list(map(layout.unblocked, parts(source, weight)))
    return np.concatenate(arrays) if arrays[1:] else arrays[0]


def parts(source: TensorSource, weight: Weight) -> list[np.ndarray]:
    """Reads the tensors of a weight, matrices as [out, in] or in column blocks."""
    arrays = map(source.read, weight.names)
    return [array.T if weight.transposed else array for array in arrays]


def nested(weights: Mapping[str, Tensor], n_layer: int) -> Params:
    """Params of weights by our flat names."""
    params = Params({}, tuple({} for _ in range(n_layer)))
    for name, value in weights.items():
        if name.startswith("layers."):
            _, index, inner = name.split(".")
            params.layers[int(index)][inner] = value
        else:
            params.top[name] = value
    return params
