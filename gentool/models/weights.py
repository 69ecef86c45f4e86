"""A checkpoint's arrays to a family's Params: every parameter is filled, every tensor used, every
shape checked before memory is taken."""

from __future__ import annotations

from types import ModuleType

import tensorflow as tf

from gentool.checkpoints import TensorSource
from gentool.config import Arch
from gentool.errors import ModelError
from gentool.models.transformer import Params


def load(source: TensorSource, family: ModuleType, arch: Arch, dtype: tf.DType) -> Params:
    """Weights stored in `dtype`, whatever the file's own type is."""
    top, layer = family.top_tensors(arch), family.layer_tensors(arch)
    wanted = dict(top)
    for index in range(arch.n_layer):
        wanted |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    for name, shape in wanted.items():
        found = source.shapes.get(name)
        if found is None:
            raise ModelError(f"tensor {name} is missing", "the YAML's arch must fit the weights")
        if found != shape:
            raise ModelError(
                f"tensor {name} has shape {list(found)}, not {list(shape)}",
                "the YAML's arch must fit the weights",
            )
    if left_over := sorted(source.shapes.keys() - wanted.keys()):
        raise ModelError(
            f"tensor {left_over[0]} belongs nowhere ({len(left_over)} left over)",
            "the YAML's arch must fit the weights",
        )

    def read(name: str) -> tf.Tensor:
        return tf.cast(tf.constant(source.read(name)), dtype)

    layers = tuple(
        {name: read(f"layers.{index}.{name}") for name in layer} for index in range(arch.n_layer)
    )
    return Params({name: read(name) for name in top}, layers)
