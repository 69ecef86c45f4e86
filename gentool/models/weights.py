"""A checkpoint's arrays to a family's Params: every parameter is filled, every tensor used or known
to be no weight, every shape checked before memory is taken."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import tensorflow as tf

from gentool.checkpoints import TensorSource
from gentool.checkpoints.maps import forget
from gentool.config.model import Arch
from gentool.errors import ModelError
from gentool.models.names import Take, choose, own
from gentool.models.transformer import Params
from gentool.runtimes.xla import ops as layers
from gentool.runtimes.xla.ops import Tensor

FLOATS = {np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)}
ALIGNED = 64  # bytes, which TensorFlow wants
PIECE = 1 << 22  # elements cast at a time
FIT = "the YAML's family and arch must fit the weights"


class Weight(NamedTuple):
    """The tensors a weight is made of, laid one after another along their outputs and `turned` if
    they are stored [in, out]; its shape and, in the file, its type."""

    names: tuple[str, ...]
    turned: bool
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


def stored(name: str, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...]:
    """The shape a weight of this type is kept in: products of many inputs of a layer, in 16 bits,
    in slabs."""
    if dtype.itemsize > 2 or len(shape) != 2 or not name.startswith("layers."):
        return shape
    count = layers.slab_count(shape[1])
    return shape if count == 1 else (count, shape[0], shape[1] // count)


def slabbed(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A weight [out, in] in this shape, which is its own or that of its slabs."""
    return array if array.shape == shape else array.reshape(shape[1], shape[0], -1).swapaxes(0, 1)


def _whole(array: np.ndarray) -> np.ndarray:
    """A weight, if it is in slabs, as [out, in]."""
    return array.swapaxes(0, 1).reshape(array.shape[1], -1) if array.ndim == 3 else array


def _weight(source: TensorSource, take: Take, index: int, shape: tuple[int, ...]) -> Weight:
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
        part = source.shapes[name][::-1] if take.turned else source.shapes[name]
        if len(part) == 3 and 1 < part[0] == layers.slab_count(part[0] * part[2]):
            part = (part[1], part[0] * part[2])
        parts.append(part)
    joined = (sum(part[0] for part in parts if part), *parts[0][1:])
    if joined != shape or any(part[1:] != shape[1:] for part in parts):
        found = " and ".join(str(list(source.shapes[name])) for name in names)
        wanted = list(shape[::-1] if take.turned else shape)
        raise ModelError(f"tensor {', '.join(names)} has shape {found}, not {wanted}", FIT)
    dtype = np.result_type(*(source.dtypes[name] for name in names))
    return Weight(names, take.turned, shape, dtype)


def read(source: TensorSource, weight: Weight) -> np.ndarray:
    """A weight's array, products [out, in]; a view of the file where it can be one."""
    parts = list(map(_whole, _parts(source, weight)))
    return np.concatenate(parts) if parts[1:] else parts[0]


def _parts(source: TensorSource, weight: Weight) -> list[np.ndarray]:
    parts = map(source.read, weight.names)
    return [part.T if weight.turned else part for part in parts]


def load(source: TensorSource, plan: Mapping[str, Weight], n_layer: int, dtype: tf.DType) -> Params:
    """Weights stored in `dtype`, whatever the file's own type is."""
    numpy_dtype = np.dtype(dtype.as_numpy_dtype)
    tensors = {}
    for name, weight in plan.items():
        shape = stored(name, weight.shape, numpy_dtype)
        array, *more = parts = _parts(source, weight)
        if more or array.shape != shape or array.dtype != numpy_dtype or not _usable(array):
            array = _joined(parts, weight.shape, shape, numpy_dtype)
        tensors[name] = _tensor(array)
    return nested(tensors, n_layer)


def _usable(array: np.ndarray) -> bool:
    """Whether TensorFlow can compute on the array's own memory."""
    flags = array.flags
    return flags.c_contiguous and flags.writeable and array.ctypes.data % ALIGNED == 0


def _joined(
    parts: list[np.ndarray], shape: tuple[int, ...], kept: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """Arrays one after another in one of another type, `kept` in slabs. Its memory is numpy's,
    which asks for huge pages: TensorFlow's own takes 8 microseconds for every 4 kB when it is
    first written."""
    space = np.empty(math.prod(shape) * dtype.itemsize + ALIGNED, np.uint8)
    start = -space.ctypes.data % ALIGNED
    whole = space[start : start + len(space) - ALIGNED].view(dtype).reshape(kept)
    rows = whole if kept == shape else whole.swapaxes(0, 1)  # [out, C, in/C]
    row = 0
    for found in parts:
        part = _whole(found)
        step = max(1, PIECE // max(1, math.prod(part.shape[1:])))
        for first in range(0, len(part), step):
            piece = part[first : first + step]
            if piece.dtype != dtype:
                piece = tf.cast(tf.constant(piece), dtype).numpy()
            rows[row : row + len(piece)] = piece.reshape(len(piece), *rows.shape[1:])
            row += len(piece)
        forget(found)
    return whole


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor on the array's memory, which on a CPU may be a file's map; numpy has no bfloat16 of
    its own to hand over."""
    if array.size == 0 or tf.config.list_logical_devices("GPU"):
        return tf.constant(array)
    bits: Any = array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array
    tensor = tf.experimental.dlpack.from_dlpack(bits.__dlpack__())
    return tf.bitcast(tensor, tf.as_dtype(array.dtype))


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
