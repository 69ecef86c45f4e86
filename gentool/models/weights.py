"""A checkpoint's arrays to a family's Params: every parameter is filled, every tensor used or known
to be no weight, every shape checked before memory is taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf

from gentool.checkpoints import TensorSource
from gentool.config import Arch
from gentool.errors import ModelError
from gentool.models.layers import Tensor
from gentool.models.names import Take, choose, own
from gentool.models.transformer import Params

FLOATS = {np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)}
FIT = "the YAML's family and arch must fit the weights"


def plan(source: TensorSource, family: ModuleType, arch: Arch) -> dict[str, Take]:
    """For every weight, by our name (those of layer i begin with layers.i.), the tensors it is made
    of: all there, all of the right shape and of floats, and none left over that is not known."""
    top = family.top_tensors(arch)
    layers = [family.layer_tensors(arch, index) for index in range(arch.n_layer)]
    names = {name for layer in layers for name in layer}
    dialect = choose({"gentool": own(top, names)} | family.DIALECTS, source.shapes)
    if dialect is None:
        some = ", ".join(sorted(source.shapes)[:3])
        raise ModelError(f"no tensor is the embedding of a known dialect (found: {some} …)", FIT)
    found = {name: dialect.top[name] for name in top}
    shapes = dict(top)
    for index, layer in enumerate(layers):
        for name, shape in layer.items():
            names_there, turned = dialect.layer[name]
            place = tuple(template.format(i=index) for template in names_there)
            found[f"layers.{index}.{name}"] = Take(place, turned)
            shapes[f"layers.{index}.{name}"] = shape
    for name, take in found.items():
        _check(source, take, shapes[name])
    used = {name for take in found.values() for name in take.names}
    left_over = sorted(n for n in source.shapes.keys() - used if not re.search(dialect.ignored, n))
    if left_over:
        raise ModelError(f"tensor {left_over[0]} belongs nowhere ({len(left_over)} left over)", FIT)
    return found


def _check(source: TensorSource, take: Take, shape: tuple[int, ...]) -> None:
    """That the tensors are there and make a weight of this shape."""
    parts = []
    for name in take.names:
        if name not in source.shapes:
            raise ModelError(f"tensor {name} is missing", FIT)
        if source.dtypes[name] not in FLOATS:
            raise ModelError(
                f"tensor {name} holds {source.dtypes[name]}",
                "quantised weights are not read: get those in float16, bfloat16 or float32",
            )
        parts.append(source.shapes[name][::-1] if take.turned else source.shapes[name])
    joined = (sum(part[0] for part in parts if part), *parts[0][1:])
    if joined != shape or any(part[1:] != shape[1:] for part in parts):
        found = " and ".join(str(list(source.shapes[name])) for name in take.names)
        wanted = list(shape[::-1] if take.turned else shape)
        raise ModelError(f"tensor {', '.join(take.names)} has shape {found}, not {wanted}", FIT)


def read(source: TensorSource, take: Take) -> np.ndarray:
    """A weight as `plan` found it, products [out, in]; a view of the file where it can be one."""
    parts = [source.read(name) for name in take.names]
    parts = [part.T if take.turned else part for part in parts]
    return np.concatenate(parts) if parts[1:] else parts[0]


def load(source: TensorSource, family: ModuleType, arch: Arch, dtype: tf.DType) -> Params:
    """Weights stored in `dtype`, whatever the file's own type is."""
    found = plan(source, family, arch).items()
    return nested({name: _tensor(read(source, take), dtype) for name, take in found}, arch.n_layer)


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


def _tensor(array: np.ndarray, dtype: tf.DType) -> Tensor:
    """A tensor in `dtype`. On a CPU it lies where the array does, which may be a file's map, if
    type and place allow it: TensorFlow wants 64 bytes of alignment, and numpy no bfloat16."""
    here = array.flags.c_contiguous and array.flags.writeable and array.ctypes.data % 64 == 0
    if not here or array.size == 0 or tf.config.list_logical_devices("GPU"):
        return tf.cast(tf.constant(array), dtype)
    bits: Any = array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array
    tensor = tf.experimental.dlpack.from_dlpack(bits.__dlpack__())
    return tf.cast(tf.bitcast(tensor, tf.as_dtype(array.dtype)), dtype)
