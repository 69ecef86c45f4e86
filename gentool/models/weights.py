"""A checkpoint's arrays to a family's Params: every parameter is filled, every tensor used or known
to be no weight, every shape checked before memory is taken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import tensorflow as tf

from gentool.checkpoints import TensorSource
from gentool.config import Arch
from gentool.errors import ModelError
from gentool.models.names import Dialect, Take, choose, own
from gentool.models.transformer import Params

FIT = "the YAML's family and arch must fit the weights"


def load(source: TensorSource, family: ModuleType, arch: Arch, dtype: tf.DType) -> Params:
    """Weights stored in `dtype`, whatever the file's own type is."""
    top, layer = family.top_tensors(arch), family.layer_tensors(arch)
    dialect = choose({"gentool": own(top, layer)} | family.DIALECTS, source.shapes)
    if dialect is None:
        some = ", ".join(sorted(source.shapes)[:3])
        raise ModelError(f"no tensor is the embedding of a known dialect (found: {some} …)", FIT)
    _check(source, dialect, arch, top, layer)

    def read(found: Take, index: int) -> tf.Tensor:
        parts = [source.read(name.format(i=index)) for name in found.names]
        parts = [part.T if found.turned else part for part in parts]
        return tf.cast(tf.constant(np.concatenate(parts) if parts[1:] else parts[0]), dtype)

    layers = tuple(
        {name: read(dialect.layer[name], index) for name in layer} for index in range(arch.n_layer)
    )
    return Params({name: read(dialect.top[name], 0) for name in top}, layers)


def _check(
    source: TensorSource,
    dialect: Dialect,
    arch: Arch,
    top: dict[str, tuple[int, ...]],
    layer: dict[str, tuple[int, ...]],
) -> None:
    """That the tensors are those wanted, each of its shape."""
    used = set()
    for names, shape in _wanted(dialect, arch, top, layer):
        parts = []
        for name in names.names:
            if name not in source.shapes:
                raise ModelError(f"tensor {name} is missing", FIT)
            used.add(name)
            parts.append(source.shapes[name][::-1] if names.turned else source.shapes[name])
        joined = (sum(part[0] for part in parts if part), *parts[0][1:])
        if joined != shape or any(part[1:] != shape[1:] for part in parts):
            found = " and ".join(str(list(source.shapes[name])) for name in names.names)
            wanted = list(shape[::-1] if names.turned else shape)
            raise ModelError(
                f"tensor {', '.join(names.names)} has shape {found}, not {wanted}", FIT
            )
    left_over = sorted(n for n in source.shapes.keys() - used if not re.search(dialect.ignored, n))
    if left_over:
        raise ModelError(f"tensor {left_over[0]} belongs nowhere ({len(left_over)} left over)", FIT)


def _wanted(
    dialect: Dialect,
    arch: Arch,
    top: dict[str, tuple[int, ...]],
    layer: dict[str, tuple[int, ...]],
) -> Iterator[tuple[Take, tuple[int, ...]]]:
    """Every weight's tensors by their own names, and the shape they make."""
    for name, shape in top.items():
        yield dialect.top[name], shape
    for index in range(arch.n_layer):
        for name, shape in layer.items():
            found = dialect.layer[name]
            names = tuple(template.format(i=index) for template in found.names)
            yield Take(names, found.turned), shape
